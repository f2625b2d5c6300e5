"""What classifiers in closed form have in common: an interface with named hooks, from which methods derive.

Each task's samples are read once, without gradients, into `ClassStatistics`; what is answered follows from them. So
the order of tasks and of samples, and how they are batched, do not matter but for rounding, and nothing is forgotten.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from engram.core.contract import Batch, Context, Method, Phase, Player, Samples, Step, TaskInfo, Terms, Update
from engram.core.options import Count, Positive
from engram.core.values import Checked
from engram.errors import ConfigError
from engram.parts.class_statistics import ClassStatistics, Precision, Scatter

Balance = Literal["samples", "classes"]


@dataclass(frozen=True)
class PassOptions(Checked):
    """Options of a pass over samples.

    Args:
        batch_size: samples at a time; does not matter for the result but for rounding.
        precision: number format of products of samples: float32, or float64, which takes twice as long; sums are
            float64.
        memory_limit: GiB that statistics, and what is computed from them, may take.
    """

    batch_size: Count = 2000
    precision: Precision = "float32"
    memory_limit: Positive = 4.0


class OnePass(Method):
    """Statistics of vectors, or of images that are flattened after the network's normalisation.

    Hooks: :meth:`features`, :meth:`scores`.
    """

    config: PassOptions
    refines = True
    balance: Balance = "samples"
    #: Matrices [d, d] that an answer takes at a time, and keeps for each class.
    matrices: ClassVar[tuple[int, int]] = (0, 0)

    def __init__(self, config: PassOptions, context: Context, scatter: Scatter, d: int | None = None) -> None:
        super().__init__(config, context)
        entries = math.prod(context.image_shape) if d is None else d
        limit, n = config.memory_limit, context.n_classes
        self.statistics = ClassStatistics(entries, scatter, config.precision, limit, n, *self.matrices)
        self._weights: Tensor | None = None  # of a sample of each class, for the task in progress

    # Hooks ---------------------------------------------------------------------------------------------------------
    def features(self, x: Tensor) -> Tensor:
        """What statistics are taken of, [B, d], from vectors [B, D]."""
        return x

    def scores(self, z: Tensor) -> Tensor:
        """Scores [B, k] of the k classes that have samples, for features ``z`` float64 [B, d]."""
        raise NotImplementedError

    # What stands here for all --------------------------------------------------------------------------------------
    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        self.statistics.grow(task.n_seen)
        if self.balance == "classes":
            self._weights = 1.0 / data.y.bincount(minlength=task.n_seen).double()

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        return (Phase("sum", 1, (Update("sum", None, self.add),), self.config.batch_size, shuffle=False),)

    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        return {}

    def add(self, batch: Batch, step: Step) -> Terms:
        """Add a batch to the statistics."""
        self.statistics.add(self.features(batch.x.flatten(1)), batch.y, self._weights)
        return {}

    @cached_property
    def _present(self) -> list[int]:
        """Classes that have samples: plain numbers, so that an answer can be traced into a graph."""
        return self.statistics.known.tolist()

    @final
    @torch.no_grad()
    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        a, b = (0, len(self.statistics.counts)) if task is None else task.active
        if not any(a <= label < b for label in self._present):
            raise ConfigError(
                f"one of the classes {a} to {b - 1} must have samples to be asked for, none has: learn it."
            )
        scores = torch.full(
            (x.shape[0], len(self.statistics.counts)), -torch.inf, dtype=torch.float64, device=x.device
        )
        scores[:, self._present] = self.scores(self.features(x.flatten(1)).double())
        scores[:, :a] = scores[:, b:] = -torch.inf
        # Only differences count, and those to the largest survive float32.
        return (scores - scores.amax(1, keepdim=True)).to(x.dtype)

    def forget(self, label: int) -> None:
        self.statistics.forget(label)
        self.forget_cached()

    def facts(self) -> dict[str, str]:
        return {"keeps": "statistics of real data, no sample"}
