"""Feature extraction: the trunk learns the first task and stays as it is; later tasks learn output rows alone.

Source: "feature extraction" in Z. Li and D. Hoiem, "Learning without Forgetting", ECCV 2016, who compare with it;
the reference point without forgetting and without plasticity.

From the second task on the trunk runs in evaluation mode: its weights and its running statistics do not move by a bit.
With real heads nothing is forgotten, exactly. With one output layer (class-incremental, ``masked_head``) old rows stay
and new rows learn; in scenario class they compete, so old tasks may still lose accuracy.

Departures: the first task is the stream's, learned from fresh weights, instead of a large network trained
    beforehand; the new layer is linear. There is no domain scenario: later tasks have no rows of their own there.
Cost: none beyond training; later tasks need no gradient of the trunk.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from engram.core.contract import (
    Batch,
    Context,
    Method,
    Phase,
    Player,
    Samples,
    Scenario,
    Step,
    TaskInfo,
    Terms,
    evaluating,
    named_parameters,
)
from engram.methods.registry import Entry
from engram.parts import small, training
from engram.parts.training import TrainOptions


@dataclass(frozen=True)
class FrozenConfig(TrainOptions):
    """Options of feature extraction."""


class Frozen(Method):
    """Cross entropy; from the second task on of the new output rows alone."""

    Config = FrozenConfig
    config: FrozenConfig
    scenarios: ClassVar[frozenset[Scenario]] = frozenset({"class", "task"})

    def __init__(self, config: FrozenConfig, context: Context) -> None:
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
        if task.index == 0:
            return {"net": training.player(training.for_task(self.config, task), named_parameters(self))}
        # Decay is added to the new rows' gradients below, and moments start empty: both would move old rows.
        fit = replace(training.for_task(self.config, task), weight_decay=0.0, keep_optimiser=False)
        last = f"net.head.parts.{len(self.net.head.parts) - 1}."
        return {"net": training.player(fit, named_parameters(self, last))}

    def pools(self, task: TaskInfo, phase: str, epoch: int, data: Samples) -> dict[str, Samples]:
        return training.memory_pool(self.memory)

    def loss(self, batch: Batch, step: Step) -> Terms:
        labels = training.window(self.net, step.task, self.memory, self.config.memory_weight)
        if step.task.index == 0:
            features = self.net.trunk(batch.x)
        else:
            with evaluating(self.net.trunk):
                features = self.net.trunk(batch.x)
        return {"ce": training.cross_entropy(self.net.head(features, labels.active), batch.y, labels)}

    def after_backward(self, player: str, grads: dict[str, Tensor], step: Step) -> None:
        if step.task.index == 0:
            return
        n_old = 0 if self.net.head.kind == "multi" else step.task.n_seen - step.task.n_classes
        for name, grad in grads.items():
            if self.config.weight_decay:
                grad.add_(self.get_parameter(name).detach(), alpha=self.config.weight_decay)
            grad[:n_old] = 0.0

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
    "frozen": Entry(
        Frozen,
        FrozenConfig(),
        "feature extraction: after the first task only new output rows learn",
        small={"adam": small.TRAIN, "stored": f"{small.STORED}, weight_decay=0.01"},
    )
}
