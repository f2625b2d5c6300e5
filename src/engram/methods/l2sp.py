"""L2-SP: weights are held near those of the task before, each as strongly as any other.

X. Li, Y. Grandvalet, F. Davoine: "Explicit inductive bias for transfer learning with convolutional networks", ICML
2018, arXiv 1802.01483 ("L2-SP"); the L2 penalty that Kirkpatrick et al. (PNAS 2017) compare with. Here: the penalty
with a starting point (alpha) and the decay of what is new (beta), both with a factor 1/2.

Departures: the starting point is the network after the task before, so that a sequence of tasks makes sense; the paper
    has one pre-trained network and one task. Nothing is held in the first task. Biases, and scale and offset of
    normalisation, are held like other weights; running statistics are no parameters and are not held. ``head_strength``
    is 0 by default, so that strength 0 is fine-tuning.
Cost: a copy of the network while a task is learned, none between tasks.

Shapes: * is a parameter's shape.
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
    Tradeoff,
    named_parameters,
)
from engram.core.values import check_at_least
from engram.methods.registry import Entry
from engram.parts import small, training, transfer
from engram.parts.tables import Scratch, Table
from engram.parts.training import TrainOptions


@dataclass(frozen=True)
class L2spConfig(TrainOptions):
    """Options of L2-SP.

    Args:
        strength: alpha, how strongly weights are held where they stood before the task; with a factor 1/2.
        head_strength: beta, how strongly new rows of the output layer are held at 0 from the second task on; with a
            factor 1/2.
    """

    strength: float = 0.1
    head_strength: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 0, "strength", "head_strength")


class L2sp(Method):
    """Cross entropy plus alpha / 2 |theta - theta_prev|^2 + beta / 2 |theta_new|^2."""

    Config = L2spConfig
    config: L2spConfig
    tradeoff = Tradeoff("strength", centre=0.1)

    def __init__(self, config: L2spConfig, context: Context) -> None:
        super().__init__(config, context)
        self.net = training.make_net(config, context)
        self.memory = training.make_memory(config, context)
        self.reads = "task" if self.memory is None else "memory"
        self.anchor = Table()  # theta_prev, while a task other than the first is learned
        self._scratch = Scratch()

    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        if self.net.head.n_outputs:
            transfer.hold(self.anchor, named_parameters(self))
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

    # Moments ------------------------------------------------------------------------------------------------
    def after_backward(self, player: str, grads: dict[str, Tensor], step: Step) -> None:
        # Gradient of the penalty: alpha (theta - theta_prev), and beta theta of what is new.
        c = self.config
        if self.anchor.names:
            transfer.add_pull(
                grads, self.get_parameter, self.anchor, c.strength, self._scratch, fresh=c.head_strength
            )

    def end_task(self, task: TaskInfo, data: Samples) -> None:
        self.anchor.rebuild([])
        training.remember(self.memory, self.config, self.net, task, data, self.context)

    # Answers and state --------------------------------------------------------------------------------------
    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        return training.predict(self.net, x, task)

    def structure(self) -> dict[str, Any]:
        return {**training.structure(self.net, self.memory), "anchor": self.anchor.structure()}

    def rebuild(self, structure: dict[str, Any]) -> None:
        training.rebuild(self.net, self.memory, structure)
        self.anchor.rebuild(structure["anchor"])

    def storage_bytes(self) -> dict[str, int]:
        return training.storage_bytes(self, self.net, self.memory)

    def facts(self) -> dict[str, str]:
        return training.facts(self.config, self.net)

    def measures(self, step: Step) -> dict[str, Any]:
        if not self.anchor.names:
            return {"penalty": 0.0}
        c = self.config
        return {"penalty": transfer.pull(named_parameters(self), self.anchor, c.strength, c.head_strength)}


ENTRIES = {
    "l2sp": Entry(
        L2sp,
        L2spConfig(),
        "L2-SP: weights held near those of the task before (Li et al., ICML 2018)",
        small={
            "adam": f"{small.TRAIN}, strength=1, head_strength=0",
            "stored": f"{small.STORED}, strength=0.1, head_strength=0.5",
        },
    )
}
