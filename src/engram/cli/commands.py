"""``engram run``, ``compare``, ``sweep`` and ``tradeoff``: from a command line to a study and its end.

What is imported inside functions loads torch or starts with a run, and is not needed for help and errors.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from engram.cli import ending
from engram.cli.command_line import Asked, Sweep, Tradeoff, read
from engram.core.options import split_variant
from engram.errors import ConfigError
from engram.methods.registry import about
from engram.studies.settings import DataSettings


def main(command: str, words: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    asked = read(command, words)
    if asked is None:
        return 0
    return {"sweep": _sweep, "tradeoff": _tradeoff}.get(command, _learn)(asked, [command, *words])


def _learn(asked: Asked, argv: Sequence[str]) -> int:
    from engram.studies.comparison import execute, variant
    from engram.studies.folders import folder_name

    options, data = asked.options, DataSettings(**asked.data)
    methods = [variant(text, asked.methods[split_variant(text)[0]]) for text in asked.names]
    said = asked.recipe_words
    if asked.added:
        said += f"beside them, as in the paper: {', '.join(asked.added)} (--alone leaves it out)"
    out = Path(options.out or Path("runs") / folder_name("-".join([*asked.names, Path(data.data).name])))
    with _watched(asked, said.strip()) as progress:
        outcome = execute(
            methods,
            data,
            asked.network,
            seeds=options.seeds,
            out=out,
            nested=argv[0] == "compare",
            device=options.device,
            jobs=options.jobs,
            resume=options.resume,
            overwrite=options.overwrite,
            recipe=asked.recipe.name if asked.recipe else None,
            listener=progress,
        )
    return ending.of_runs(outcome, argv, options.quiet)


def _sweep(asked: Asked, argv: Sequence[str]) -> int:
    from engram.studies.axes import not_both, parse_over
    from engram.studies.sweep import execute
    from engram.studies.sweep_plan import Plan, found_device

    (name,), options, data = asked.names, asked.options, DataSettings(**asked.data)
    assert isinstance(options, Sweep)
    axes = tuple(parse_over(name, options.over))
    for axis in axes:
        if f"--{name}.{axis.name}" in asked.given:
            raise not_both(axis.name)
    plan = Plan(
        name,
        asked.methods[name],
        axes,
        data,
        asked.network,
        options.seeds,
        options.engine,
        options.trials,
        options.sweep_seed,
        options.choose_on,
        options.address,
        found_device(options.device),
        options.jobs,
        options.resume,
        options.overwrite,
        asked.recipe.name if asked.recipe else None,
    )
    out = Path(options.out or Path("runs") / f"sweep-{name}-{Path(data.data).name}")
    said = asked.recipe_words + _held_out(data)
    said += "; on the accelerator found here" if (options.device, plan.device) == ("auto", "cuda") else ""
    with _watched(asked, said) as progress:
        outcome = execute(plan, out, listener=progress)
    return ending.of_sweep(outcome, argv, options.quiet)


def _tradeoff(asked: Asked, argv: Sequence[str]) -> int:
    from engram.studies.comparison import variant
    from engram.studies.sweep_plan import found_device
    from engram.studies.tradeoff import execute, settings_of
    from engram.studies.tradeoff_plan import Plan, parse_grids

    options = asked.options
    assert isinstance(options, Tradeoff)
    grids = parse_grids(options.over)
    _left_open(asked, set(grids))
    plan = Plan(
        tuple(variant(text, asked.methods[split_variant(text)[0]]) for text in asked.names),
        settings_of(
            options.source, options.target, {**(asked.recipe.data if asked.recipe else {}), **asked.data}
        ),
        asked.network,
        grids,
        options.points,
        options.widen,
        options.required,
        bool(asked.added),
        options.seeds,
        found_device(options.device),
        options.jobs,
        options.resume,
        options.overwrite,
        asked.recipe.name if asked.recipe else None,
    )
    source, target = (Path(one).name for one in plan.data.sets)
    out = Path(options.out or Path("runs") / f"tradeoff-{source}-{target}".replace(":", "-"))
    said = asked.recipe_words + _held_out(plan.data)
    said += "\nfinetune is run beside: the required target accuracies come from it" if asked.added else ""
    with _watched(asked, said) as progress:
        outcome = execute(plan, out, listener=progress)
    return ending.of_tradeoff(outcome, argv, options.quiet)


def _left_open(asked: Asked, by_hand: set[str]) -> None:
    """Refuse a value for an option that a curve varies: it would have no effect."""
    for name, values in asked.methods.items():
        option = about(name).tradeoff
        flag = f"--{name}.{option}"
        if flag in asked.given | asked.in_files and option is not None and name not in by_hand:
            raise ConfigError(
                f"{flag} must be left out, the curve of {name} varies it, got {values[option]!r}: give its values "
                f"with --over {name}.{option}=v1,v2,v3."
            )


def _held_out(data: DataSettings) -> str:
    return f"{100 * data.valid_fraction:.3g} % of the training samples are held out as validation samples"


@contextlib.contextmanager
def _watched(asked: Asked, said: str) -> Iterator[Any]:
    """What is going on is shown; a polite kill stops the workers too, as Ctrl-C does."""
    from engram.cli.progress import Progress

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if in_main else None
    try:
        with Progress(
            quiet=asked.options.quiet, headline=said, tensorboard=asked.options.tensorboard
        ) as progress:
            yield progress
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, before)
