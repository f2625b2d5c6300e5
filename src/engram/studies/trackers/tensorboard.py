"""Event files for TensorBoard: one writer a seed, in ``METHOD/tensorboard/seed-N``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engram.studies.jobs import Job


class Tracker:
    """Losses an epoch and accuracies a task as scalars; see :class:`engram.studies.trackers.Tracker`."""

    def __init__(self) -> None:
        from torch.utils.tensorboard import SummaryWriter  # an extra, and with torch

        self.make: Any = SummaryWriter
        self.writers: dict[str, Any] = {}

    def begin(self, job: Job, epochs_done: int) -> None:
        folder = Path(job.folder)
        where = folder.parent / "tensorboard" / folder.name
        self.writers[job.folder] = self.make(str(where), purge_step=epochs_done or None)

    def log(self, job: Job, counted: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writers[job.folder].add_scalar(name, value, step)

    def end(self, job: Job, done: bool) -> None:
        self.writers.pop(job.folder).close()

    def close(self) -> None:
        for writer in self.writers.values():
            writer.close()
