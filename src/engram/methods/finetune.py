"""Fine-tuning: the lower bound. Every task is learned with plain cross entropy, nothing protects the old
ones.

Source: the baseline of every paper here; e.g. "vanilla" in Chaudhry et al. (ECCV 2018), Sec. 6; with stored
    samples
(``memory_per_class``) their "vanilla-S".

Departures: where a task holds a single class, the loss is taken over all classes seen, old rows of the head
    kept.
Cost: none beyond training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from engram.core.contract import (
    Batch,
    Context,
    Method,
    Phase,
    Player,
    Samples,
    Step,
    TaskInfo,
    Terms,
    named_parameters,
)
from engram.methods.registry import Entry
from engram.parts import small, training
from engram.parts.training import TrainOptions


@dataclass(frozen=True)
class FinetuneConfig(TrainOptions):
    """Options of fine-tuning."""


class Finetune(Method):
    """Cross entropy on the current task, nothing else."""

    Config = FinetuneConfig
    config: FinetuneConfig

    def __init__(self, config: FinetuneConfig, context: Context) -> None:
        super().__init__(config, context)
        self.net = training.make_net(config, context)
        self.memory = training.make_memory(config, context)
        self.reads = "task" if self.memory is None else "memory"

    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        training.grow_head(self.net, task, self.context.seed, zero=self.config.zero_head)

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        fit = training.for_task(self.config, task)
        return (training.fit_phase(fit, self.loss, self.memory),)

    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        return {"net": training.player(training.for_task(self.config, task), named_parameters(self))}

    def pools(self, task: TaskInfo, phase: str, epoch: int, data: Samples) -> dict[str, Samples]:
        return training.memory_pool(self.memory)

    def loss(self, batch: Batch, step: Step) -> Terms:
        labels = training.window(self.net, step.task, self.memory, self.config.memory_weight)
        return {"ce": training.cross_entropy(self.net(batch.x, labels.active), batch.y, labels)}

    def end_task(self, task: TaskInfo, data: Samples) -> None:
        training.remember(self.memory, self.config, self.net, task, data, self.context)

    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        return training.predict(self.net, x, task)

    def structure(self) -> dict[str, Any]:
        return training.structure(self.net, self.memory)

    def rebuild(self, structure: dict[str, Any]) -> None:
        training.rebuild(self.net, self.memory, structure)

    def storage_bytes(self) -> dict[str, int]:
        return training.storage_bytes(self, self.net, self.memory)

    def facts(self) -> dict[str, str]:
        return training.facts(self.config, self.net)


ENTRIES = {
    "finetune": Entry(
        Finetune,
        FinetuneConfig(),
        "plain training on each task: the lower bound",
        small={
            "adam": f"{small.FIT}, momentum=0, keep_optimiser=false",
            "sgd": f"{small.FIT}, optimiser=sgd, lr=0.05, momentum=0.9, schedule=cosine, keep_optimiser=true, "
            "steps_per_epoch=3",
        },
    )
}
