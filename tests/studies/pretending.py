"""Workers that measure what a formula says, at once: for tests of everything around training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engram.errors import DivergedError
from engram.studies.folders import JOB_FILE
from engram.studies.jobs import Event, Job
from engram.studies.results import seed_result, write_entry
from engram.studies.settings import NetworkSettings

SMALL = ["--source", "digits:0-4", "--target", "digits:5-9", "--max-per-class", "20", "--recipe", "none"]
SMALL += ["--network", "mlp", "--mlp.hidden", "[8]"]
GIVEN: dict[str, Any] = {
    "source": "digits:0-4",
    "target": "digits:5-9",
    "data": {"max_per_class": 20},
    "network": NetworkSettings("mlp", {"hidden": [8]}),
    "recipe": "none",
    "device": "cpu",
}
NETWORK = 0.98  # source accuracy before the target
PLASTIC = 0.95  # target accuracy of fine-tuning
Answer = Callable[[str, float | None, int], tuple[float, float]]


def logistic(method: str, value: float | None, seed: int) -> tuple[float, float]:
    """(source, target) accuracy: fine-tuning for small strengths, the source network for large ones, even at 1."""
    if value is None:
        return 0.5, PLASTIC
    share = 1 / (1 + value**-2) if value else 0.0
    return 0.5 + (NETWORK - 0.5) * share, PLASTIC - 0.4 * share


def diverged(method: str, value: float | None, seed: int) -> tuple[float, float]:
    """Raises as the loop does."""
    raise DivergedError("losses and parameters must be finite, net/ce are not after epoch 1 of phase 'fit'.")


class Pretend:
    """Takes the place of processes; ``ran`` lists (method, value, seed) of each job.

    ``options`` names the varied option of a method, ``stop_after`` lets a kill fall after so many jobs.
    """

    def __init__(self) -> None:
        self.ran: list[tuple[str, float | None, int]] = []
        self.queues: list[int] = []
        self.answer: Answer = logistic
        self.options = {"lwf": "strength", "ewc": "strength", "si": "c", "averaging": "ratio"}
        self.stop_after = math.inf

    def __enter__(self) -> Pretend:
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves nothing behind."""

    def run(self, jobs: Sequence[Job], listener: Any, *_: Any, **more: Any) -> None:
        self.queues.append(len(jobs))
        for job in jobs:
            if len(self.ran) >= self.stop_after:
                raise KeyboardInterrupt
            self.learn(job, listener)

    def learn(self, job: Job, listener: Any) -> None:
        value = job.options.get(self.options.get(job.method, ""))
        self.ran.append((job.method, value, job.seed))
        (Path(job.folder) / JOB_FILE).write_text(job.to_json(), encoding="utf-8")
        listener(
            Event(job, "start", {"rows": [], "seconds": [], "valid": [], "n_tasks": 2, "epochs_done": 0})
        )
        try:
            source, target = self.answer(job.method, value, job.seed)
        except DivergedError as error:
            listener(Event(job, "failed", {"message": str(error), "expected": True}))
            return
        entry = seed_result(
            job.seed,
            [[NETWORK, None], [source, target]],
            seconds=1.0,
            seconds_per_task=[0.5, 0.5],
            valid_matrix=[[NETWORK, None], [source, target]],
        )
        write_entry(Path(job.folder), job.identity, entry)
        listener(Event(job, "done"))
