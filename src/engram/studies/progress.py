"""What is going on: a live display on a terminal, a line a task elsewhere, and trackers on request.

Observers only: they are told what workers say and cannot change a run.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

from engram.errors import printable
from engram.studies.jobs import Event

if TYPE_CHECKING:
    from rich.console import RenderableType

    from engram.studies.trackers import Tracker, Tracking


__all__ = ["Progress", "duration", "somebody_watches"]


def somebody_watches() -> bool:
    """Whether what is printed is read while it is: standard output is a terminal, or this is a notebook."""
    shell = sys.modules.get("IPython")
    return sys.stdout.isatty() or (shell is not None and shell.get_ipython() is not None)


def duration(seconds: float) -> str:
    """A time span in words: ``4.5 s``, ``45 s``, ``3 min 20 s``, ``2 h 05 min``."""
    s = round(seconds)
    if s < 60:
        return f"{s} s" if seconds >= 9.95 else f"{seconds:.1f} s"
    return f"{s // 60} min {s % 60} s" if s < 3600 else f"{s // 3600} h {s % 3600 // 60:02d} min"


@dataclass
class Row:
    """One method and seed, as far as it has told."""

    label: str
    seed: int
    status: str = "queued"
    n_tasks: int = 0
    done: int = 0
    phase: str = ""
    epoch: int = 0
    n_epochs: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    accuracy: float | None = None
    seconds: list[float] = field(default_factory=list)
    task_began: float = 0.0
    phase_share: float = 0.0

    def elapsed(self, now: float) -> float:
        """Seconds spent on the current task."""
        return max(now - self.task_began, 0.0) if self.status == "running" else 0.0

    def task_seconds(self, now: float) -> float | None:
        """What a task takes: as the last one, or the first one extrapolated from its epochs."""
        if self.seconds:
            return self.seconds[-1]
        return self.elapsed(now) / self.phase_share if self.phase_share else None

    def share(self, now: float) -> float:
        """Part of the work that is done, in [0, 1]."""
        if self.status in ("done", "failed"):
            return 1.0
        whole = self.task_seconds(now)
        within = min(self.elapsed(now) / whole, 1.0) if whole else 0.0
        return min((self.done + within) / self.n_tasks, 1.0) if self.n_tasks else 0.0

    def left(self, now: float) -> float | None:
        """Seconds to go, None while unknown."""
        whole = self.task_seconds(now)
        if whole is None or not self.n_tasks:
            return None
        return max(whole - self.elapsed(now), 0.0) + (self.n_tasks - self.done - 1) * whole


def by_update(losses: Mapping[str, float]) -> dict[str, float]:
    """Losses summed by update: ``critic/wasserstein`` and ``critic/penalty`` are one ``critic``."""
    sums: dict[str, float] = {}
    for key, value in losses.items():
        name = key.split("/")[0]
        sums[name] = sums.get(name, 0.0) + value
    return sums


class Progress:
    """A listener for `engram.compare` and a context: live on a terminal, sparse lines elsewhere, or silent.

    Args:
        quiet: print nothing.
        live: None is "when standard output is a terminal".
        headline: said once the first worker starts, when everything has been checked.
        track: trackers that are told too, by name or given.

    Raises:
        ConfigError: a tracker is asked for and not installed, or there is none of that name.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        live: bool | None = None,
        headline: str = "",
        track: Sequence[str | Tracker] = (),
    ) -> None:
        self.quiet = quiet
        self.live_wanted = (sys.stdout.isatty() if live is None else live) and not quiet
        self.rows: dict[tuple[str, int], Row] = {}
        self.lock = threading.Lock()
        self.began = time.monotonic()
        self.tracking: Tracking | None = None
        self._live: Any = None
        self.headline = headline
        if track:
            from engram.studies.trackers import Tracking  # what it loads may be heavy

            self.tracking = Tracking(track)

    def __enter__(self) -> Progress:
        if self.live_wanted:
            # A quiet command does without rich.
            from rich.console import Console
            from rich.live import Live

            self._live = Live(
                get_renderable=self.render,
                console=Console(highlight=False),
                refresh_per_second=4,
                transient=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None and self._live.is_started:
            self._live.stop()
        if self.tracking is not None:
            self.tracking.close()

    def say(self, line: str) -> None:
        """A line above the display, or on standard output; nothing when quiet."""
        if self.quiet:
            return
        line = "\n".join(map(printable, line.split("\n")))
        if self._live is not None:
            from rich.text import Text  # as above

            self._live.console.print(Text(line))
        else:
            print(line, flush=True)

    def __call__(self, event: Event) -> None:
        """Take in what a worker said."""
        job = event.job
        if self.headline:
            headline, self.headline = self.headline, ""
            self.say(headline)
        with self.lock:
            row = self.rows.setdefault((job.label, job.seed), Row(job.label, job.seed))
            line = self._take(row, event)
        if line:
            self.say(line)
        if self._live is not None and not self._live.is_started and event.kind == "spawn":
            self._live.start()
        if self.tracking is not None:
            self.tracking(event)

    def _take(self, row: Row, event: Event) -> str:
        """Bring a row up to date; returns a line worth saying, or nothing."""
        said, kind, now = event.data, event.kind, time.monotonic()
        name = f"{row.label} seed {row.seed}"
        if kind == "spawn":
            row.status = "starting"
        elif kind == "start":
            row.status, row.n_tasks, row.task_began = "running", int(said["n_tasks"]), now
            row.done, row.seconds = len(said["rows"]), list(said["seconds"])
            if row.done:
                row.accuracy = _mean(said["rows"][-1])
            if event.job.resume and said["epochs_done"]:
                return f"{name}: continues at task {min(row.done + 1, row.n_tasks)} of {row.n_tasks}"
        elif kind == "epoch":
            row.phase, row.epoch, row.n_epochs = said["phase"], said["epoch"] + 1, said["n_epochs"]
            row.losses, row.phase_share = said["losses"], (said["epoch"] + 1) / said["n_epochs"]
        elif kind == "task":
            row.done, row.accuracy, row.task_began = said["task"] + 1, _mean(said["accuracies"]), now
            row.seconds.append(said["seconds"])
            row.phase, row.epoch, row.n_epochs, row.losses = "", 0, 0, {}
            if self._live is None or row.done == row.n_tasks:
                took = sum(row.seconds) if row.done == row.n_tasks else said["seconds"]
                what = f"task {row.done} of {row.n_tasks}"
                if row.done == row.n_tasks:
                    what = "1 task" if row.n_tasks == 1 else f"{row.n_tasks} tasks"
                said_so = "" if row.accuracy is None else f", average accuracy {100 * row.accuracy:.1f} %"
                return f"{name}: {what} in {duration(took)}{said_so}"
        elif kind == "done":
            row.status = "done"
        elif kind == "failed":
            row.status = "failed"
            where = f" at task {min(row.done + 1, row.n_tasks)} of {row.n_tasks}" if row.n_tasks else ""
            return f"{name}: failed{where}"
        elif kind == "note":
            return f"{name}: note: {said['message']}"
        return ""

    def render(self) -> RenderableType:
        """The live display: a row a running seed, and a bar over all."""
        # As above.
        from rich import box
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        now = time.monotonic()
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), expand=False)
        for name, right in (
            ("method", 0),
            ("seed", 1),
            ("task", 1),
            ("phase", 0),
            ("epoch", 1),
            ("losses", 0),
        ):
            table.add_column(name, justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
        table.add_column("accuracy", justify="right", no_wrap=True)
        table.add_column("left", justify="right", no_wrap=True)
        with self.lock:
            rows = list(self.rows.values())
            for row in rows:
                if row.status in ("starting", "running"):
                    table.add_row(*(Text(printable(cell)) for cell in _cells(row, now)))
        ended = sum(row.status in ("done", "failed") for row in rows)
        share = sum(row.share(now) for row in rows) / max(len(rows), 1)
        words = f" {ended} of {len(rows)} done, {duration(now - self.began)} so far"
        if rows and ended == len(rows):
            words += ", writing the report"
        line = Table.grid(padding=(0, 1))
        line.add_row(
            ProgressBar(total=1.0, completed=share, width=40), Text(f"{100 * share:3.0f} %"), Text(words)
        )
        return Group(table, line)


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _cells(row: Row, now: float) -> list[str]:
    left = row.left(now)
    return [
        row.label,
        str(row.seed),
        f"{min(row.done + 1, row.n_tasks)}/{row.n_tasks}" if row.n_tasks else "",
        row.phase or row.status,
        f"{row.epoch}/{row.n_epochs}" if row.n_epochs else "",
        "  ".join(f"{k} {v:.3g}" for k, v in by_update(row.losses).items()),
        "" if row.accuracy is None else f"{100 * row.accuracy:.1f} %",
        "" if left is None else duration(left),
    ]
