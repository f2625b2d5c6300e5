"""Memory Aware Synapses: weights that the output depends on are held.

R. Aljundi et al.: "Memory Aware Synapses: Learning what (not) to forget", ECCV 2018, arXiv 1711.09601
("MAS"). Here: the sensitivity of the output (Sec. 4.1) and the objective (Sec. 4.2). No labels are needed for
the importance.

Departures: absolute values are taken of single samples' gradients, as the paper writes it; the released code
takes them of a batch's sum, where samples cancel. Importances of tasks are added up, as in the released code.
f are the logits of the task's active labels. Rows of a growing output layer enter with zero importance.
Normalisation's scale and offset take part like other weights; its running statistics are no parameters and
are not held. Cost: two tensors a parameter, one pass over the task's data at its end; nothing grows with the
number of tasks.

Shapes: * is a parameter's shape. Omega in squared logits per unit of the parameter.
"""

from __future__ import annotations

from dataclasses import dataclass

from engram.core.contract import Context, Samples, TaskInfo, Tradeoff
from engram.core.options import Count, NonNegative
from engram.methods.registry import Entry
from engram.parts import small
from engram.parts.fitting import TrainOptions
from engram.parts.one_network import PlainTraining
from engram.parts.penalty import QuadraticPenalty
from engram.parts.tables import Table
from engram.parts.task_importance import TaskImportance


@dataclass(frozen=True)
class MasConfig(TrainOptions):
    """Options of Memory Aware Synapses.

    Args:
        strength: strength of the penalty, lambda in Sec. 4.2; the penalty has no factor 1/2.
        samples: training samples that the importance is taken over, drawn at random; None for all.
    """

    strength: NonNegative = 1.0
    samples: Count | None = None


class Mas(PlainTraining):
    """Cross entropy plus lambda sum_k Omega_k (theta_k - theta*_k)^2."""

    Config = MasConfig
    config: MasConfig
    tradeoff = Tradeoff("strength")

    def __init__(self, config: MasConfig, context: Context) -> None:
        super().__init__(config, context)
        self.importance, self.anchor = Table(), Table()
        # Its gradient is 2 lambda Omega (theta - theta*) (Sec. 4.2).
        self.penalties = [QuadraticPenalty(self.importance, self.anchor, config.strength)]
        self.measured = TaskImportance(self.net, context)

    def consolidate(self, task: TaskInfo, data: Samples) -> None:
        # Omega (Sec. 4.1) of the task, added to that of the tasks before; labels are not looked at.
        self.importance.add(
            self.measured.sensitivity(self.taking_part(task), task, data, self.config.samples)
        )
        self.anchor.copy_from(self.theta)


ENTRIES = {
    "mas": Entry(
        Mas,
        MasConfig(),
        "Memory Aware Synapses: sensitivity of the output (Aljundi et al., ECCV 2018)",
        small={
            "adam": f"{small.TRAIN}, strength=1, samples=none",
            "stored": f"{small.STORED}, strength=0.1, samples=9",
        },
    )
}
