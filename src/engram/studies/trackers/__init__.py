"""Trackers: what a study tells an experiment tracker, a run a seed. One interface, a file a tracker, each an extra.

A tracker is a module of this package with a class `Tracker`, or an object with the four functions of :class:`Tracker`
that Python hands over. Trackers are told what workers say and cannot change a run.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from typing import Protocol

from engram.core.options import closest
from engram.errors import ConfigError
from engram.studies.jobs import Event, Job

__all__ = ["NAMES", "Tracker", "Tracking"]

NAMES = tuple(sorted(m.name for m in pkgutil.iter_modules(__path__)))


class Tracker(Protocol):
    """Where numbers go."""

    def begin(self, job: Job, epochs_done: int) -> None:
        """A seed starts, or goes on after so many epochs."""
        ...

    def log(self, job: Job, counted: str, step: int, values: Mapping[str, float]) -> None:
        """Numbers by name at a step, from 0: ``loss/...`` of an ``epoch``, ``accuracy/...`` in 0..1 of a ``task``."""
        ...

    def end(self, job: Job, done: bool) -> None:
        """A seed has finished, or failed."""
        ...

    def close(self) -> None:
        """Nothing follows; seeds that have not ended were interrupted."""
        ...


class Tracking:
    """A listener of a study that tells trackers, named or given.

    Raises:
        ConfigError: there is no tracker of that name, or its package is missing.
    """

    def __init__(self, trackers: Iterable[str | Tracker]) -> None:
        self.trackers = [_named(t) if isinstance(t, str) else t for t in trackers]
        self.epochs: dict[str, int] = {}  # by folder, of seeds that have begun

    def __call__(self, event: Event) -> None:
        """Pass on what an event holds."""
        job, said, folder = event.job, event.data, event.job.folder
        if event.kind == "start":
            self.epochs[folder] = int(said["epochs_done"])
            for tracker in self.trackers:
                tracker.begin(job, self.epochs[folder])
        elif folder not in self.epochs:
            return
        elif event.kind == "epoch":
            self._log(job, "epoch", self.epochs[folder], {f"loss/{k}": v for k, v in said["losses"].items()})
            self.epochs[folder] += 1
        elif event.kind == "task":
            row = said["accuracies"]
            values = {f"accuracy/task {i + 1}": value for i, value in enumerate(row)}
            self._log(job, "task", said["task"], {"accuracy/average": sum(row) / len(row), **values})
        elif event.kind in ("done", "failed"):
            del self.epochs[folder]
            for tracker in self.trackers:
                tracker.end(job, event.kind == "done")

    def _log(self, job: Job, counted: str, step: int, values: Mapping[str, float]) -> None:
        for tracker in self.trackers:
            tracker.log(job, counted, step, values)

    def close(self) -> None:
        """Tell all trackers that nothing follows."""
        for tracker in self.trackers:
            tracker.close()


def _named(name: str) -> Tracker:
    if name not in NAMES:
        raise ConfigError(f"a tracker must be one of {', '.join(NAMES)}, got {name!r}{closest(name, NAMES)}.")
    try:
        made: Tracker = importlib.import_module(f"{__name__}.{name}").Tracker()
    except ImportError as error:
        raise ConfigError(
            f"--track {name} needs the package {name}, it is not installed: pip install 'engram[{name}]'."
        ) from error
    return made
