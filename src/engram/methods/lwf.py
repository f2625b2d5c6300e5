"""Learning without Forgetting: the old network's answers to the new task's inputs are kept.

Z. Li, D. Hoiem: "Learning without Forgetting", ECCV 2016 and TPAMI 40(12), 2018, arXiv 1606.09282 ("LwF").
Here: the procedure of its Fig. 3 (warm-up, then joint optimisation) and the distillation loss of Sec. 3;
distillation with a temperature: Hinton, Vinyals, Dean, arXiv 1503.02531, 2015.

What is distilled, on every batch:
- with task labels: the old heads, each in a softmax of its own (``distil=joint`` takes one softmax over all
  of them);
- class-incremental: the labels known before, in one softmax; new labels compete in the cross entropy only;
- domain-incremental: all labels, since old and new tasks share them.

Departures: the old answers are computed by a frozen copy in evaluation mode instead of stored; without augmentation
they are the same numbers. The warm-up takes a fixed number of epochs instead of convergence, with the trunk
in evaluation mode, so that its running statistics do not move either. Running statistics move in the joint
phase. Cost: a frozen copy of the network and its forward pass in every step; nothing grows with the number of
tasks but heads.

Shapes: B batch, C labels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from torch import Tensor
from torch.nn import functional as F

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
    Update,
    evaluating,
    named_parameters,
)
from engram.core.values import check_at_least, check_positive
from engram.errors import ConfigError
from engram.methods.registry import Entry
from engram.parts import small, training
from engram.parts.classifier import Classifier
from engram.parts.teacher import Teacher
from engram.parts.training import TrainOptions


@dataclass(frozen=True)
class LwfConfig(TrainOptions):
    """Options of Learning without Forgetting.

    Args:
        strength: lambda_o, weight of the distillation.
        balance: sum: cross entropy + lambda_o distillation, as the paper; convex: the same divided by 1 + lambda_o, so
            that a large lambda_o does not diverge at a rate that suits a small one.
        temperature: T of Sec. 3, which flattens both softmaxes.
        temperature_squared: multiply the distillation by T^2, so that its gradient does not shrink with T;
            the paper does not.
        distil: with task labels, a softmax for each old head, or one over all of them.
        warmup_epochs: epochs in which only the new rows of the output layer learn; 0 for none.
    """

    strength: float = 1.0
    balance: Literal["sum", "convex"] = "sum"
    temperature: float = 2.0
    temperature_squared: bool = False
    distil: Literal["per_head", "joint"] = "per_head"
    warmup_epochs: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 0, "strength", "warmup_epochs")
        check_positive(self, "temperature")


def distillation(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """- sum_i q_i log p_i [], mean over the batch, with p and q the softmax of ``logits`` and ``target`` [B,
    C] over T.

    Its gradient with respect to the logits is (p - q) / (T B).
    """
    return F.cross_entropy(logits / temperature, (target / temperature).softmax(1))


class Lwf(Method):
    """Cross entropy plus lambda_o times the distillation from the network as it was before the task."""

    Config = LwfConfig
    config: LwfConfig
    tradeoff = Tradeoff("strength")

    def __init__(self, config: LwfConfig, context: Context) -> None:
        super().__init__(config, context)
        if config.distil == "joint" and context.scenario != "task":
            raise ConfigError(
                f"distil=joint needs heads of several tasks, scenario {context.scenario} has one: leave it out, or use "
                "scenario task."
            )
        self.net = training.make_net(config, context)
        self.memory = training.make_memory(config, context)
        self.reads = "task" if self.memory is None else "memory"
        self.teacher: Teacher | None = None
        self.stops: list[int] = []

    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        if self.net.head.n_outputs:
            # Before the head grows: rows that were never trained are not distilled.
            self.teacher = Teacher(self.net)
        training.grow_head(self.net, task, self.context.seed, zero=self.config.zero_head)

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        c = training.for_task(self.config, task)
        fit = training.fit_phase(c, self.loss, self.memory)
        if self.teacher is None or self._n_old == task.n_seen or c.warmup_epochs == 0:
            return (fit,)
        head: Update = replace(fit.updates[0], name="head", player="head", loss=self.warmup_loss)
        return (replace(fit, name="adapt", epochs=c.warmup_epochs, updates=(head,)), fit)

    @property
    def _n_old(self) -> int:
        return self.stops[-1] if self.teacher is not None else 0

    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        if phase == "adapt":
            last = f"net.head.parts.{len(self.net.head.parts) - 1}."
            fit = replace(training.for_task(self.config, task), weight_decay=0.0)
            new = training.player(fit, named_parameters(self, last))
            return {"head": replace(new, keep_state=False)}
        return {"net": training.player(training.for_task(self.config, task), named_parameters(self))}

    def pools(self, task: TaskInfo, phase: str, epoch: int, data: Samples) -> dict[str, Samples]:
        return training.memory_pool(self.memory)

    # Losses -------------------------------------------------------------------------------------------------
    def warmup_loss(self, batch: Batch, step: Step) -> Terms:
        """Cross entropy with the trunk as it is (Fig. 3, "warm-up step")."""
        with evaluating(self.net.trunk):
            features = self.net.trunk(batch.x)
        labels = training.window(self.net, step.task, self.memory, self.config.memory_weight)
        return {"ce": training.cross_entropy(self.net.head(features, labels.active), batch.y, labels)}

    def loss(self, batch: Batch, step: Step) -> Terms:
        """Cross entropy on the labels, distillation of the old answers (Fig. 3, "joint-optimise step")."""
        features = self.net.trunk(batch.x)
        labels = training.window(self.net, step.task, self.memory, self.config.memory_weight)
        terms = {"ce": training.cross_entropy(self.net.head(features, labels.active), batch.y, labels)}
        c = self.config
        if self.teacher is not None and c.strength:
            old = (0, self._n_old)
            terms["distillation"] = self.distilled(self.net.head(features, old), self.teacher(batch.x, old))
            if c.balance == "convex":
                terms = {name: term / (1.0 + c.strength) for name, term in terms.items()}
        return terms

    def distilled(self, logits: Tensor, target: Tensor) -> Tensor:
        """lambda_o times the sum over old heads of the distillation [], of logits and targets [B, n_old]."""
        c = self.config
        groups = [(0, self._n_old)]
        if self.context.scenario == "task" and c.distil == "per_head":
            groups = list(zip([0, *self.stops], self.stops, strict=False))
        scale = c.strength * (c.temperature**2 if c.temperature_squared else 1.0)
        parts = [distillation(logits[:, a:b], target[:, a:b], c.temperature) for a, b in groups]
        return scale * sum(parts[1:], parts[0])

    # Moments ------------------------------------------------------------------------------------------------
    def after_backward(self, player: str, grads: dict[str, Tensor], step: Step) -> None:
        if player == "head" and len(self.net.head.parts) == 1:
            # One output layer for all labels: only its new rows learn in the warm-up.
            for grad in grads.values():
                grad[: self._n_old] = 0.0

    def end_task(self, task: TaskInfo, data: Samples) -> None:
        self.stops.append(task.n_seen)
        training.remember(self.memory, self.config, self.net, task, data, self.context)

    # Answers and state --------------------------------------------------------------------------------------
    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        return training.predict(self.net, x, task)

    def structure(self) -> dict[str, Any]:
        teacher = [] if self.teacher is None else cast(Classifier, self.teacher.module).head.sizes
        return {**training.structure(self.net, self.memory), "teacher": teacher, "stops": self.stops}

    def rebuild(self, structure: dict[str, Any]) -> None:
        training.rebuild(self.net, self.memory, structure)
        self.stops = list(structure["stops"])
        self.teacher = None
        if structure["teacher"]:
            old = training.make_net(self.config, self.context)
            old.head.rebuild(structure["teacher"])
            self.teacher = Teacher(old)

    def storage_bytes(self) -> dict[str, int]:
        return training.storage_bytes(self, self.net, self.memory)

    def facts(self) -> dict[str, str]:
        told = training.facts(self.config, self.net)
        if self.config.balance == "convex":
            told["loss"] = "convex combination"
        return told


_SMALL = "strength=1, balance=sum, temperature=2"

ENTRIES = {
    "lwf": Entry(
        Lwf,
        LwfConfig(),
        "Learning without Forgetting: distillation on new inputs (Li and Hoiem, ECCV 2016)",
        small={
            "adam": f"{small.TRAIN}, {_SMALL}, temperature_squared=false, distil=per_head, warmup_epochs=1",
            "stored": f"{small.STORED}, {_SMALL}, temperature_squared=true, distil=per_head, warmup_epochs=2, "
            "freeze_norms=true",
            # Only with task labels.
            "joint": f"{small.TRAIN}, {_SMALL}, temperature_squared=false, distil=joint, warmup_epochs=1",
        },
    )
}
