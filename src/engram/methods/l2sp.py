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

from engram.core.contract import Context, Samples, Step, TaskInfo, Tradeoff
from engram.core.values import check_at_least
from engram.methods.registry import Entry
from engram.parts import small
from engram.parts.fitting import TrainOptions
from engram.parts.one_network import PlainTraining
from engram.parts.penalty import QuadraticPenalty
from engram.parts.tables import Table


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


class L2sp(PlainTraining):
    """Cross entropy plus alpha / 2 |theta - theta_prev|^2 + beta / 2 |theta_new|^2."""

    Config = L2spConfig
    config: L2spConfig
    tradeoff = Tradeoff("strength", centre=0.1)

    def __init__(self, config: L2spConfig, context: Context) -> None:
        super().__init__(config, context)
        self.anchor = Table()  # theta_prev, while a task other than the first is learned
        self.penalty = QuadraticPenalty(None, self.anchor, config.strength / 2)

    def before_growth(self, task: TaskInfo) -> None:
        if task.index:
            self.anchor.hold(self.theta)

    def new_rows(self, name: str) -> Tensor:
        """Entries of a parameter that have grown since the task before; all where it is new."""
        return self.theta[name].detach()[len(self.anchor[name]) if name in self.anchor else 0 :]

    def after_backward(self, player: str, grads: dict[str, Tensor], step: Step) -> None:
        # Gradient of the penalty: alpha (theta - theta_prev), and beta theta of what is new.
        self.penalty.add_gradient(grads, self.theta)
        for name, grad in grads.items() if step.task.index and self.config.head_strength else ():
            new = self.new_rows(name)
            grad[len(grad) - len(new) :].add_(new, alpha=self.config.head_strength)

    def consolidate(self, task: TaskInfo, data: Samples) -> None:
        self.anchor.clear()

    def measures(self, step: Step) -> dict[str, Any]:
        value = self.penalty.value(self.theta)
        if self.anchor.names:
            value += sum(
                self.config.head_strength / 2 * float(self.new_rows(n).square().sum()) for n in self.theta
            )
        return {"penalty": value}


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
