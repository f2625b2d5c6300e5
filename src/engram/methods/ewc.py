"""Elastic Weight Consolidation: one penalty a task, weighted by Fisher information.

J. Kirkpatrick et al.: "Overcoming catastrophic forgetting in neural networks", PNAS 114(13), 2017, arXiv
1612.00796 ("EWC"). Here: Eq. 3 with its sum over the earlier tasks. For the form with a single penalty see
``ewc-online``.

Departures: none in the equations; the paper does not say which Fisher information it takes. Ours is per
sample, in evaluation mode, with labels drawn from the model's own prediction (``fisher_labels``). Rows of a
growing output layer enter the old penalties with zero importance. Normalisation's scale and offset take part like
other weights; its running statistics are no parameters and are not held. Cost: two tensors a parameter and
*task* (Fisher information and anchor), one pass over the task's data at its end.

Shapes: * is a parameter's shape. F in nats^2 per squared unit of the parameter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engram.core.contract import Context, Samples, Step, TaskInfo, Tradeoff
from engram.core.options import NonNegative
from engram.errors import ConfigError
from engram.methods.registry import Entry
from engram.parts import small
from engram.parts.one_network import PlainTraining
from engram.parts.penalty import QuadraticPenalty, proximal_step
from engram.parts.tables import Scratch, Tables
from engram.parts.task_importance import FisherOptions, TaskImportance


@dataclass(frozen=True)
class EwcConfig(FisherOptions):
    """Options of Elastic Weight Consolidation.

    Args:
        strength: strength of the penalty, lambda in Eq. 3, which has a factor 1/2.
        penalty_step: how the penalty acts: gradient, the penalty's gradient joins that of the loss, as the paper; or
            proximal, each step of the optimiser, which must be sgd, is followed by an implicit one of the penalty
            alone, which is stable for any strength.
    """

    strength: NonNegative = 1000.0
    penalty_step: Literal["gradient", "proximal"] = "gradient"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.penalty_step == "proximal" and self.optimiser != "sgd":
            raise ConfigError(
                f"penalty_step=proximal needs optimiser sgd, got {self.optimiser}: it divides the loss's gradient by "
                "its size, so that no rate balances the two. Use sgd, or penalty_step=gradient."
            )


class Ewc(PlainTraining):
    """Cross entropy plus lambda / 2 sum_nu sum_k F^nu_k (theta_k - theta*_nu,k)^2 over the earlier tasks nu."""

    Config = EwcConfig
    config: EwcConfig
    tradeoff = Tradeoff("strength", centre=1e3)

    def __init__(self, config: EwcConfig, context: Context) -> None:
        super().__init__(config, context)
        self.fishers, self.anchors = Tables(), Tables()
        self.adds_gradient = config.penalty_step == "gradient"
        self.measured = TaskImportance(self.net, context)
        self._scratch = Scratch()

    @property
    def penalties(self) -> list[QuadraticPenalty]:  # type: ignore[override]
        """One for each earlier task nu, with gradient lambda F^nu (theta - theta*_nu)."""
        half, pairs = self.config.strength / 2, zip(self.fishers, self.anchors, strict=True)
        return [QuadraticPenalty(f, a, half, scratch=self._scratch, joins=False) for f, a in pairs]

    def after_step(self, player: str, step: Step) -> None:
        if self.config.penalty_step == "proximal":
            fit = self.config.for_task(step.task).player({}).optimiser
            # Momentum m moves weights by rate / (1 - m) times a lasting gradient.
            rate = fit.rate(step.epoch, step.n_epochs) / (1.0 - fit.momentum)
            proximal_step(self.theta, self.penalties, rate)

    def consolidate(self, task: TaskInfo, data: Samples) -> None:
        c, own = self.config, self.taking_part(task)
        self.fishers.hold(self.measured.fisher(own, task, data, c.fisher_samples, c.fisher_labels))
        self.anchors.hold(own)

    def added_facts(self) -> dict[str, str]:
        told = {"fisher": f"per sample, {self.config.fisher_labels} labels"}
        if self.config.penalty_step == "proximal":
            told["penalty"] = "proximal step"
        return told


ENTRIES = {
    "ewc": Entry(
        Ewc,
        EwcConfig(),
        "Elastic Weight Consolidation, a penalty per task (Kirkpatrick et al., PNAS 2017)",
        small={
            "sampled": f"{small.TRAIN}, strength=10, penalty_step=gradient, fisher_labels=sampled, "
            "fisher_samples=none",
            "stored": f"{small.STORED}, strength=10, penalty_step=proximal, fisher_labels=exact, fisher_samples=9",
        },
    )
}
