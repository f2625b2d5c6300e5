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
from typing import Any, Literal

import torch
from torch import Tensor, nn

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
from engram.errors import ConfigError
from engram.methods.registry import Entry
from engram.parts import penalty, small, training
from engram.parts.fisher import Labels, prove
from engram.parts.tables import Scratch, Table
from engram.parts.task_fisher import task_fisher
from engram.parts.training import TrainOptions


@dataclass(frozen=True)
class EwcConfig(TrainOptions):
    """Options of Elastic Weight Consolidation.

    Args:
        strength: lambda in Eq. 3, which has a factor 1/2.
        penalty_step: gradient, the penalty's gradient joins that of the loss, as the paper; or proximal, each step of
            the optimiser, which must be sgd, is followed by an implicit one of the penalty alone, which is stable for
            any strength.
        fisher_labels: whose gradient is squared: sampled (one label drawn from the prediction), exact
            (expectation over all labels), empirical (the true label), predicted (the most probable one).
        fisher_samples: training samples that the Fisher information is taken over, drawn at random; None for
            all.
    """

    strength: float = 1000.0
    penalty_step: Literal["gradient", "proximal"] = "gradient"
    fisher_labels: Labels = "sampled"
    fisher_samples: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 0, "strength")
        check_positive(self, "fisher_samples")
        if self.penalty_step == "proximal" and self.optimiser != "sgd":
            raise ConfigError(
                f"penalty_step=proximal needs optimiser sgd, got {self.optimiser}: it divides the loss's gradient by "
                "its size, so that no rate balances the two. Use sgd, or penalty_step=gradient."
            )


class Ewc(Method):
    """Cross entropy plus lambda / 2 sum_nu sum_k F^nu_k (theta_k - theta*_{nu,k})^2 over earlier tasks nu."""

    Config = EwcConfig
    config: EwcConfig
    tradeoff = Tradeoff("strength", centre=1e3)

    def __init__(self, config: EwcConfig, context: Context) -> None:
        super().__init__(config, context)
        self.net = training.make_net(config, context)
        self.memory = training.make_memory(config, context)
        self.reads = "task" if self.memory is None else "memory"
        self._paths = prove(self.net.trunk, torch.zeros(1, *context.image_shape))
        self.fishers, self.anchors = nn.ModuleList(), nn.ModuleList()
        self._scratch = Scratch()

    @property
    def penalties(self) -> list[tuple[Table, Table]]:
        """Fisher information and anchor of each earlier task."""
        return list(zip(self.fishers, self.anchors, strict=True))  # type: ignore[arg-type]

    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        training.grow_head(self.net, task, self.context.seed, zero=self.config.zero_head)
        parameters = named_parameters(self)
        for fisher, anchor in self.penalties:
            fisher.pad(parameters, 0.0, only_known=True)
            anchor.pad(parameters, "value", only_known=True)

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
        if self.config.penalty_step == "proximal":
            return
        # Gradient of Eq. 3's second term: lambda sum_nu F^nu (theta - theta*_nu).
        for fisher, anchor in self.penalties:
            penalty.add_gradient(
                grads, self.get_parameter, fisher, anchor, self.config.strength / 2, self._scratch
            )

    def after_step(self, player: str, step: Step) -> None:
        if self.config.penalty_step == "proximal":
            # Momentum m moves weights by rate / (1 - m) times a lasting gradient.
            fit = training.for_task(self.config, step.task)
            lr = training.player(fit, {}).optimiser.rate(step.epoch, step.n_epochs)
            rate = lr / (1.0 - self.config.momentum)
            penalty.proximal_step(self.get_parameter, self.penalties, self.config.strength / 2, rate)

    def end_task(self, task: TaskInfo, data: Samples) -> None:
        c = self.config
        own = training.taking_part(self, self.net, task)
        fisher, anchor = Table(), Table()
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
        for name, value in found.items():
            fisher.put(name, value)
        anchor.pad(own, "value")
        self.fishers.append(fisher)
        self.anchors.append(anchor)
        training.remember(self.memory, self.config, self.net, task, data, self.context)

    # Answers and state --------------------------------------------------------------------------------------
    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        return training.predict(self.net, x, task)

    def structure(self) -> dict[str, Any]:
        shapes = [fisher.structure() for fisher, _ in self.penalties]
        return {**training.structure(self.net, self.memory), "penalties": shapes}

    def rebuild(self, structure: dict[str, Any]) -> None:
        training.rebuild(self.net, self.memory, structure)
        self.fishers, self.anchors = nn.ModuleList(), nn.ModuleList()
        for shapes in structure["penalties"]:
            for tables in (self.fishers, self.anchors):
                table = Table()
                table.rebuild(shapes)
                tables.append(table)

    def storage_bytes(self) -> dict[str, int]:
        return training.storage_bytes(self, self.net, self.memory)

    def facts(self) -> dict[str, str]:
        told = {
            **training.facts(self.config, self.net),
            "fisher": f"per sample, {self.config.fisher_labels} labels",
        }
        if self.config.penalty_step == "proximal":
            told["penalty"] = "proximal step"
        return told

    @torch.no_grad()
    def measures(self, step: Step) -> dict[str, Any]:
        half = self.config.strength / 2
        values = [penalty.quadratic(self.get_parameter, f, a, half) for f, a in self.penalties]
        return {"penalty": float(sum(values))}


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
