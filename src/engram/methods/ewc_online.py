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
from typing import Any, Literal

import torch
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
from engram.core.values import check_at_least, check_fraction, check_positive
from engram.methods.registry import Entry
from engram.parts import penalty, small, training
from engram.parts.fisher import Labels, prove
from engram.parts.tables import Scratch, Table
from engram.parts.task_fisher import task_fisher
from engram.parts.training import TrainOptions


@dataclass(frozen=True)
class EwcOnlineConfig(TrainOptions):
    """Options of online EWC.

    Args:
        strength: lambda; the penalty has a factor 1/2.
        gamma: how much of the old Fisher information is kept, at each task's end and again in the penalty.
        normalise: each task's Fisher information before it is added: as it is, or divided by its largest
            entry.
        fisher_labels: whose gradient is squared: sampled (one label drawn from the prediction), exact
            (expectation over all labels), empirical (the true label), predicted (the most probable one).
        fisher_samples: training samples that the Fisher information is taken over, drawn at random; None for
            all.
    """

    strength: float = 1000.0
    gamma: float = 1.0
    normalise: Literal["none", "max"] = "none"
    fisher_labels: Labels = "sampled"
    fisher_samples: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 0, "strength")
        check_fraction(self, "gamma")
        check_positive(self, "fisher_samples")


class EwcOnline(Method):
    """Cross entropy plus lambda / 2 sum_k gamma F~_k (theta_k - theta*_k)^2."""

    Config = EwcOnlineConfig
    config: EwcOnlineConfig
    tradeoff = Tradeoff("strength", centre=1e3)

    def __init__(self, config: EwcOnlineConfig, context: Context) -> None:
        super().__init__(config, context)
        self.net = training.make_net(config, context)
        self.memory = training.make_memory(config, context)
        self.reads = "task" if self.memory is None else "memory"
        self._paths = prove(self.net.trunk, torch.zeros(1, *context.image_shape))
        self.fisher, self.anchor = Table(), Table()
        self.n_learned = 0
        self._scratch = Scratch()

    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        training.grow_head(self.net, task, self.context.seed, zero=self.config.zero_head)
        parameters = named_parameters(self)
        self.fisher.pad(parameters, 0.0)
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
        # Gradient of the penalty: lambda gamma F~ (theta - theta*); gamma enters here a second time.
        if self.n_learned:
            penalty.add_gradient(
                grads, self.get_parameter, self.fisher, self.anchor, self._half, self._scratch
            )

    @property
    def _half(self) -> float:
        return 0.5 * self.config.strength * self.config.gamma

    @torch.no_grad()
    def end_task(self, task: TaskInfo, data: Samples) -> None:
        c = self.config
        own = training.taking_part(self, self.net, task)
        found = task_fisher(
            self.net,
            self._paths,
            own,
            task,
            data,
            self.context,
            labels=c.fisher_labels,
            n_samples=c.fisher_samples,
        )
        top = 1.0
        if c.normalise == "max":
            top = max(max(float(f.max()) for f in found.values()), torch.finfo(torch.float32).tiny)
        # F~ <- gamma F~ + F.
        for value in self.fisher.values():
            value.mul_(c.gamma)
        for name, value in found.items():
            self.fisher[name].add_(value, alpha=1.0 / top)
        self.anchor.copy_from(named_parameters(self))
        self.n_learned += 1
        training.remember(self.memory, self.config, self.net, task, data, self.context)

    # Answers and state --------------------------------------------------------------------------------------
    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        return training.predict(self.net, x, task)

    def structure(self) -> dict[str, Any]:
        tables = {"fisher": self.fisher.structure(), "anchor": self.anchor.structure()}
        return {**training.structure(self.net, self.memory), **tables, "n_learned": self.n_learned}

    def rebuild(self, structure: dict[str, Any]) -> None:
        training.rebuild(self.net, self.memory, structure)
        self.fisher.rebuild(structure["fisher"])
        self.anchor.rebuild(structure["anchor"])
        self.n_learned = int(structure["n_learned"])

    def storage_bytes(self) -> dict[str, int]:
        return training.storage_bytes(self, self.net, self.memory)

    def facts(self) -> dict[str, str]:
        return {
            **training.facts(self.config, self.net),
            "fisher": f"per sample, {self.config.fisher_labels} labels",
        }

    @torch.no_grad()
    def measures(self, step: Step) -> dict[str, Any]:
        return {"penalty": float(penalty.quadratic(self.get_parameter, self.fisher, self.anchor, self._half))}


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
