"""Trade-off curves of several methods between a source and a target task, compared by two measures.

J. Lee et al., "Residual Continual Learning" (AAAI 2020): a method's own option trades the accuracy of the source task
for that of the target task, so what is compared are curves over it; see `engram.protocols.tradeoff`.

A trade-off's folder holds ``tradeoff.json``, ``report.html`` and a folder a method: that of an ordinary sweep over the
option, or, for a method without one, that of an ordinary run. What is finished there is never run again, and what the
runs of a curve begin with is learned once.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engram.errors import ConfigError
from engram.recipes import chosen_recipe
from engram.studies import tradeoff_file
from engram.studies.axes import axes_of
from engram.studies.comparison import Outcome, Problem, _folder, variant
from engram.studies.processes import Event, Listener, default_jobs
from engram.studies.settings import VALID_FRACTION, DataSettings, Job, NetworkSettings, prepare
from engram.studies.sharing import run_shared
from engram.studies.sweep_plan import found_device
from engram.studies.tradeoff_parts import DIVERGED, Part, part
from engram.studies.tradeoff_plan import FINETUNE, POINTS, RECIPE, WIDEN, Plan, checked_grid

__all__ = ["Plan", "TradeoffOutcome", "execute", "tradeoff"]


@dataclass
class TradeoffOutcome(Outcome):
    """What came of a trade-off: as `engram.studies.comparison.Outcome`, and the content of ``tradeoff.json``.

    A setting whose training diverged is a point that is left out, not a failure.
    """

    tradeoff: dict[str, Any] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 every method has a point; 1 a worker died; 2 a method has none; 130 interrupted."""
        if self.interrupted:
            return 130
        if any(not p.expected for p in self.problems):
            return 1
        return 0 if all(m["m1"] for m in self.tradeoff["methods"]) else 2


def tradeoff(
    methods: Sequence[str],
    source: str | None = None,
    target: str | None = None,
    *,
    out: str | os.PathLike[str],
    data: Mapping[str, Any] | None = None,
    network: NetworkSettings | str | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    over: Mapping[str, Mapping[str, Sequence[Any]]] | None = None,
    points: int = POINTS,
    widen: int = WIDEN,
    required: Sequence[float] = (),
    recipe: str | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    device: str = "auto",
    jobs: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> TradeoffOutcome:
    """Draw the trade-off curves of several methods between two data sets, and measure them.

    Args:
        methods: names or variants such as ``"lwf:temperature_squared=true"``; fine-tuning is run beside them.
        source, target: names of the data sets, such as ``"mnist:0-4"``; None takes the recipe's.
        out: folder of the trade-off.
        data: further fields of `DataSettings`, on top of the recipe's.
        network: settings or a name; None for the recipe's, or the one that fits.
        options: by method name, on top of the recipe's.
        over: by method name, one option and its values, at least three; other methods get a grid.
        points: values of a logarithmic grid over four decades.
        widen: most decades that are added at an end that is not saturated.
        required: further required target accuracies, in percent.
        recipe: a name, ``"none"``, or None for ``tradeoff-small``.
        seeds: distinct integers >= 0; a source network each.
        device: cpu, cuda, or auto for cuda where there is an accelerator.
        jobs, resume, overwrite, listener: as for `engram.studies.comparison`.

    Returns:
        The content of ``tradeoff.json``, the page, and what went wrong.

    Raises:
        EngramError: whatever can be known before training; nothing in ``out`` has been touched then.
    """
    chosen = chosen_recipe(recipe or RECIPE, "")
    if network is None and chosen is not None:
        network = NetworkSettings(chosen.network, chosen.network_options)
    elif not isinstance(network, NetworkSettings):
        network = NetworkSettings(network)
    merged = {m: dict(o) for m, o in (chosen.methods if chosen else {}).items()}
    for name, values in (options or {}).items():
        merged.setdefault(name, {}).update(values)
    named, beside = with_finetune(methods)
    grids = {}
    for name, given in (over or {}).items():
        if len(given) != 1:
            raise ConfigError(f"over must name one option of {name}, got {', '.join(given) or 'none'}.")
        grids[name] = checked_grid(name, axes_of(name, given)[0])
    fields = {"valid_fraction": VALID_FRACTION, **(chosen.data if chosen else {}), **(data or {})}
    plan = Plan(
        tuple(variant(text, merged.get(text.partition(":")[0])) for text in named),
        settings_of(source, target, fields),
        network,
        grids,
        points,
        widen,
        tuple(float(tau) for tau in required),
        beside,
        tuple(seeds),
        found_device(device),
        jobs,
        resume,
        overwrite,
        chosen.name if chosen else None,
    )
    return execute(plan, Path(out), listener=listener)


def with_finetune(methods: Sequence[str]) -> tuple[list[str], bool]:
    """The methods with fine-tuning among them, and whether it was added."""
    if not methods:
        raise ConfigError("methods must be named, got none: see engram list.")
    return (list(methods), False) if FINETUNE in methods else ([*methods, FINETUNE], True)


def settings_of(source: str | None, target: str | None, fields: Mapping[str, Any]) -> DataSettings:
    """The data settings of a pair; what is not named comes from ``fields["data"]``, if that is a pair.

    Raises:
        ConfigError: there are not exactly two data sets.
    """
    pair = str(fields.get("data", "")).split("+")
    if source is None or target is None:
        if len(pair) != 2:
            raise ConfigError(
                "source and target must be given where the recipe names no pair of data sets, got "
                f"{fields.get('data', 'none')}: give for example --source mnist:0-4 --target mnist_m:5-9."
            )
        source, target = source or pair[0], target or pair[1]
    for name, value in (("source", source), ("target", target)):
        if "+" in value:
            raise ConfigError(f"{name} must be one data set, got {value}: a trade-off is between two tasks.")
    if fields.get("scenario", "task") != "task":
        raise ConfigError(
            f"scenario must be left out, a trade-off has task labels, got {fields['scenario']!r}: leave it out."
        )
    return DataSettings(**{**fields, "data": f"{source}+{target}", "scenario": "task"})


def execute(plan: Plan, out: Path, *, listener: Listener | None = None) -> TradeoffOutcome:
    """`tradeoff`, all names resolved."""
    from engram.report import write_report

    plan.check()
    stream, _ = prepare(plan.data, plan.network)
    parts = [part(member, plan, out) for member in plan.members(stream.tasks[1].n_train)]
    for one in parts:
        one.check()
    given = tradeoff_file.head(plan, parts[0].skeleton)
    labels = {one.member.label for one in parts}
    earlier = [
        entry
        for entry in tradeoff_file.check_folder(out, given, overwrite=plan.overwrite)
        if entry["label"] not in labels
    ]
    outcome = TradeoffOutcome(out)
    with contextlib.ExitStack() as stack:
        handles = [stack.enter_context(_folder(out))]
        queue = _Queue(plan, out, parts, handles, listener, lambda: _write(out, given, parts, earlier))
        for one in parts:
            handles.append(stack.enter_context(_folder(one.folder)))
            queue.jobs += one.open(handles[-1])
        queue.write()
        try:
            while queue.jobs:
                queue.run()
                queue.jobs = [job for one in parts for job in _wider(one, queue.write())]
        except KeyboardInterrupt:
            outcome.interrupted = True
        for one in parts:
            one.close()
        outcome.tradeoff = queue.write()
        outcome.kept = [name for one in parts for name in one.kept]
        outcome.problems = [p for one in parts for p in _named(one)]
        if not outcome.interrupted:
            outcome.report = write_report(out)
    return outcome


def _write(
    out: Path, given: Mapping[str, Any], parts: Iterable[Part], earlier: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    return tradeoff_file.write(out, given, [*(one.describe() for one in parts), *earlier])


def _wider(one: Part, stored: Mapping[str, Any]) -> list[Job]:
    """Jobs at the ends of a curve that are not saturated; none at an end that diverged or is not known."""
    entry = next(m for m in stored["methods"] if m["label"] == one.member.label)
    ends = entry["saturated"]
    if ends is None:
        return []
    first, last = entry["points"][0], entry["points"][-1]
    return one.wider(
        plastic=not ends["plastic"] and first["status"] == "done",
        stable=not ends["stable"] and last["status"] == "done",
    )


def _named(one: Part) -> list[Problem]:
    """What went wrong in a part, but for points that diverged, which stand in the table."""
    single = one.member.option is None
    return [
        p if single else replace(p, label=f"{one.member.label} {p.label}")
        for p in one.problems
        if single or not p.message.startswith(DIVERGED)
    ]


class _Queue:
    """The jobs of all methods side by side; each part hears its own, the listener hears all."""

    def __init__(
        self,
        plan: Plan,
        out: Path,
        parts: Sequence[Part],
        handles: list[int],
        listener: Listener | None,
        write: Any,
    ) -> None:
        self.plan, self.out, self.parts, self.handles = plan, out, parts, handles
        self.listener, self.write = listener, write
        self.jobs: list[Job] = []

    def run(self) -> None:
        """Run the jobs, those of the longest method first."""
        owner = {one.folder: one for one in self.parts}

        def of(job: Job) -> Part | None:
            return next((owner[p] for p in Path(job.folder).parents if p in owner), None)

        def weight(job: Job) -> tuple[int, int]:
            one = of(job)
            return (0, 0) if one is None else one.weight

        def heard(event: Event) -> None:
            one = of(event.job)
            if one is not None:
                one.note(event)
                if event.kind in ("done", "failed"):
                    self.write()
            if self.listener is not None:
                # Trials of two methods may have one name.
                label = event.job.label
                if one is not None and one.member.option is not None:
                    label = f"{one.member.label} {label}"
                self.listener(replace(event, job=replace(event.job, label=label)))

        jobs = sorted(self.jobs, key=weight, reverse=True)
        limit = self.plan.jobs or default_jobs(self.plan.device)
        run_shared(jobs, limit, heard, root=self.out, starts=self.listener, keep_open=self.handles)
