"""Event files for TensorBoard: losses an epoch, accuracies a task; written by the parent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engram.errors import ConfigError
from engram.studies.jobs import Job


class TensorBoard:
    """One writer a seed, in ``METHOD/tensorboard/seed-N``.

    Raises:
        ConfigError: the package tensorboard is missing.
    """

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter  # an extra, and with torch
        except ImportError as error:
            raise ConfigError(
                "--tensorboard needs the package tensorboard, it is not installed: "
                "pip install 'engram[tensorboard]'."
            ) from error
        self._make: Any = SummaryWriter
        self._writers: dict[str, Any] = {}
        self._epochs: dict[str, int] = {}

    def take(self, job: Job, kind: str, said: Mapping[str, Any]) -> None:
        """Write what an event holds."""
        folder = Path(job.folder)
        if kind == "start":
            self._epochs[job.folder] = int(said["epochs_done"])
            where = folder.parent / "tensorboard" / folder.name
            self._writers[job.folder] = self._make(str(where), purge_step=self._epochs[job.folder] or None)
        writer = self._writers.get(job.folder)
        if writer is None:
            return
        if kind == "epoch":
            for key, value in said["losses"].items():
                writer.add_scalar(f"loss/{key}", value, self._epochs[job.folder])
            self._epochs[job.folder] += 1
        elif kind == "task":
            row = said["accuracies"]
            writer.add_scalar("accuracy/average", sum(row) / len(row), said["task"])
            for index, value in enumerate(row):
                writer.add_scalar(f"accuracy/task {index + 1}", value, said["task"])
        if kind in ("done", "failed"):
            self._writers.pop(job.folder).close()

    def close(self) -> None:
        """Flush and close all writers."""
        for writer in self._writers.values():
            writer.close()
        self._writers = {}
