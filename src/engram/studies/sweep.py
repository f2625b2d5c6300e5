"""A sweep: one method with several values of its options, and the choice of one of them on validation data.

A sweep's folder holds ``sweep.json`` (all trials, their scores, the choice and what data made it), ``report.html``, and
``trials/NAME=value/``, each a run's folder. A trial is named by its options and its identity is (options, seed):
a finished one is never run again, whichever engine or process finished it. Trials of a grid that differ in the
method's trade-off option only learn what comes before it matters once (:mod:`engram.studies.sharing`), in ``shared/``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from engram.recipes import chosen_recipe
from engram.studies import planning, sweep_file
from engram.studies.axes import axes_of, grid, not_both, trial_folder, trial_name
from engram.studies.comparison import Book, Outcome, Problem, _folder
from engram.studies.processes import Event, Listener, default_jobs, run_jobs
from engram.studies.results import TRIALS, read_result
from engram.studies.rules import Rule, rule
from engram.studies.settings import VALID_FRACTION, DataSettings, Job, NetworkSettings
from engram.studies.sharing import run_shared
from engram.studies.sweep_plan import Engine, Plan, found_device

__all__ = ["Plan", "SweepOutcome", "execute", "sweep"]


@dataclass
class SweepOutcome(Outcome):
    """What came of a sweep: as `engram.studies.comparison.Outcome`, and the content of ``sweep.json``.

    A trial whose training diverged is a result of the sweep; it lies in ``problems`` and makes the exit status 2
    only when no trial could be chosen.
    """

    sweep: dict[str, Any] = field(default_factory=dict)

    @property
    def chosen(self) -> dict[str, Any] | None:
        """The entry of the chosen trial: ``name``, ``options``, ``score``, ``data``; None where none finished."""
        found: dict[str, Any] | None = self.sweep.get("chosen")
        return found

    @property
    def exit_code(self) -> int:
        """0 something was chosen and no worker died; else as of a comparison."""
        if not self.interrupted and self.chosen and all(p.expected for p in self.problems):
            return 0
        return super().exit_code


def sweep(
    method: str,
    over: Mapping[str, Sequence[Any] | str],
    data: DataSettings | str | None = None,
    network: NetworkSettings | str | None = None,
    *,
    out: str | os.PathLike[str],
    options: Mapping[str, Any] | None = None,
    recipe: str | None = None,
    seeds: Sequence[int] = (0,),
    engine: Engine = "grid",
    trials: int | None = None,
    sweep_seed: int = 0,
    choose_on: str | None = None,
    address: str | None = None,
    device: str = "auto",
    jobs: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> SweepOutcome:
    """Learn one stream with several values of a method's options, and choose among them on validation data.

    Args:
        method: a registered name.
        over: by option, the values to try, or a range such as ``"0.001..10:log"`` for engine optuna.
        data: settings, or the name of the data; None takes the recipe's, else digits. Without a valid_fraction it
            becomes 0.1.
        network: settings or a name; None for the one that fits.
        out: folder of the sweep.
        options: of the method, on top of the recipe's.
        recipe: a name, ``"none"``, or None for the data's default recipe.
        seeds: distinct integers >= 0, of every trial.
        engine: grid, optuna (TPE with median pruning), or ray (the grid on a Ray cluster).
        trials: number of trials of optuna.
        sweep_seed: of optuna's sampler.
        choose_on: ``first_tasks:K``, ``valid_current`` or ``valid_all``; None is ``first_tasks:3``.
        address: of a Ray cluster; None starts one on this machine.
        device: cpu, cuda, or auto for cuda where there is an accelerator.
        jobs, resume, overwrite, listener: as for `engram.studies.comparison`.

    Returns:
        The trials' results, the choice, the page, and what went wrong.

    Raises:
        EngramError: whatever can be known before training; nothing in ``out`` has been touched then.
    """
    from engram.methods.registry import check_name

    check_name(method)
    name = data.data if isinstance(data, DataSettings) else data
    chosen = chosen_recipe(recipe, name or "digits") if name or not recipe else chosen_recipe(recipe, "")
    if not isinstance(data, DataSettings):
        fields = {"valid_fraction": VALID_FRACTION, **(chosen.data if chosen else {})}
        data = DataSettings(**{**fields, **({"data": data} if data else {})})
    if network is None and chosen is not None:
        network = NetworkSettings(chosen.network, chosen.network_options)
    elif not isinstance(network, NetworkSettings):
        network = NetworkSettings(network)
    axes = tuple(axes_of(method, over))
    for axis in axes:
        if axis.name in (options or {}):
            raise not_both(axis.name)
    base = {**(chosen.methods.get(method, {}) if chosen else {}), **(options or {})}
    plan = Plan(
        method,
        base,
        axes,
        data,
        network,
        tuple(planning.check_seeds(seeds)),
        engine,
        trials,
        sweep_seed,
        choose_on,
        address,
        found_device(device),
        jobs,
        resume,
        overwrite,
        chosen.name if chosen else None,
    )
    return execute(plan, Path(out), listener=listener)


def execute(plan: Plan, out: Path, *, listener: Listener | None = None) -> SweepOutcome:
    """`sweep`, all names resolved."""
    from engram.report import write_report

    plan.check()
    sweep_file.check_folder(out)
    first = [(a.values[0] if a.values else (int(a.low) if a.whole else a.low)) for a in plan.axes]
    probe = _works(plan, out, [dict(zip([a.name for a in plan.axes], first, strict=True))], known=True)[0]
    choose = rule(plan.choose_on, len(probe.skeleton["tasks"]))
    head = sweep_file.head(plan, probe, choose)
    if plan.overwrite:
        sweep_file.check_ours(out)
    else:
        sweep_file.check_same(out, head)
    values = None if plan.engine == "optuna" else grid(plan.axes)
    if values is not None:
        _works(plan, out, values)  # every trial is checked before any is started
    if plan.engine == "ray":
        from engram.studies.ray_engine import connect

        connect(plan.address, plan.jobs or default_jobs(plan.device), plan.device)
    outcome = SweepOutcome(out)
    with _folder(out) as handle:
        if plan.overwrite:
            sweep_file.clear(out)
        state = State(plan, out, choose, head, outcome, listener, handle)
        state.write()
        try:
            if values is not None:
                state.run(state.open(values), run=_runner(plan, out, listener))
            else:
                from engram.studies.optuna_engine import drive

                drive(state)
        except KeyboardInterrupt:
            outcome.interrupted = True
        finally:
            if plan.engine == "ray":
                from engram.studies.ray_engine import leave

                leave()
        outcome.results = [book.close() for book in state.books.values()]
        outcome.sweep = state.write()
        if not outcome.interrupted:
            outcome.report = write_report(out)
    return outcome


def _runner(plan: Plan, out: Path, listener: Listener | None) -> Any:
    if plan.engine == "ray":
        from engram.studies.ray_engine import run_on_ray

        return run_on_ray
    return partial(run_shared, root=out, starts=listener)


def _works(
    plan: Plan, out: Path, trials: Sequence[Mapping[str, Any]], *, known: bool = False
) -> list[planning.Work]:
    """Trials checked and ready; ``known`` looks at no folder."""
    return planning.make(
        [(trial_name(values), plan.spec(values)) for values in trials],
        plan.data,
        plan.network,
        seeds=plan.seeds,
        out=out / TRIALS,
        nested=True,
        device=plan.device,
        resume=plan.resume and not known,
        overwrite=plan.overwrite or known,
        recipe=plan.recipe,
        record_valid=True,
        folder_name=trial_folder,
    )


class State:
    """A sweep in progress: its trials' books and ``sweep.json``."""

    def __init__(
        self,
        plan: Plan,
        out: Path,
        choose: Rule,
        head: Mapping[str, Any],
        outcome: SweepOutcome,
        listener: Listener | None,
        handle: int,
    ) -> None:
        self.plan, self.out, self.rule, self.head = plan, out, choose, head
        self.outcome, self.listener, self.handle = outcome, listener, handle
        self.books: dict[str, Book] = {}
        self.trials: dict[str, dict[str, Any]] = {}

    def open(self, values: Sequence[Mapping[str, Any]], *, over: bool = False) -> list[Job]:
        """Make trials ready; the jobs that are left, those of one seed together. None of trials that are over."""
        values = [v for v in values if trial_name(v) not in self.books]
        works = _works(self.plan, self.out, values, known=over) if values else []
        todo: list[Job] = []
        for work, options in zip(works, values, strict=True):
            ended = over or work.state == "finished"
            book = Book(work, overwrite=False)
            if not ended:
                book.open()
            self.books[work.label] = book
            self.trials[work.label] = {"folder": f"{TRIALS}/{work.folder.name}", "options": dict(options)}
            if ended:
                self.outcome.kept.append(work.label)
                stored = read_result(work.folder)["seeds"]
                book.entries = {s["seed"]: s for s in stored if s["seed"] in self.plan.seeds}
            todo += book.todo
        self.write()
        return sorted(todo, key=lambda job: self.plan.seeds.index(job.seed))

    def run(self, todo: Sequence[Job], *, run: Any = run_jobs, heard: Any = None, **more: Any) -> None:
        """Run jobs; ``heard`` is told each event after it was noted."""

        def note(event: Event) -> None:
            self.note(event)
            if heard is not None:
                heard(event)
            if self.listener is not None:
                self.listener(event)

        limit = self.plan.jobs or default_jobs(self.plan.device)
        run(todo, limit, note, keep_open=[self.handle], **more)

    def note(self, event: Event) -> None:
        """Keep what an event says about a trial; write ``sweep.json`` when a seed ends."""
        self.books[event.job.label].note(event)
        if event.kind == "failed":
            job, said = event.job, event.data
            self.outcome.problems.append(Problem(job.label, job.seed, said["message"], said["expected"]))
        if event.kind in ("done", "failed"):
            self.write()

    def write(self) -> dict[str, Any]:
        """``sweep.json`` as it stands."""
        entries = {label: book.entries for label, book in self.books.items()}
        trials = dict(sorted(self.trials.items(), key=lambda item: item[1].get("numbers", [])))
        return sweep_file.write(self.out, self.head, self.rule, trials, entries)
