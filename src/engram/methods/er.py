"""Experience replay: every step learns from as many stored samples as new ones.

A. Chaudhry, M. Rohrbach, M. Elhoseiny, T. Ajanthan, P. K. Dokania, P. H. S. Torr, M. Ranzato: "On Tiny Episodic
Memories in Continual Learning", arXiv 1902.10486, 2019 ("ER"). Here: its Algorithm 1, with the reservoir of its
Algorithm 3 (Vitter, ACM TOMS 11(1), 1985).

Departures: stored samples are drawn with replacement. The paper passes over the data once; of several epochs only the
first presents its samples to the reservoir, each once, so that no image is held twice and tasks count by their samples.
Stored samples compete among all labels seen or, with task labels, within their own task.
Cost: ``memory_budget`` real samples, and twice the batch in every step.

Shapes: B batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from engram.core.contract import (
    Batch,
    Context,
    Method,
    Noise,
    Phase,
    Player,
    Reads,
    Samples,
    Step,
    TaskInfo,
    Terms,
    Update,
    named_parameters,
)
from engram.core.options import Count
from engram.methods.registry import Entry
from engram.parts import small
from engram.parts.classifier import Classifier
from engram.parts.fitting import FitOptions
from engram.parts.reservoir import Reservoir
from engram.parts.window import cross_entropy


@dataclass(frozen=True)
class ErConfig(FitOptions):
    """Options of experience replay; ``batch_size`` counts new samples, as many stored ones come to them.

    Args:
        memory_budget: real samples stored, over all classes together.
    """

    memory_budget: Count = 200


class Er(Method):
    """Cross entropy on B_n and B_M together, then M takes from B_n (Algorithm 1)."""

    Config = ErConfig
    config: ErConfig
    reads: Reads = "memory"

    def __init__(self, config: ErConfig, context: Context) -> None:
        super().__init__(config, context)
        self.net = Classifier(context)
        self.memory = Reservoir(context.image_shape, config.memory_budget)

    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        self.net.grow(task)

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        plain, u = self.config.for_task(task).phase(self.loss), Noise((), "uniform")
        learn = replace(plain.updates[0], noise={"draw": u})
        remember = partial(self.remember, n_samples=n_samples)
        return (replace(plain, updates=(learn, Update("memory", None, remember, noise={"admit": u}))),)

    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        return {"net": self.config.for_task(task).player(named_parameters(self, "net."))}

    def loss(self, batch: Batch, step: Step) -> Terms:
        x, y = batch.x, batch.y
        if len(self.memory):
            stored = self.memory.at(self.memory.rows(batch.noise["draw"]))
            x = torch.cat([x, self.context.network.normalise(stored.x)])
            y = torch.cat([y, stored.y])
        labels = self.net.mixed(step.task)
        return {"ce": cross_entropy(self.net(x, labels.active), y, labels)}

    def remember(self, batch: Batch, step: Step, n_samples: int) -> Terms:
        """The batch is presented to the reservoir, as long as the task's ``n_samples`` come for the first time."""
        left = n_samples - step.step * self.config.batch_size if step.epoch == 0 else 0
        slots = self.memory.admit(batch.noise["admit"][: max(left, 0)])
        rows = list(slots.values())
        self.memory.put(slots, self.context.network.to_stored(batch.x[rows]), batch.y[rows])
        return {}

    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        return self.net.predict(x, task)

    def facts(self) -> dict[str, str]:
        return {"stored samples": f"{self.config.memory_budget}, reservoir, half of each batch"}


ENTRIES = {
    "er": Entry(
        Er,
        ErConfig(),
        "experience replay from a reservoir of stored samples (Chaudhry et al., 2019)",
        small={"adam": f"{small.FIT}, memory_budget=7"},
    )
}
