"""A study: which runs are asked for, given those that are done, and what follows from them.

    while runs := study.next(done):     # a comparison asks once, a trade-off widens its curves
        execute(runs)                   # processes of this machine, or Ray
    study.read(done)                    # what a sweep or a trade-off concludes

Its folder holds ``study.json``, ``report.html``, and in the folder of each variant ``config.yaml`` and ``seed-N/``.
Every seed's entry is on disk as soon as the seed is done, so that nothing finished is run again, whoever finished it.
Variants that differ only in their method's trade-off option learn what comes before it matters once
(:mod:`engram.studies.sharing`).
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import engram
from engram import networks
from engram.core.data_names import source_identity
from engram.core.files import checksum, drop_leftovers, in_use
from engram.core.origin import is_unknown
from engram.core.staying import staying
from engram.errors import ConfigError, EngramError, PlaceError
from engram.methods.registry import own_sources
from engram.protocols.entry import diverged, seed_result
from engram.studies import folders, results, sharing
from engram.studies.folders import SEED_FILE
from engram.studies.jobs import Event, Executor, Job, Listener
from engram.studies.machine import default_jobs
from engram.studies.processes import Processes
from engram.studies.settings import plain
from engram.studies.study import Entry, Outcome, Problem, Record, Study
from engram.studies.variants import Variant, first_difference, identity_of

if TYPE_CHECKING:
    from engram.studies.planning import Planner, Work

__all__ = ["execute"]

#: ``study.json`` is written again when a seed ends, unless that would take more than a fiftieth of the time: what it
#: holds grows with the runs, and a study of hundreds of short ones would do little else.
SPARING = 50
NOUNS = {"run": "run", "comparison": "comparison", "sweep": "sweep", "tradeoff": "trade-off"}


def execute(study: Study, *, listener: Listener | None = None) -> Outcome:
    """Run what the study asks for until it asks for nothing more.

    Raises:
        EngramError: whatever can be known before training; nothing in the folder has been touched then.
    """
    settings = study.settings
    ledger = _Ledger(study, listener)
    if ledger.is_answered():
        return ledger.close()
    with staying("torch"):
        # Torch comes with this; what is finished needs none.
        from engram.studies.planning import Planner, found_device

    study.check()
    device = found_device(settings.device)
    limit = settings.jobs or default_jobs(device)
    cluster = _cluster(study, limit, device)
    early = 0 if cluster is not None else study.n_sent * len(settings.seeds)
    with contextlib.ExitStack() as stack:
        here = stack.enter_context(Processes(limit, device, early))
        planner = Planner(replace(settings, device=device), study.record_valid)
        works = ledger.begun(planner)
        if cluster is not None and any(job.inherits for work in works for job in work.jobs):
            raise ConfigError(
                "engine ray sends runs to other processes by file, objects of this process cannot be sent: use another "
                "engine, or names and files."
            )
        there = None if cluster is None else stack.enter_context(cluster)
        here.locks = [stack.enter_context(in_use(settings.out))]
        if ledger.stamp != _stamp(settings.out):  # another process worked here since it was read
            ledger = _Ledger(study, listener)
            works = ledger.begun(planner)
        ledger.clear()
        try:
            while works:
                todo = ledger.open(works)
                if there is not None:
                    there.run(todo, ledger.note, dropped=study.dropped)
                else:
                    sharing.run_shared(
                        todo, ledger.note, here, root=settings.out, starts=listener, dropped=study.dropped
                    )
                # Where the system refuses a place, what follows from the runs so far is not what would follow later.
                if any(p.expected and p.again for p in ledger.outcome.problems):
                    break
                works = ledger.planned(planner, study.next(ledger.done))
            else:
                ledger.over = True
        except KeyboardInterrupt:
            ledger.outcome.interrupted = True
        try:
            ledger.write()
        except PlaceError as error:
            ledger.outcome.unwritten.append(f"{error} What the study holds stays; go on with --resume.")
    return ledger.close()


def _cluster(study: Study, limit: int, device: str) -> contextlib.AbstractContextManager[Executor] | None:
    """Where jobs run, if not in processes of this machine."""
    if not study.on_ray:
        return None
    # Ray is optional, and slow to import.
    from engram.studies.ray_engine import Cluster, require

    require()
    return Cluster(study.address, limit, device)


def _stamp(out: Path) -> tuple[int, int] | None:
    """Which ``study.json`` lies in a folder: each writing makes another."""
    try:
        found = (out / folders.STUDY_FILE).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


class _Ledger:
    """What a study's folder holds: the records and entries of all its variants, those of earlier calls included."""

    def __init__(self, study: Study, listener: Listener | None) -> None:
        self.study, self.settings, self.listener = study, study.settings, listener
        self.outcome = Outcome(self.settings.out)
        self.stamp = _stamp(self.settings.out)
        self.stored = self._stored()
        self.shared: dict[str, Any] = {k: self.stored.get(k) for k in ("data_settings", "data", "tasks")}
        self.records: dict[str, Record] = {}
        self.done: dict[str, dict[int, Entry]] = {}
        self.found: dict[str, Any] = {}
        self.sent: list[Job] = []
        self.partial: dict[tuple[str, int], tuple[list[Any], list[float]]] = {}
        self.over = False  # the study asks for nothing more
        self.written = self.took = 0.0  # when study.json was, and the seconds of that
        self.earlier = {} if self.settings.overwrite else self.stored.get("found", {})
        replaced = study.territory() if self.settings.overwrite else []
        for record in self.stored.get("variants", []):
            if not any(Path(record["folder"]).is_relative_to(folder) for folder in replaced):
                config = {**record["config"], "data": self.stored["data_settings"]}
                held = {**record, **self.shared, "config": config}
                self.records[record["label"]], self.done[record["label"]] = held, self._entries(held)
        if not self.records:  # nothing stays whose data and tasks these are
            self.shared = dict.fromkeys(self.shared)

    def _stored(self) -> dict[str, Any]:
        """The content of ``study.json``; empty where there is none, or none that stays."""
        out, overwrite = self.settings.out, self.settings.overwrite
        if not (out / folders.STUDY_FILE).exists():
            if folders.holds_old(out) and not overwrite:
                raise ConfigError(
                    f"{out} must hold no results of an earlier version, which engram report reads and nothing adds to: "
                    "give another --out, or --overwrite to replace them."
                )
            return {}
        try:
            stored = results.read_study(out, accept_edited=self.settings.accept_edited)
        except EngramError as error:
            if overwrite:
                return {}
            raise ConfigError(f"{error} Give --overwrite to replace it, or another --out.") from error
        if stored["kind"] != self.study.kind:
            wanted, there = NOUNS[self.study.kind], NOUNS.get(stored["kind"], stored["kind"])
            raise ConfigError(
                f"{out} must be the folder of a {wanted}, it holds a {there}: give another --out."
            )
        return stored

    def _entries(self, record: Record) -> dict[int, Entry]:
        folder, accept = self.settings.out / record["folder"], self.settings.accept_edited
        of, n = record["identity"], len(record["tasks"])
        found = {
            s: results.read_entry(folder / f"seed-{s}", of, n, accept_edited=accept) for s in record["seeds"]
        }
        return {seed: entry for seed, entry in found.items() if entry is not None}

    def _ended(self, label: str, seed: int) -> bool:
        entry = self.done.get(label, {}).get(seed)
        return entry is not None and (
            entry["status"] == "done" or (self.study.keeps_diverged and diverged(entry))
        )

    def _finished(self, label: str) -> bool:
        """Whether all seeds that a variant had before have ended."""
        earlier = self.records.get(label, {}).get("seeds", [])
        return bool(earlier) and all(self._ended(label, seed) for seed in earlier)

    def _asked(self) -> str:
        """Everything that decides what there is to do, in one word."""
        s = self.settings
        what: dict[str, Any] = {
            "engram": engram.__version__,
            "kind": self.study.kind,
            "seeds": s.seeds,
            "device": s.device,
            "compile": s.compile,
            "precision": s.precision,
        }
        what |= {
            "data": s.data.what(),
            "sources": self._sources,
            "network": vars(s.network),
            "features": vars(s.features),
        }
        return checksum(plain({**what, "own": self._own(), **self.study.asked()}))

    @cached_property
    def _sources(self) -> list[str]:
        """The data as they were when this began."""
        s = self.settings
        return [source_identity(name, s.data.data_dir) for name in s.data.sets]

    def _own(self) -> list[Any]:
        return [own_sources(), networks.source_of(self.settings.network.name)]

    def is_answered(self) -> bool:
        """Whether the same was asked before, with nothing left to do."""
        last = self.stored.get("last", {})
        if self.settings.overwrite or not last.get("complete") or last["asked"] != self._asked():
            return False
        if is_unknown(self._own()):
            return False
        labels = last["labels"]
        if not all(self._ended(label, seed) for label in labels for seed in self.settings.seeds):
            return False
        self.found, self.study.labels, self.outcome.kept = self.stored["found"], labels, labels
        return True

    def begun(self, planner: Planner) -> list[Work]:
        """The first works; the study knows then what the folder holds."""
        self.study.labels = []
        self.study.begin(planner, list(self.records.values()), self.earlier)
        return self.planned(planner, self.study.next(self.done))

    def planned(self, planner: Planner, variants: Sequence[Variant]) -> list[Work]:
        """The variants as works, if they can be run beside what the folder holds; touches no file."""
        works = [planner.work(variant) for variant in variants]
        for work in works:
            self._check(work)
        if not self.shared["data"] and works:
            record = works[0].record
            self.shared = {
                "data_settings": record["config"]["data"],
                "data": record["data"],
                "tasks": record["tasks"],
            }
        if works and self.settings.overwrite:
            folders.check_ours([self.settings.out, *(self.settings.out / f for f in self.study.territory())])
        return works

    def _check(self, work: Work) -> None:
        label, folder, out = work.variant.label, work.folder, self.settings.out
        for other, record in self.records.items():
            there, now = identity_of(record), identity_of(work.record)
            if other != label and record["folder"] != work.variant.folder:
                there, now = self.study.common(there), self.study.common(now)
            difference = first_difference(there, now)
            if difference:
                raise ConfigError(
                    f"{out} must hold the same {NOUNS[self.study.kind]} or none, it holds another "
                    f"({other}: {difference}): give another --out, or --overwrite to replace it."
                )
        if self.settings.overwrite:
            return
        entries = self._entries(work.record)
        begun = label in self.records or any(folder.glob("seed-*/checkpoints/*.json"))
        self.done.setdefault(label, {}).update(entries)
        unknown = is_unknown(work.record["config"])
        if begun and (unknown or not all(self._ended(label, job.seed) for job in work.jobs)):
            what = "a run of other seeds" if self._finished(label) else "an unfinished run"
            what = "a run of code that cannot be compared with what is given" if unknown else what
            if not self.settings.resume:
                raise ConfigError(
                    f"{folder} must be empty or continued, it holds {what}: "
                    "give --resume to continue it, or --overwrite to start again."
                )
            if unknown:
                warnings.warn(f"{folder} holds {what}: it is taken for the same.", stacklevel=2)
            work.check_checkpoints()

    def clear(self) -> None:
        """With --overwrite, remove what is to be replaced."""
        if self.settings.overwrite:
            (self.settings.out / "report.html").unlink(missing_ok=True)
            for folder in [*self.study.territory(), folders.SHARED]:
                folders.clear(self.settings.out / folder)

    def open(self, works: Sequence[Work]) -> list[Job]:
        """Make folders ready and write the study; the jobs that are left, the longest first."""
        todo: list[tuple[Any, Job]] = []
        self._tidy(works)
        for work in works:
            label, seeds = work.variant.label, self.settings.seeds
            earlier = self.records.get(label, {}).get("seeds", [])
            self.records[label] = {**work.record, "seeds": sorted({*earlier, *work.record["seeds"]})}
            self.done.setdefault(label, {})
            left = [job for job in work.jobs if not self._ended(label, job.seed)]
            if not left:
                self.outcome.kept.append(label)
                continue
            work.write_config(self.records[label]["seeds"])
            for job in left:
                self.done[label].pop(job.seed, None)
                Path(job.folder).mkdir(parents=True, exist_ok=True)
                (Path(job.folder) / SEED_FILE).unlink(
                    missing_ok=True
                )  # of another run, or of one that failed
            heavy, epochs = work.weight
            todo += [((-heavy, -epochs, seeds.index(job.seed)), job) for job in left]
        self.write()
        self.sent += (job for _, job in todo)
        return [job for _, job in sorted(todo, key=lambda pair: pair[0])]

    def _tidy(self, works: Sequence[Work]) -> None:
        """Remove what killed processes left half written."""
        out = self.settings.out
        places = [
            out,
            out / "figures",
            *(w.folder for w in works),
            *(Path(j.folder) for w in works for j in w.jobs),
        ]
        for place in dict.fromkeys(places):
            drop_leftovers(place)

    def note(self, event: Event) -> None:
        """Keep what an event says about a seed; write the study when a seed ends."""
        job, said, key = event.job, event.data, (event.job.label, event.job.seed)
        if event.kind == "start":
            self.partial[key] = list(said["rows"]), list(said["seconds"])
        elif event.kind == "task":
            self.partial[key][0].append(said["accuracies"])
            self.partial[key][1].append(said["seconds"])
        elif event.kind == "done":
            self.done[job.label] |= self._entries({**self.records[job.label], "seeds": [job.seed]})
        elif event.kind == "failed":
            self._failed(event)
        self.study.hear(event)
        if event.kind in ("done", "failed") and time.monotonic() - self.written > SPARING * self.took:
            with contextlib.suppress(PlaceError):  # the last time it is said
                self.write()
        if self.listener is not None:
            self.listener(event)

    def _failed(self, event: Event) -> None:
        job, message = event.job, event.data["message"]
        rows, seconds = self.partial.get((job.label, job.seed), ([], []))
        n = len(self.shared["tasks"])
        entry = seed_result(
            job.seed,
            [[*row, *[None] * (n - len(row))] for row in rows] or [[None] * n],
            status="failed",
            error=message,
            seconds=sum(seconds),
            seconds_per_task=seconds,
        )
        self.done[job.label][job.seed] = entry
        with contextlib.suppress(PlaceError):  # it counts as unfinished then
            results.write_entry(Path(job.folder), job.identity, entry)
        if not (self.study.keeps_diverged and diverged(entry)):
            expected = event.data["expected"]
            again = not expected or bool(event.data.get("again"))
            self.outcome.problems.append(Problem(job.label, job.seed, message, expected, again, job.begun))

    def write(self) -> None:
        """``study.json`` as it stands."""
        began = time.monotonic()
        self.found = dict(plain(self.study.read(self.records, self.done)))
        labels = self.study.labels
        ended = all(self._ended(label, seed) for label in labels for seed in self.settings.seeds)
        order = [*labels, *(label for label in self.records if label not in labels)]
        listed = []
        for record in (self.records[label] for label in order if label in self.records):
            kept = {k: v for k, v in record.items() if k not in self.shared}
            listed.append({**kept, "config": {k: v for k, v in kept["config"].items() if k != "data"}})
        last = {"asked": self._asked(), "labels": labels, "complete": self.over and ended}
        study = {
            "kind": self.study.kind,
            "last": last,
            **self.shared,
            "variants": listed,
            "found": self.found,
            **{mark: self.stored[mark] for mark in results.MARKS if mark in self.stored},
        }
        results.write_study(self.settings.out, study)
        self.written = time.monotonic()
        self.took = self.written - began

    def close(self) -> Outcome:
        """The outcome, with the results as they are on disk at the end."""
        read = results.read(self.settings.out, accept_edited=self.settings.accept_edited)
        by_label = {f.result["label"]: f.result for f in read.results}
        self.outcome.results = [by_label[label] for label in self.study.labels if label in by_label]
        self.found = self.outcome.found = read.found
        self.outcome.begun = sum(job.begun and not self._ended(job.label, job.seed) for job in self.sent)
        self.outcome.answered = self.study.answered(self.found, self.outcome.problems)
        return self.outcome
