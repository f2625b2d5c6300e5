"""Jobs that differ in a method's trade-off option only: what comes before the option matters is trained once.

The jobs of a group are alike in everything but that option (:class:`engram.core.contract.Tradeoff`) and their folder.
A group of which two or more have not begun gets a *common start*: a job more, in ``shared/HASH/seed-N``, that ends
where the option begins to matter (:mod:`engram.protocols.common_start`). The others wait for it, while whatever
else there is runs, and begin from its checkpoint. What a run measures is bit for bit what it would have measured alone.

A common start that was cut off is continued, a finished one is not repeated, and its checkpoints go when the last job
of its group is done; its log stays.

Departures: none (no paper). Cost: the checkpoints of one run a group on disk, until then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from engram import networks
from engram.core.files import checksum
from engram.core.origin import described
from engram.methods.registry import entry
from engram.studies import folders
from engram.studies.folders import SEED_FILE, SHARED
from engram.studies.jobs import Event, Executor, Job, Listener
from engram.studies.settings import plain

__all__ = ["run_shared"]

LABEL = "common start"


@dataclass
class _Group:
    """Jobs alike but for the trade-off option, and the job that learns what they share.

    Args:
        start: the common start.
        fresh: jobs without a checkpoint.
        left: folders of the jobs that are not done.
        pending: the common start has to run, and is not over.
    """

    start: Job
    fresh: list[Job]
    left: set[str]
    pending: bool = False


def run_shared(
    jobs: Sequence[Job],
    listener: Listener,
    executor: Executor,
    *,
    root: Path,
    starts: Listener | None = None,
    dropped: Callable[[Job], bool] = lambda job: False,
) -> None:
    """Run every job; what several of them begin with is learned once.

    Args:
        jobs: of any methods, data and seeds.
        executor: runs them.
        listener: told everything about these jobs, and nothing about common starts. Where a common start fails by
            an error that the user can act on, such as a loss that is not finite, the jobs that wait for it fail with
            its message; where its process died, they begin from as far as it got, or from nothing.
        root: gets the folder ``shared``.
        starts: told everything about common starts; their jobs have ``common`` set and a label that says so.
        dropped: as for an executor; a common start is dropped when all jobs that wait for it are.
    """
    groups = _groups(jobs, Path(root))
    of_start = {group.start.folder: group for group in groups}
    of_job = {folder: group for group in groups for folder in group.left}
    given = {job.folder: job for job in jobs}
    lost: set[str] = set()
    for group in groups:
        if group.pending:
            folder = Path(group.start.folder)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / SEED_FILE).unlink(missing_ok=True)  # of one whose checkpoints are gone

    def told(job: Job) -> Job:
        """The job, and where it begins."""
        group = of_job.get(job.folder)
        there = group is not None and (group.pending or group.start.begun)
        return replace(job, start=group.start.folder) if group is not None and there else job

    def heard(event: Event) -> None:
        if event.job.common:
            if starts is not None:
                starts(event)
            over(of_start[event.job.folder], event)
            return
        listener(replace(event, job=given[event.job.folder]))
        if event.kind == "done" and event.job.folder in of_job:
            group = of_job[event.job.folder]
            group.left.discard(event.job.folder)
            if not group.left:
                folders.clear_checkpoints(Path(group.start.folder))

    def over(group: _Group, event: Event) -> None:
        group.pending = group.pending and event.kind not in ("done", "failed")
        if event.kind == "failed" and event.data["expected"]:
            for job in group.fresh:
                if not dropped(job):
                    lost.add(job.folder)
                    listener(Event(job, "failed", event.data))

    def is_dropped(job: Job) -> bool:
        if job.common:
            return all(dropped(one) for one in of_start[job.folder].fresh)
        return job.folder in lost or dropped(given[job.folder])

    def is_ready(job: Job) -> bool:
        group = None if job.common else of_job.get(job.folder)
        return group is None or not group.pending or given[job.folder] not in group.fresh

    queue = [*(group.start for group in groups if group.pending), *(told(job) for job in jobs)]
    executor.run(queue, heard, dropped=is_dropped, ready=is_ready)


def _groups(jobs: Sequence[Job], root: Path) -> list[_Group]:
    """The groups of the jobs whose method has a trade-off option, in the order of their first jobs."""
    alike: dict[tuple[str, int], list[Job]] = {}
    names: dict[str, str] = {}
    for job in jobs:
        tradeoff = getattr(entry(job.method).make, "tradeoff", None)
        if tradeoff is not None:
            key = _key(job, tradeoff.option, tradeoff.after)
            alike.setdefault((key, job.seed), []).append(job)
            names.setdefault(key, job.method)
    groups = []
    for (key, seed), members in alike.items():
        same = [other for other, name in names.items() if name == names[key]]
        number = f" {same.index(key) + 1}" if len(same) > 1 else ""
        start = replace(
            members[0],
            folder=str(root / SHARED / key / f"seed-{seed}"),
            resume=True,
            label=f"{names[key]} {LABEL}{number}",
            identity=key,
            common=True,
        )
        fresh = [job for job in members if not job.begun]
        pending = len(fresh) > 1 and not _ended(start)
        groups.append(_Group(start, fresh, {job.folder for job in members}, pending))
    return groups


def _key(job: Job, option: str, after: str | None) -> str:
    """What the jobs of a group have in common, but for the seed, in one word."""
    what: Mapping[str, Any] = {
        "data": job.data.what(),
        "network": asdict(job.network),
        **({"features": asdict(job.features)} if job.features.name else {}),
        "method": job.method,
        "options": {k: v for k, v in job.options.items() if k != option},
        "device": job.device,
        **({"compile": job.compile} if job.compile != "eager" else {}),
        **({"precision": job.precision} if job.precision != "float32" else {}),
        "record_valid": job.record_valid,
        "fork": [option, after],
        "own": [described(entry(job.method).make), networks.source_of(job.network.name)],
    }
    return checksum(plain(what))[:16]


def _ended(start: Job) -> bool:
    """Whether a common start has reached its end and is still there."""
    return (Path(start.folder) / SEED_FILE).exists() and start.begun
