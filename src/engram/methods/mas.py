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
from typing import Any

import torch
from torch import Tensor

from engram import seeds
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
from engram.core.values import check_at_least, check_positive
from engram.methods.registry import Entry
from engram.parts import penalty, small, training
from engram.parts.fisher import output_sensitivity, prove
from engram.parts.tables import Scratch, Table
from engram.parts.task_fisher import with_heads
from engram.parts.training import TrainOptions


@dataclass(frozen=True)
class MasConfig(TrainOptions):
    """Options of Memory Aware Synapses.

    Args:
        strength: lambda in Sec. 4.2; the penalty has no factor 1/2.
        samples: training samples that the importance is taken over, drawn at random; None for all.
    """

    strength: float = 1.0
    samples: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 0, "strength")
        check_positive(self, "samples")


class Mas(Method):
    """Cross entropy plus lambda sum_k Omega_k (theta_k - theta*_k)^2."""

    Config = MasConfig
    config: MasConfig
    tradeoff = Tradeoff("strength")

    def __init__(self, config: MasConfig, context: Context) -> None:
        super().__init__(config, context)
        self.net = training.make_net(config, context)
        self.memory = training.make_memory(config, context)
        self.reads = "task" if self.memory is None else "memory"
        self._paths = prove(self.net.trunk, torch.zeros(1, *context.image_shape))
        self.importance, self.anchor = Table(), Table()
        self.n_learned = 0
        self._scratch = Scratch()

    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        training.grow_head(self.net, task, self.context.seed, zero=self.config.zero_head)
        parameters = named_parameters(self)
        self.importance.pad(parameters, 0.0)
        self.anchor.pad(parameters, "value")

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
        # Gradient of the penalty (Sec. 4.2): 2 lambda Omega (theta - theta*).
        if self.n_learned:
            penalty.add_gradient(
                grads, self.get_parameter, self.importance, self.anchor, self.config.strength, self._scratch
            )

    @torch.no_grad()
    def end_task(self, task: TaskInfo, data: Samples) -> None:
        c = self.config
        seen = training.some_of(data, c.samples, seeds.generator(self.context.seed, "importance", task.index))
        own = training.taking_part(self, self.net, task)
        # Omega (Sec. 4.1) over the task's samples, added to that of the tasks before; labels are not looked
        # at.
        found = output_sensitivity(
            self.net,
            {n.removeprefix("net."): p for n, p in own.items()},
            seen.x,
            task.active,
            transform=self.context.network.normalise,
            paths=with_heads(self.net, self._paths),
        )
        for name, value in found.items():
            self.importance[f"net.{name}"].add_(value)
        self.anchor.copy_from(named_parameters(self))
        self.n_learned += 1
        training.remember(self.memory, self.config, self.net, task, data, self.context)

    # Answers and state --------------------------------------------------------------------------------------
    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        return training.predict(self.net, x, task)

    def structure(self) -> dict[str, Any]:
        tables = {"importance": self.importance.structure(), "anchor": self.anchor.structure()}
        return {**training.structure(self.net, self.memory), **tables, "n_learned": self.n_learned}

    def rebuild(self, structure: dict[str, Any]) -> None:
        training.rebuild(self.net, self.memory, structure)
        self.importance.rebuild(structure["importance"])
        self.anchor.rebuild(structure["anchor"])
        self.n_learned = int(structure["n_learned"])

    def storage_bytes(self) -> dict[str, int]:
        return training.storage_bytes(self, self.net, self.memory)

    def facts(self) -> dict[str, str]:
        return training.facts(self.config, self.net)

    @torch.no_grad()
    def measures(self, step: Step) -> dict[str, Any]:
        value = penalty.quadratic(self.get_parameter, self.importance, self.anchor, self.config.strength)
        return {"penalty": float(value)}


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
