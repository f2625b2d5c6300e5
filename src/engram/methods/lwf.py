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
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from engram.core.contract import (
    Batch,
    Context,
    Phase,
    Player,
    Step,
    TaskInfo,
    Terms,
    Tradeoff,
    evaluating,
    named_parameters,
)
from engram.core.options import CountOrZero, NonNegative, Positive
from engram.errors import ConfigError
from engram.methods.registry import Entry
from engram.parts import small
from engram.parts.fitting import TrainOptions
from engram.parts.one_network import OneNetwork, make_network
from engram.parts.teacher import Teacher


@dataclass(frozen=True)
class LwfConfig(TrainOptions):
    """Options of Learning without Forgetting.

    Args:
        strength: strength of the distillation, lambda_o.
        balance: how losses are put together: sum, cross entropy + lambda_o distillation, as the paper; convex: the
            same divided by 1 + lambda_o, so that a large lambda_o does not diverge at a rate that suits a small one.
        temperature: temperature T of Sec. 3, which flattens both softmaxes.
        temperature_squared: multiply the distillation by T^2, so that its gradient does not shrink with T;
            the paper does not.
        distil: what is distilled with task labels: a softmax for each old head, or one over all of them.
        warmup_epochs: epochs in which only the new rows of the output layer learn; 0 for none.
    """

    strength: NonNegative = 1.0
    balance: Literal["sum", "convex"] = "sum"
    temperature: Positive = 2.0
    temperature_squared: bool = False
    distil: Literal["per_head", "joint"] = "per_head"
    warmup_epochs: CountOrZero = 1


def distillation(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """- sum_i q_i log p_i [], mean over the batch, with p and q the softmax of ``logits`` and ``target`` [B,
    C] over T.

    Its gradient with respect to the logits is (p - q) / (T B).
    """
    return F.cross_entropy(logits / temperature, (target / temperature).softmax(1))


class Lwf(OneNetwork):
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
        self.teacher = Teacher(lambda: make_network(config, context))

    def before_growth(self, task: TaskInfo) -> None:
        if task.index:
            # Rows that were never trained are not distilled.
            self.teacher.learn(self.net)

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        fit, epochs = self.fit_phase(task, self.loss), self.config.warmup_epochs
        if task.index == 0 or task.start == 0 or epochs == 0:
            return (fit,)
        head = replace(fit.updates[0], name="head", player="head", loss=self.warmup_loss)
        return (replace(fit, name="adapt", epochs=epochs, updates=(head,)), fit)

    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        fit = self.config.for_task(task)
        if phase == "adapt":
            fit = replace(fit, weight_decay=0.0, keep_optimiser=False)
            return {"head": fit.player(named_parameters(self, f"net.{self.net.newest}"))}
        return {"net": fit.player(self.theta)}

    def warmup_loss(self, batch: Batch, step: Step) -> Terms:
        """Cross entropy with the trunk as it is (Fig. 3, "warm-up step")."""
        with evaluating(self.net.trunk):
            features = self.net.trunk(batch.x)
        return {"ce": self.cross_entropy(features, batch, step)}

    def loss(self, batch: Batch, step: Step) -> Terms:
        """Cross entropy on the labels, distillation of the old answers (Fig. 3, "joint-optimise step")."""
        c, features = self.config, self.net.trunk(batch.x)
        terms = {"ce": self.cross_entropy(features, batch, step)}
        if step.task.index and c.strength:
            old = (0, self.teacher.net.stops[-1])
            terms["distillation"] = self.distilled(self.net.head(features, old), self.teacher(batch.x, old))
            if c.balance == "convex":
                terms = {name: term / (1.0 + c.strength) for name, term in terms.items()}
        return terms

    def distilled(self, logits: Tensor, target: Tensor) -> Tensor:
        """lambda_o times the sum over old heads of the distillation [], of logits and targets [B, n_old]."""
        c, stops = self.config, self.teacher.net.stops
        if self.context.scenario != "task" or c.distil == "joint":
            stops = stops[-1:]
        scale = c.strength * (c.temperature**2 if c.temperature_squared else 1.0)
        heads = zip([0, *stops], stops, strict=False)
        parts = [distillation(logits[:, a:b], target[:, a:b], c.temperature) for a, b in heads]
        return scale * sum(parts[1:], parts[0])

    def after_backward(self, player: str, grads: dict[str, Tensor], step: Step) -> None:
        if player == "head":
            self.net.cut_old_rows(grads, step.task)

    def added_facts(self) -> dict[str, str]:
        return {"loss": "convex combination"} if self.config.balance == "convex" else {}


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
