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
from typing import ClassVar

from torch import Tensor

from engram.core.contract import (
    Batch,
    Phase,
    Player,
    Scenario,
    Step,
    TaskInfo,
    Terms,
    evaluating,
    named_parameters,
)
from engram.methods.registry import Entry
from engram.parts import small
from engram.parts.fitting import TrainOptions
from engram.parts.one_network import OneNetwork


@dataclass(frozen=True)
class FrozenConfig(TrainOptions):
    """Options of feature extraction."""


class Frozen(OneNetwork):
    """Cross entropy; from the second task on of the new output rows alone."""

    Config = FrozenConfig
    config: FrozenConfig
    scenarios: ClassVar[frozenset[Scenario]] = frozenset({"class", "task"})

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        return (self.fit_phase(task, self.loss),)

    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        fit = self.config.for_task(task)
        if task.index == 0:
            return {"net": fit.player(self.theta)}
        # Decay is added to the new rows' gradients below, and moments start empty: both would move old rows.
        fit = replace(fit, weight_decay=0.0, keep_optimiser=False)
        return {"net": fit.player(named_parameters(self, f"net.{self.net.newest}"))}

    def loss(self, batch: Batch, step: Step) -> Terms:
        if step.task.index == 0:
            features = self.net.trunk(batch.x)
        else:
            with evaluating(self.net.trunk):
                features = self.net.trunk(batch.x)
        return {"ce": self.cross_entropy(features, batch, step)}

    def after_backward(self, player: str, grads: dict[str, Tensor], step: Step) -> None:
        if step.task.index == 0:
            return
        for name, grad in grads.items() if self.config.weight_decay else ():
            grad.add_(self.theta[name].detach(), alpha=self.config.weight_decay)
        self.net.cut_old_rows(grads, step.task)


ENTRIES = {
    "frozen": Entry(
        Frozen,
        FrozenConfig(),
        "feature extraction: after the first task only new output rows learn",
        small={"adam": small.TRAIN, "stored": f"{small.STORED}, weight_decay=0.01"},
    )
}
