"""Online EWC: one running Fisher information and one anchor, however many tasks.

J. Schwarz et al.: "Progress & Compress: A scalable framework for continual learning", ICML 2018, arXiv
1805.06370 ("P&C"). Here: its Sec. 4, "Online EWC", applied to one network, without the active column. With
``gamma = 1`` it is the single-penalty form of F. Huszar, "Note on the quadratic penalties in elastic weight
consolidation", PNAS 115(11), 2018, arXiv 1712.03847.

Departures: the Fisher information is per sample, in evaluation mode, with labels drawn from the model's own
prediction (``fisher_labels``); its normalisation, for which the paper gives no rule, is off unless asked for.
Rows of a growing output layer enter with zero importance. Normalisation's scale and offset take part like other
weights; its running statistics are no parameters and are not held. Cost: two tensors a parameter, one pass
over the task's data at its end; nothing grows with the number of tasks.

Shapes: * is a parameter's shape. F in nats^2 per squared unit of the parameter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from engram.core.contract import Context, Samples, TaskInfo, Tradeoff
from engram.core.options import NonNegative, Share
from engram.methods.registry import Entry
from engram.parts import small
from engram.parts.one_network import PlainTraining
from engram.parts.penalty import QuadraticPenalty
from engram.parts.tables import Table
from engram.parts.task_importance import FisherOptions, TaskImportance


@dataclass(frozen=True)
class EwcOnlineConfig(FisherOptions):
    """Options of online EWC.

    Args:
        strength: strength of the penalty, lambda; it has a factor 1/2.
        gamma: share of the old Fisher information is kept, at each task's end and again in the penalty.
        normalise: whether each task's Fisher information is added as it is, or divided by its largest
            entry.
    """

    strength: NonNegative = 1000.0
    gamma: Share = 1.0
    normalise: Literal["none", "max"] = "none"


class EwcOnline(PlainTraining):
    """Cross entropy plus lambda / 2 sum_k gamma F~_k (theta_k - theta*_k)^2."""

    Config = EwcOnlineConfig
    config: EwcOnlineConfig
    tradeoff = Tradeoff("strength", centre=1e3)

    def __init__(self, config: EwcOnlineConfig, context: Context) -> None:
        super().__init__(config, context)
        self.fisher, self.anchor = Table(), Table()
        # Its gradient is lambda gamma F~ (theta - theta*): gamma enters here too, a second time.
        self.penalties = [QuadraticPenalty(self.fisher, self.anchor, 0.5 * config.strength * config.gamma)]
        self.measured = TaskImportance(self.net, context)

    def consolidate(self, task: TaskInfo, data: Samples) -> None:
        c = self.config
        found = self.measured.fisher(self.taking_part(task), task, data, c.fisher_samples, c.fisher_labels)
        top = 1.0
        if c.normalise == "max":
            top = max(max(float(f.max()) for f in found.values()), torch.finfo(torch.float32).tiny)
        # F~ <- gamma F~ + F.
        self.fisher.add(found, keep=c.gamma, factor=1.0 / top)
        self.anchor.copy_from(self.theta)

    def added_facts(self) -> dict[str, str]:
        return {"fisher": f"per sample, {self.config.fisher_labels} labels"}


ENTRIES = {
    "ewc-online": Entry(
        EwcOnline,
        EwcOnlineConfig(),
        "EWC with one running penalty (Schwarz et al., ICML 2018)",
        small={
            "sampled": f"{small.TRAIN}, strength=10, fisher_samples=none, gamma=0.9, normalise=none, "
            "fisher_labels=sampled",
            "stored": f"{small.STORED}, strength=10, fisher_samples=none, gamma=1, normalise=max, "
            "fisher_labels=empirical",
        },
    )
}
