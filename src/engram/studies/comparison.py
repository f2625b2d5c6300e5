"""Several methods, several seeds, one stream: each pair in a process of its own, side by side.

A comparison's folder holds ``METHOD/results.json``, ``METHOD/config.yaml`` and ``METHOD/seed-N/`` for each
method, and ``report.html``; a run's folder holds the same without the level of methods. Every seed's entry is
on disk as soon as the seed is done, so that a resume repeats nothing. Variants that differ only in their method's
trade-off option learn what comes before it matters once (:mod:`engram.studies.sharing`), in ``shared/``.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.core.files import in_use
from engram.core.options import split_variant
from engram.errors import ConfigError
from engram.recipes import chosen_recipe
from engram.studies import folders, planning, sharing
from engram.studies.processes import Event, Listener, default_jobs
from engram.studies.results import read_result, seed_result, write_result
from engram.studies.settings import DataSettings, Job, NetworkSettings
from engram.studies.worker import SEED_RESULT

if TYPE_CHECKING:
    from engram.methods.registry import MethodSpec

__all__ = ["Outcome", "Problem", "compare", "execute", "variant"]


@dataclass(frozen=True)
class Problem:
    """A seed that did not finish: why, and whether the user can act on it."""

    label: str
    seed: int
    message: str
    expected: bool


@dataclass
class Outcome:
    """What came of a run or comparison.

    Args:
        out: its folder.
        results: one a method, as in ``results.json``.
        report: the page; None when it was interrupted.
        problems: seeds that failed.
        interrupted: stopped by the user.
        kept: labels of methods that had already finished.
    """

    out: Path
    results: list[dict[str, Any]] = field(default_factory=list)
    report: Path | None = None
    problems: list[Problem] = field(default_factory=list)
    interrupted: bool = False
    kept: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 all fine, 1 a worker died, 2 only errors that the user can act on, 130 interrupted."""
        if self.interrupted:
            return 130
        if not self.problems:
            return 0
        return 2 if all(p.expected for p in self.problems) else 1


def variant(text: str, options: Mapping[str, Any] | None = None) -> tuple[str, MethodSpec]:
    """``NAME:option=value,...`` to a label and a method; ``options`` are those of all variants of NAME.

    Raises:
        ConfigError: unknown method or option, or a value that the option cannot take.
    """
    from engram.methods.registry import method

    name, given = split_variant(text)
    return text, method(name, {**(options or {}), **given})


def compare(
    methods: Sequence[str | MethodSpec],
    data: DataSettings | str | None = None,
    network: NetworkSettings | str | None = None,
    *,
    out: str | os.PathLike[str],
    options: Mapping[str, Mapping[str, Any]] | None = None,
    recipe: str | None = None,
    seeds: Sequence[int] = (0,),
    device: str = "cpu",
    jobs: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> Outcome:
    """Learn one stream with several methods and seeds, and write the report.

    Args:
        methods: names, variants such as ``"dgmw:solver=shared"``, or ``engram.method(name, option=...)``.
        data: settings, or the name of the data; None takes the recipe's, else digits.
        network: settings or a name; None for the one that fits.
        out: folder of the comparison.
        options: by method name, on top of the recipe's.
        recipe: a name, ``"none"``, or None for the data's default recipe.
        seeds: distinct integers >= 0.
        device: cpu or cuda.
        jobs: processes side by side; None is the number of cores on a CPU, 1 on an accelerator.
        resume: continue what ``out`` holds; finished seeds are not repeated.
        overwrite: replace what ``out`` holds of these methods.
        listener: told what the workers say.

    Returns:
        The results, the page, and what went wrong.

    Raises:
        EngramError: whatever can be known before training; nothing in ``out`` has been touched then.
    """
    name = data.data if isinstance(data, DataSettings) else data
    if name is None and recipe is None:
        name = "digits"
    chosen = chosen_recipe(recipe, name or "digits")
    if not isinstance(data, DataSettings):
        fields = {**(chosen.data if chosen else {}), **({"data": data} if data else {})}
        data = DataSettings(**fields)
    if network is None and chosen is not None:
        network = NetworkSettings(chosen.network, chosen.network_options)
    elif not isinstance(network, NetworkSettings):
        network = NetworkSettings(network)
    merged = {m: dict(o) for m, o in (chosen.methods if chosen else {}).items()}
    for method_name, values in (options or {}).items():
        merged.setdefault(method_name, {}).update(values)
    named = [
        variant(m, merged.get(m.partition(":")[0])) if isinstance(m, str) else (m.name, m) for m in methods
    ]
    return execute(
        named,
        data,
        network,
        seeds=seeds,
        out=Path(out),
        nested=True,
        device=device,
        jobs=jobs,
        resume=resume,
        overwrite=overwrite,
        recipe=chosen.name if chosen else None,
        listener=listener,
    )


def execute(
    methods: Sequence[tuple[str, MethodSpec]],
    data: DataSettings,
    network: NetworkSettings,
    *,
    seeds: Sequence[int],
    out: Path,
    nested: bool,
    device: str = "cpu",
    jobs: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    recipe: str | None = None,
    listener: Listener | None = None,
) -> Outcome:
    """`compare`, all names resolved; ``nested=False`` puts the results of the one method in ``out``."""
    from engram.report import write_report

    if jobs is not None and jobs < 1:
        raise ConfigError(f"jobs must be an integer >= 1, got {jobs}: leave it out for one a core.")
    works = planning.make(
        methods,
        data,
        network,
        seeds=seeds,
        out=out,
        nested=nested,
        device=device,
        resume=resume,
        overwrite=overwrite,
        recipe=recipe,
    )
    if overwrite:
        folders.check_ours(out, [w.folder for w in works])
    outcome = Outcome(out, kept=[w.label for w in works if w.state == "finished"])
    with _folder(out) as handle:
        if overwrite:
            sharing.clear(out)
        books = {w.label: Book(w, overwrite) for w in works}
        for work in sorted(
            works, key=lambda w: -w.weight
        ):  # the longest first, so that none is left over at the end
            books[work.label].open()
        todo = [j for w in sorted(works, key=lambda w: -w.weight) for j in books[w.label].todo]

        def heard(event: Event) -> None:
            books[event.job.label].note(event)
            if event.kind == "failed":
                job, said = event.job, event.data
                outcome.problems.append(Problem(job.label, job.seed, said["message"], said["expected"]))
            if listener is not None:
                listener(event)

        try:
            sharing.run_shared(
                todo, jobs or default_jobs(device), heard, root=out, starts=listener, keep_open=[handle]
            )
        except KeyboardInterrupt:
            outcome.interrupted = True
        outcome.results = [books[w.label].close() for w in works]
        if not outcome.interrupted:
            outcome.report = write_report(out)
    return outcome


@contextlib.contextmanager
def _folder(out: Path) -> Iterator[int]:
    try:
        with in_use(out) as handle:
            yield handle
    except PermissionError as error:
        raise ConfigError(
            f"out must be a folder that can be written, {out} cannot: give another --out."
        ) from error


def _seed_entry(path: Path, identity: str) -> dict[str, Any] | None:
    """What a worker of the run with this identity wrote; None where it is of another run, or unreadable."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(entry, dict) or entry.pop("identity", None) != identity:
        return None
    return entry if path.parent.name == f"seed-{entry.get('seed')}" else None


class Book:
    """The result file of one method while its seeds come in."""

    def __init__(self, work: planning.Work, overwrite: bool) -> None:
        self.work, self.overwrite = work, overwrite
        self.entries: dict[int, dict[str, Any]] = {}
        self.rows: dict[int, list[list[float]]] = {}
        self.seconds: dict[int, list[float]] = {}
        self.began: dict[int, float] = {}
        self.todo: list[Job] = []

    def open(self) -> None:
        """Make the folder ready and write a result file in which what is left to do is unfinished."""
        work = self.work
        if self.overwrite:
            folders.clear(work.folder)
        if work.state == "finished":
            return
        if (work.folder / folders.RESULT_FILE).exists():
            self.entries = {s["seed"]: s for s in read_result(work.folder)["seeds"] if s["status"] == "done"}
        for path in work.folder.glob(f"seed-*/{SEED_RESULT}") if work.state == "unfinished" else ():
            entry = _seed_entry(path, work.jobs[0].identity)
            if entry is not None:
                self.entries[entry["seed"]] = entry
        self.todo = [j for j in work.jobs if self.entries.get(j.seed, {}).get("status") != "done"]
        for job in self.todo:
            Path(job.folder).mkdir(parents=True, exist_ok=True)
            (Path(job.folder) / SEED_RESULT).unlink(missing_ok=True)  # of another run, or unreadable
            self.entries[job.seed] = self._partial(job.seed, "unfinished", None)
        self._write_config()
        self.write()

    def close(self) -> dict[str, Any]:
        """The result as it is on disk at the end."""
        return read_result(self.work.folder if self.work.state == "finished" else self.write())

    def _write_config(self) -> None:
        import yaml

        from engram.core.files import write_atomically

        name = self.work.skeleton["method"]
        settings = {**self.work.settings, "seeds": sorted(self.entries)}
        text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
        again = f"engram run {name} --config {folders.CONFIG_FILE} --out DIR"
        head = f"{folders.CONFIG_HEAD} To run them again: {again}\n"
        write_atomically(self.work.folder / folders.CONFIG_FILE, (head + text).encode())

    def _partial(self, seed: int, status: str, error: str | None) -> dict[str, Any]:
        n = len(self.work.skeleton["tasks"])
        rows = [[*row, *[None] * (n - len(row))] for row in self.rows.get(seed, [])]
        took = self.seconds.get(seed, [])
        return seed_result(
            seed, rows or [[None] * n], status=status, error=error, seconds=sum(took), seconds_per_task=took
        )

    def note(self, event: Event) -> None:
        """Keep what an event says about a seed; write the file when a seed ends."""
        job, said = event.job, event.data
        if event.kind == "start":
            self.rows[job.seed], self.seconds[job.seed] = list(said["rows"]), list(said["seconds"])
            self.began[job.seed] = time.monotonic()
        elif event.kind == "task":
            self.rows[job.seed].append(said["accuracies"])
            self.seconds[job.seed].append(said["seconds"])
            self.entries[job.seed] = self._partial(job.seed, "unfinished", None)
        elif event.kind == "done":
            text = (Path(job.folder) / SEED_RESULT).read_text(encoding="utf-8")
            self.entries[job.seed] = {k: v for k, v in json.loads(text).items() if k != "identity"}
            self.write()
        elif event.kind == "failed":
            self.entries[job.seed] = self._partial(job.seed, "failed", said["message"])
            self.write()

    def write(self) -> Path:
        """The result file as it stands."""
        numbers = sorted(self.entries)
        skeleton = dict(self.work.skeleton)
        skeleton["config"] = {**skeleton["config"], "seeds": numbers}
        return write_result(
            self.work.folder / folders.RESULT_FILE, {**skeleton, "seeds": [self.entries[n] for n in numbers]}
        )
