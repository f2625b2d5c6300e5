"""``engram run``, ``compare``, ``sweep`` and ``tradeoff``: from a command line to a study and its end.

What is imported inside functions loads torch or starts with a run, and is not needed for help and errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engram.cli import ending
from engram.cli.command_line import Asked, Sweep, Tradeoff, read
from engram.core.values import split_variant
from engram.errors import ConfigError
from engram.methods.registry import about
from engram.studies.folders import folder_name
from engram.studies.settings import DataSettings, Settings
from engram.studies.variants import Variant, variant

if TYPE_CHECKING:
    from engram.studies.study import Study


def main(command: str, words: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    asked = read(command, words)
    if asked is None:
        return 0
    study, said = {"sweep": _sweep, "tradeoff": _tradeoff}.get(command, _comparison)(asked, command)
    from engram.api import conclude  # with numpy, which help does without

    o = asked.options
    track = dict.fromkeys([*o.track, *(["tensorboard"] if o.tensorboard else [])])
    with ending.watched(said, quiet=o.quiet, track=list(track)) as progress:
        outcome = conclude(study, progress)
    return ending.finish(outcome, [command, *words], o.quiet, o.accept_edited)


def _settings(asked: Asked, data: DataSettings, folder: str) -> Settings:
    o = asked.options
    recipe = asked.recipe.name if asked.recipe else None
    if o.out is not None and not o.out.strip():
        raise ConfigError("--out must name a folder, got an empty name: give one, or leave it out.")
    out = Path(o.out or Path("runs") / folder_name(folder))
    return Settings(
        out,
        data,
        asked.network,
        o.seeds,
        o.device,
        o.jobs,
        o.resume,
        o.overwrite,
        recipe,
        features=asked.features,
        accept_edited=o.accept_edited,
        compile=o.compile,
        precision=o.precision,
    )


def _variants(asked: Asked, folder: str | None = None) -> list[Variant]:
    return [
        variant(text, asked.methods[split_variant(text)[0]], folder=folder, of_features=asked.of_features)
        for text in asked.names
    ]


def _comparison(asked: Asked, command: str) -> tuple[Study, str]:
    from engram.studies.study import Comparison  # as above

    data = DataSettings(**asked.data)
    settings = _settings(asked, data, "-".join([*asked.names, Path(data.data).name]))
    said = asked.recipe_words
    if asked.added:
        said += f"beside them, as in the paper: {', '.join(asked.added)} (--alone leaves it out)"
    return Comparison(settings, _variants(asked, "." if command == "run" else None)), said.strip()


def _sweep(asked: Asked, command: str) -> tuple[Study, str]:
    # As above.
    from engram.api import sweep_study
    from engram.studies.axes import not_both, parse_over

    (name,), options, data = asked.names, asked.options, DataSettings(**asked.data)
    assert isinstance(options, Sweep)
    axes = parse_over(name, options.over)
    for axis in axes:
        if f"--{name}.{axis.name}" in asked.given:
            raise not_both(axis.name)
    swept = {axis.name for axis in axes}
    study = sweep_study(
        _settings(asked, data, f"sweep-{name}-{Path(data.data).name}"),
        name,
        axes,
        {k: v for k, v in asked.methods[name].items() if k not in swept},
        options.engine,
        options.trials,
        sweep_seed=options.sweep_seed,
        choose_on=options.choose_on,
        address=options.address,
    )
    return study, asked.recipe_words + _held_out(data)


def _tradeoff(asked: Asked, command: str) -> tuple[Study, str]:
    from engram.studies import tradeoff  # as above

    options = asked.options
    assert isinstance(options, Tradeoff)
    grids = tradeoff.parse_grids(options.over)
    _left_open(asked, set(grids))
    fields = {**(asked.recipe.data if asked.recipe else {}), **asked.data}
    data = tradeoff.pair_of(options.source, options.target, fields)
    study = tradeoff.Tradeoff(
        _settings(asked, data, "-".join(["tradeoff", *(Path(one).name for one in data.sets)])),
        _variants(asked),
        grids=grids,
        points=options.points,
        widen=options.widen,
        required=options.required,
        beside=bool(asked.added),
    )
    said = asked.recipe_words + _held_out(data)
    said += "\nfinetune is run beside: the required target accuracies come from it" if asked.added else ""
    return study, said


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
