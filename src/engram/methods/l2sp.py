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

from torch import Tensor

from engram.core.contract import Context, Samples, TaskInfo, Tradeoff
from engram.core.options import NonNegative
from engram.methods.registry import Entry
from engram.parts import small
from engram.parts.fitting import TrainOptions
from engram.parts.one_network import PlainTraining
from engram.parts.penalty import Parameters, QuadraticPenalty
from engram.parts.tables import Table


@dataclass(frozen=True)
class L2spConfig(TrainOptions):
    """Options of L2-SP.

    Args:
        strength: strength alpha: how strongly weights are held where they stood before the task; with a factor 1/2.
        head_strength: strength beta: how strongly new rows of the output layer are held at 0 from the second task on;
            with a factor 1/2.
    """

    strength: NonNegative = 0.1
    head_strength: NonNegative = 0.0


class NewRows:
    """strength |theta_new|^2 over what has grown since the anchor was taken, all of a parameter that is new."""

    def __init__(self, anchor: Table, strength: float) -> None:
        self.anchor, self.strength = anchor, strength

    def _new(self, name: str, value: Tensor) -> Tensor:
        return value.detach()[len(self.anchor[name]) if name in self.anchor else 0 :]

    def pad(self, theta: Parameters) -> None:
        """Nothing is kept of what is new."""

    def add_gradient(self, grads: dict[str, Tensor], theta: Parameters) -> None:
        """Add 2 strength theta to the gradients of new rows."""
        for name, grad in grads.items() if self.strength else ():
            self._new(name, grad).add_(self._new(name, theta[name]), alpha=2 * self.strength)

    def value(self, theta: Parameters) -> float:
        """The penalty; 0 before the second task."""
        new = [self._new(name, p) for name, p in theta.items() if self.anchor.names]
        return self.strength * sum(float(rows.square().sum()) for rows in new)


class L2sp(PlainTraining):
    """Cross entropy plus alpha / 2 |theta - theta_prev|^2 + beta / 2 |theta_new|^2."""

    Config = L2spConfig
    config: L2spConfig
    tradeoff = Tradeoff("strength", centre=0.1)

    def __init__(self, config: L2spConfig, context: Context) -> None:
        super().__init__(config, context)
        self.anchor = Table()  # theta_prev, while a task other than the first is learned
        # With gradients alpha (theta - theta_prev), and beta theta of what is new.
        held, new = config.strength / 2, config.head_strength / 2
        self.penalties = [QuadraticPenalty(None, self.anchor, held), NewRows(self.anchor, new)]

    def before_growth(self, task: TaskInfo) -> None:
        if task.index:
            self.anchor.hold(self.theta)

    def consolidate(self, task: TaskInfo, data: Samples) -> None:
        self.anchor.clear()


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
