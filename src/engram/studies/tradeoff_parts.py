"""The parts of a trade-off: an ordinary sweep for a method with a curve, an ordinary run for one without.

A part is checked without touching a file, then opened; it hears the events of its jobs, whoever runs them, and tells
its points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from engram.errors import EngramError
from engram.studies import folders, planning, sweep_file
from engram.studies.axes import axes_of, trial_folder, trial_name
from engram.studies.comparison import Book, Problem
from engram.studies.processes import Event
from engram.studies.results import SWEEP_FILE, TRIALS, read_result
from engram.studies.rules import rule
from engram.studies.settings import Job, plain
from engram.studies.sweep import State, SweepOutcome, _works
from engram.studies.sweep_plan import Plan as SweepPlan
from engram.studies.tradeoff_plan import Member, Plan

__all__ = ["Part", "Run", "Sweep", "part"]

DIVERGED = "losses and parameters must be finite"  # how the message of a DivergedError begins


class Part:
    """One method of a trade-off.

    Args:
        member: the method and what is varied.
        plan: of the trade-off.
        out: the folder of the trade-off.
    """

    def __init__(self, member: Member, plan: Plan, out: Path) -> None:
        self.member, self.plan = member, plan
        self.folder = out / folders.folder_name(member.label)
        self.problems: list[Problem] = []
        self.kept: list[str] = []
        self.skeleton: Mapping[str, Any] = {}
        self.weight = (0, member.epochs)

    def check(self) -> None:
        """Everything that can be checked without training; touches no file. Raises ``EngramError``."""
        raise NotImplementedError

    def open(self, handle: int) -> list[Job]:
        """Make the folder ready; the jobs that are left. ``handle`` locks the folder."""
        raise NotImplementedError

    def note(self, event: Event) -> None:
        """Keep what an event says."""
        raise NotImplementedError

    def wider(self, plastic: bool, stable: bool) -> list[Job]:
        """Jobs of one further decade at the ends that are named."""
        return []

    def points(self) -> list[dict[str, Any]]:
        """The points as they stand, by value, with the accuracies of each seed."""
        raise NotImplementedError

    def close(self) -> None:
        """Leave complete files."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """The entry of this method in ``tradeoff.json``, without what follows from its points."""
        m = self.member
        return {
            "label": m.label,
            "method": m.spec.name,
            "folder": self.folder.name,
            "option": m.option,
            "scale": None if m.option is None else m.scale,
            "centre": m.centre,
            "options": plain(m.options),
            "facts": self.skeleton.get("facts") or {},
            "points": self.points(),
        }


def part(member: Member, plan: Plan, out: Path) -> Part:
    """The part of one method."""
    return (Run if member.option is None else Sweep)(member, plan, out)


class Run(Part):
    """A method without a trade-off: the folder of a run, one point."""

    def check(self) -> None:
        p = self.plan
        (self.work,) = planning.make(
            [(self.member.label, self.member.spec)],
            p.data,
            p.network,
            seeds=p.seeds,
            out=self.folder,
            nested=False,
            device=p.device,
            resume=p.resume,
            overwrite=p.overwrite,
            recipe=p.recipe,
            record_valid=True,
        )
        if p.overwrite:
            folders.check_ours(self.folder, [self.folder])
        self.skeleton = self.work.skeleton
        self.weight = (self.work.weight, self.member.epochs)

    def open(self, handle: int) -> list[Job]:
        self.book = Book(self.work, self.plan.overwrite)
        self.book.open()
        if self.work.state == "finished":
            self.kept = [self.member.label]
            self.book.entries = {s["seed"]: s for s in read_result(self.folder)["seeds"]}
        return self.book.todo

    def note(self, event: Event) -> None:
        self.book.note(event)
        if event.kind == "failed":
            job, said = event.job, event.data
            self.problems.append(Problem(job.label, job.seed, said["message"], said["expected"]))

    def points(self) -> list[dict[str, Any]]:
        entries = [self.book.entries[s] for s in self.plan.seeds if s in self.book.entries]
        return [_point(self.member.label, None, ".", entries, self.plan.seeds)]

    def close(self) -> None:
        self.book.close()


class Sweep(Part):
    """A method with a trade-off: the folder of a sweep over its option.

    Values that the folder holds from an earlier call stay on the curve. A trial of which every seed finished or
    diverged is not run again: a run is a function of its settings and seed.
    """

    def check(self) -> None:
        m, p = self.member, self.plan
        sweep_file.check_folder(self.folder)
        values = self._united(m.values)
        self.sweep = SweepPlan(
            m.spec.name,
            m.options,
            tuple(axes_of(m.spec.name, {str(m.option): values})),
            p.data,
            p.network,
            p.seeds,
            choose_on="valid_all",
            device=p.device,
            jobs=p.jobs,
            resume=p.resume,
            overwrite=p.overwrite,
            recipe=p.recipe,
        )
        self.sweep.check()
        self.ended = [] if p.overwrite else [v for v in self._trials() if self._has_ended(v)]
        left = [v for v in self._trials() if v not in self.ended]
        works = _works(self.sweep, self.folder, left) if left else []
        probe = works[0] if works else _works(self.sweep, self.folder, self.ended[:1], known=True)[0]
        self.probe, self.skeleton = probe, probe.skeleton
        self.weight = (probe.weight, m.epochs)
        self.rule = rule("valid_all", len(probe.skeleton["tasks"]))
        self.head = sweep_file.head(self.sweep, probe, self.rule)
        if p.overwrite:
            sweep_file.check_ours(self.folder)
        else:
            sweep_file.check_same(self.folder, self.head)

    def _united(self, values: Sequence[Any]) -> list[Any]:
        """The values, and those that the folder's sweep over the same option holds."""
        found = set(values)
        if not self.plan.overwrite and (self.folder / SWEEP_FILE).exists():
            stored = sweep_file.read_sweep(self.folder)["over"]
            found |= set(stored.get(str(self.member.option), {}).get("values", []))
        return sorted(found)

    def _trials(self) -> list[dict[str, Any]]:
        (axis,) = self.sweep.axes
        return [{axis.name: value} for value in axis.values]

    def _has_ended(self, values: Mapping[str, Any]) -> bool:
        try:
            stored = read_result(self.folder / TRIALS / trial_folder(trial_name(values)))["seeds"]
        except EngramError:
            return False
        over = {s["seed"] for s in stored if s["status"] == "done" or _diverged(s)}
        return over >= set(self.plan.seeds)

    def open(self, handle: int) -> list[Job]:
        if self.plan.overwrite:
            sweep_file.clear(self.folder)
        outcome = SweepOutcome(self.folder)
        self.state = State(self.sweep, self.folder, self.rule, self.head, outcome, None, handle)
        self.problems = outcome.problems
        self.state.open(self.ended, over=True)
        jobs = self.state.open([v for v in self._trials() if v not in self.ended])
        self.kept = [f"{self.member.label} {name}" for name in outcome.kept]
        self._in_order()
        return jobs

    def _in_order(self) -> None:
        """Trials by value, so that a sweep that was widened or resumed is written as any other."""
        name = str(self.member.option)
        trials = self.state.trials
        self.state.trials = dict(sorted(trials.items(), key=lambda item: item[1]["options"][name]))
        self.state.write()

    def note(self, event: Event) -> None:
        self.state.note(event)

    def wider(self, plastic: bool, stable: bool) -> list[Job]:
        tried = [p["value"] for p in self.points()]
        values = [
            v
            for end, wanted in ((False, plastic), (True, stable))
            for v in (self.member.wider(tried, self.plan.widen, stable=end) if wanted else [])
        ]
        if not values:
            return []
        (old,) = self.sweep.axes
        (new,) = axes_of(self.sweep.method, {old.name: sorted([*old.values, *values])})
        self.sweep = replace(self.sweep, axes=(new,))
        self.head = sweep_file.head(self.sweep, self.probe, self.rule)
        self.state.plan, self.state.head = self.sweep, self.head
        jobs = self.state.open([{new.name: v} for v in sorted(values)])
        self._in_order()
        return jobs

    def points(self) -> list[dict[str, Any]]:
        name = str(self.member.option)
        out = []
        for label, trial in self.state.trials.items():
            book = self.state.books[label]
            entries = [book.entries[s] for s in self.plan.seeds if s in book.entries]
            out.append(_point(label, trial["options"][name], trial["folder"], entries, self.plan.seeds))
        return out

    def close(self) -> None:
        for book in self.state.books.values():
            book.close()
        self.state.write()


def _diverged(entry: Mapping[str, Any]) -> bool:
    return entry["status"] == "failed" and str(entry["error"]).startswith(DIVERGED)


def _point(
    name: str, value: Any, folder: str, entries: Sequence[Mapping[str, Any]], seeds: Sequence[int]
) -> dict[str, Any]:
    """A point from the entries of its seeds: status, and accuracies [n seeds] where all of them finished."""
    done = len(entries) == len(seeds) and all(e["status"] == "done" for e in entries)
    failed = [e for e in entries if e["status"] == "failed"]
    status = "done" if done else "unfinished"
    if failed:
        status = "diverged" if all(_diverged(e) for e in failed) else "failed"
    valid = done and all(e.get("valid_matrix") for e in entries)
    return {
        "name": name,
        "value": value,
        "folder": folder,
        "status": status,
        "error": f"seed {failed[0]['seed']}: {failed[0]['error']}" if failed else None,
        "seeds": [e["seed"] for e in entries] if done else [],
        "source": _column(entries, "accuracy_matrix", 0) if done else [],
        "target": _column(entries, "accuracy_matrix", 1) if done else [],
        "source_network": [e["accuracy_matrix"][0][0] for e in entries] if done else [],
        "valid_source": _column(entries, "valid_matrix", 0) if valid else [],
        "valid_target": _column(entries, "valid_matrix", 1) if valid else [],
    }


def _column(entries: Sequence[Mapping[str, Any]], matrix: str, task: int) -> list[float]:
    return [float(e[matrix][-1][task]) for e in entries]
