"""The kinds of studies: each says which runs it wants, given those that are done, and what follows from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.methods.registry import in_hand
from engram.studies.jobs import Event, Job
from engram.studies.settings import Settings
from engram.studies.variants import Variant, check_distinct

if TYPE_CHECKING:
    import pandas

    from engram.studies.planning import Planner

__all__ = ["Comparison", "Outcome", "Problem", "Study"]

Entry = Mapping[str, Any]
Record = dict[str, Any]
Done = Mapping[str, Mapping[int, Entry]]  # by label and seed, the entries of seeds that have ended


@dataclass(frozen=True)
class Problem:
    """A seed that did not finish.

    Args:
        label, seed: which one.
        message: why.
        expected: the user can act on it.
        again: what it needs is not of its own making, a place that the system refused or its process; so it can go on.
        begun: it has a checkpoint to go on from.
    """

    label: str
    seed: int
    message: str
    expected: bool
    again: bool = False
    begun: bool = False


@dataclass(repr=False)
class Outcome:
    """What came of a study.

    Args:
        out: its folder.
        results: one a variant that was asked for.
        found: what a sweep or a trade-off concluded, as in ``study.json``.
        answered: nothing that was asked for is missing: every seed of a comparison, a choice of a sweep, a
            point of each curve.
        report: the page; None until whoever ends the command has drawn it.
        problems: seeds that failed.
        unwritten: what could not be written at the end, the page for one, and what to do; nothing else is lost.
        interrupted: stopped by the user.
        begun: seeds not finished then that have a checkpoint.
        kept: labels of variants that had already finished.
    """

    out: Path
    results: list[dict[str, Any]] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)
    answered: bool = False
    report: Path | None = None
    problems: list[Problem] = field(default_factory=list)
    unwritten: list[str] = field(default_factory=list)
    interrupted: bool = False
    begun: int = 0
    kept: list[str] = field(default_factory=list)

    @property
    def chosen(self) -> dict[str, Any] | None:
        """Of a sweep the chosen trial: ``name``, ``options``, ``score``, ``data``; None where none finished."""
        return self.found.get("chosen")

    def to_frame(self) -> pandas.DataFrame:
        """The accuracies as a pandas frame; rows as in :func:`engram.studies.tidy.tidy`."""
        # A command does without them.
        import pandas

        from engram.studies.tidy import COLUMNS, tidy

        return pandas.DataFrame(tidy(self.results), columns=list(COLUMNS))

    def __repr__(self) -> str:
        where = f"{self.out}, stopped by the user" if self.interrupted else str(self.out)
        cells = self._cells()
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        lines = [
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells
        ]
        failed = [f"{p.label}, seed {p.seed}: {p.message}" for p in self.problems]
        return "\n".join([f"engram: {where}", *lines, *failed, *self.unwritten])

    def _repr_html_(self) -> str:
        head, *rows = ([escape(cell) for cell in row] for row in self._cells())
        table = "".join(f"<tr><td>{'</td><td>'.join(row)}</td></tr>" for row in rows)
        notes = "".join(f"<p>{escape(f'{p.label}, seed {p.seed}: {p.message}')}</p>" for p in self.problems)
        head_row = f"<tr><th>{'</th><th>'.join(head)}</th></tr>"
        return f"<table>{head_row}{table}</table>{notes}<p>{escape(str(self.out))}</p>"

    def _cells(self) -> list[list[str]]:
        """A heading and a row a method: number of seeds, percent and percentage points with half widths, seconds."""

        def cell(summary: Mapping[str, Any] | None, scale: float = 1.0) -> str:
            if summary is None or summary["mean"] is None:
                return "–"
            low, high = summary["ci95"] or (0.0, 0.0)
            half = f" ± {scale * (high - low) / 2:.1f}" if summary["ci95"] else ""
            return f"{scale * summary['mean']:.1f}{half}"

        head = ["method", "seeds", "final average accuracy %", "forgetting points", "s per seed"]
        rows = [
            [
                str(r["label"]),
                str(r["summary"]["n"]),
                cell(r["summary"]["final_average_accuracy"], 100),
                cell(r["summary"]["final_forgetting"], 100),
                cell(r["summary"]["seconds"]),
            ]
            for r in self.results
        ]
        return [head, *rows]

    @property
    def exit_code(self) -> int:
        """0 all fine, 1 a worker died, 2 what the user can act on, 130 interrupted."""
        if self.interrupted:
            return 130
        if any(not p.expected for p in self.problems):
            return 1
        unfinished = any(p.again for p in self.problems)
        return 0 if self.answered and not self.unwritten and not unfinished else 2


class Study(ABC):
    """A kind of study: it keeps what it is asked, and is told what is done.

    Args:
        settings: shared by all kinds.
        methods: of the variants that it begins with, at least.
    """

    kind: str
    record_valid = False  # measure validation samples too
    keeps_diverged = False  # a seed that diverged has ended: it is not run again
    on_ray = False  # jobs run on a Ray cluster, not in processes of this machine
    address: str | None = None  # of that cluster

    def __init__(self, settings: Settings, methods: Sequence[str]) -> None:
        self.settings = settings
        self.n_sent = 0 if settings.held else sum(not in_hand(name) for name in methods)
        self.labels: list[str] = []

    def next(self, done: Done) -> list[Variant]:
        """The variants that are wanted now and were not asked for before; none at the end."""
        wanted = self.wanted(done)
        fresh = [v for v in wanted if v.label not in self.labels]
        self.labels = [v.label for v in wanted]
        return fresh

    @abstractmethod
    def wanted(self, done: Done) -> list[Variant]:
        """All variants that are wanted, given what is done, in the order of tables."""

    @abstractmethod
    def asked(self) -> dict[str, Any]:
        """What is asked beside the settings: equal questions have equal answers."""

    @abstractmethod
    def territory(self) -> list[str]:
        """The folders, in that of the study, that --overwrite empties."""

    def check(self) -> None:
        """What can be said before data are read; ``EngramError``."""
        return

    def begin(self, planner: Planner, records: Sequence[Record], found: Mapping[str, Any]) -> None:
        """Told the stream and what the folder holds of earlier calls; ``ConfigError`` where that is another study."""
        return

    def common(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        """The part of a variant's identity in which all variants of the folder must agree."""
        return {k: identity.get(k) for k in ("data", "fingerprint")}

    def read(self, records: Mapping[str, Record], done: Done) -> dict[str, Any]:
        """What follows from the results, as JSON."""
        return {}

    def answered(self, found: Mapping[str, Any], problems: Sequence[Problem]) -> bool:
        """See `Outcome`."""
        return not problems

    def hear(self, event: Event) -> None:
        """Told each event of a job."""
        return

    def dropped(self, job: Job) -> bool:
        """Whether a job that is not done is given up."""
        return False


class Comparison(Study):
    """Several methods, several seeds, one stream; a run is one of a single method, in the study's own folder.

    Args:
        settings: see `Study`.
        variants: the methods.
    """

    def __init__(self, settings: Settings, variants: Sequence[Variant]) -> None:
        super().__init__(settings, [v.method for v in variants])
        check_distinct(variants)
        self.variants = list(variants)
        self.kind = "run" if variants[0].folder == "." else "comparison"

    def wanted(self, done: Done) -> list[Variant]:
        return self.variants

    def asked(self) -> dict[str, Any]:
        return {"variants": [vars(v) for v in self.variants]}

    def territory(self) -> list[str]:
        return [v.folder for v in self.variants]
