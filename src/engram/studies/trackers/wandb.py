"""Weights & Biases: project engram (or ``WANDB_PROJECT``), a run a seed, which goes on where a seed is resumed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engram.studies.jobs import Job


class Tracker:
    """Losses against epochs and accuracies against tasks; see :class:`engram.studies.trackers.Tracker`."""

    def __init__(self) -> None:
        import wandb  # an extra

        self.init = wandb.init
        self.runs: dict[str, Any] = {}

    def begin(self, job: Job, epochs_done: int) -> None:
        folder = str(Path(job.folder).absolute())
        run = self.runs[job.folder] = self.init(
            project=os.environ.get("WANDB_PROJECT", "engram"),
            name=f"{job.label} seed {job.seed}",
            group=job.data.data,
            id=hashlib.sha256(folder.encode()).hexdigest()[:16],
            resume="allow",
            reinit="create_new",
            config={"method": job.method, "seed": job.seed, "folder": folder, **job.options},
        )
        run.define_metric("loss/*", step_metric="epoch")
        run.define_metric("accuracy/*", step_metric="task")

    def log(self, job: Job, counted: str, step: int, values: Mapping[str, float]) -> None:
        self.runs[job.folder].log({**values, counted: step})

    def end(self, job: Job, done: bool) -> None:
        self.runs.pop(job.folder).finish(exit_code=0 if done else 1)

    def close(self) -> None:
        for run in self.runs.values():
            run.finish(exit_code=1)
