"""Riemannian Walk: a running Fisher information and a path-based score hold the weights.

A. Chaudhry, P. K. Dokania, T. Ajanthan, P. H. S. Torr: "Riemannian Walk for Incremental Learning:
Understanding Forgetting and Intransigence", ECCV 2018, arXiv 1801.10112 ("RWalk"). Here: EWC++ (Sec. 4.1),
the score (Sec. 4.2), the objective (Sec. 4.3). Its stored samples ("-S", Sec. 4.4) are the option
``memory_per_class``.

The running Fisher information is made of squared *batch* gradients: that is its definition, and it therefore
depends on the batch size, unlike that of ``ewc``.

Departures: the last interval of a task may be shorter than the others. The released code drops the factor 1/2 in the
score and adds scores of tasks up where the paper averages them; here both are as in the paper. The size of the damping
and the scaling of F and s to [0, 1] are the released code's. Entries of a growing output layer get their first Fisher
information from their first gradient, as all do at the start. Normalisation's scale and offset take part like other
weights; its running statistics are no parameters and are not held.
Cost: eight tensors a parameter, three work tensors; no second pass over data.

Shapes: * is a parameter's shape. F in nats^2 per squared unit of the parameter, the score s in nats per unit of KL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engram.core.contract import Context, Samples, Step, TaskInfo, Tradeoff
from engram.core.options import Count, NonNegative, Positive, Share
from engram.methods.registry import Entry
from engram.parts import small
from engram.parts.fitting import TrainOptions
from engram.parts.one_network import PlainTraining
from engram.parts.path_integral import PathIntegral
from engram.parts.penalty import QuadraticPenalty
from engram.parts.tables import Table

UNSEEN = -1.0  # Fisher information of an entry that had no gradient yet


@dataclass(frozen=True)
class RwalkConfig(TrainOptions):
    """Options of Riemannian Walk.

    Args:
        strength: strength of the penalty, lambda in Sec. 4.3, without a factor 1/2.
        alpha: weight of the newest squared gradients in the running Fisher information.
        interval: steps between two updates of Fisher information and score (Delta t).
        damping: a small number, epsilon, under the score's fraction; 1e-3 in the released code.
        normalise: scale F and s to [0, 1] over all parameters together before they are added, as the released
            code.
    """

    strength: NonNegative = 10.0
    alpha: Share = 0.9
    interval: Count = 10
    damping: Positive = 1e-3
    normalise: bool = True


def scaled(values: Sequence[Tensor]) -> list[Tensor]:
    """All tensors together to [0, 1] by their smallest and largest entry; zeros where these are equal."""
    low = torch.stack([v.min() for v in values]).min()
    width = torch.stack([v.max() for v in values]).max() - low
    return [(v - low) / width if float(width) > 0 else torch.zeros_like(v) for v in values]


class Rwalk(PlainTraining):
    """Cross entropy plus lambda sum_k (F_k + s_k) (theta_k - theta*_k)^2."""

    Config = RwalkConfig
    config: RwalkConfig
    tradeoff = Tradeoff("strength", centre=10.0)

    def __init__(self, config: RwalkConfig, context: Context) -> None:
        super().__init__(config, context)
        # F; sum of g^2 and of -g dtheta in the interval, and theta at its start; this task's score, that of
        # the tasks before; what holds the weights, and where.
        self.fisher, self.squares, self.path, self.start = Table(), Table(), Table(), Table()
        self.score, self.kept_score, self.importance, self.anchor = Table(), Table(), Table(), Table()
        # Its gradient is 2 lambda (F + s) (theta - theta*) (Sec. 4.3).
        self.penalties = [QuadraticPenalty(self.importance, self.anchor, config.strength, keep=True)]
        self.steps = PathIntegral()

    def begin(self, task: TaskInfo) -> None:
        self.fisher.pad(self.theta, UNSEEN)
        for table in (self.squares, self.path, self.score, self.kept_score):
            table.pad(self.theta, 0.0)
        self.start.hold(self.theta)

    def observe(self, grads: Mapping[str, Tensor], step: Step) -> None:
        self.steps.before_step(grads, self.theta)
        if step.epoch == 0 and step.step == 0:
            self._first_fisher(grads)
        torch._foreach_addcmul_(self.squares.pick(self.steps.names), self.steps.g, self.steps.g)

    def _first_fisher(self, grads: Mapping[str, Tensor]) -> None:
        """F of entries that have none yet: their first squared gradient, 0 where they have no gradient."""
        for name, f in zip(self.fisher.names, self.fisher.values(), strict=True):
            first = grads[name].square() if name in grads else torch.zeros_like(f)
            f.copy_(torch.where(f == UNSEEN, first, f))

    @torch.no_grad()
    def after_step(self, player: str, step: Step) -> None:
        # Delta L of the interval: the sum of -g (theta(t+1) - theta(t)), g of the loss alone (Sec. 4.2).
        self.steps.after_step(self.path)
        done = step.epoch * step.n_steps + step.step + 1
        last = done == step.n_epochs * step.n_steps
        if done % self.config.interval == 0 or last:
            self._close_interval((done - 1) % self.config.interval + 1)

    def _close_interval(self, n_steps: int) -> None:
        c = self.config
        for name in self.steps.names:
            theta, fisher = self.theta[name], self.fisher[name]
            d = theta - self.start[name]
            # s += max(0, Delta L) / (F dtheta^2 / 2 + epsilon), with F at the interval's start (Sec. 4.2).
            kl = d.square_().mul_(fisher).mul_(0.5).add_(c.damping)
            self.score[name].add_(self.path[name].clamp(min=0.0).div_(kl))
            # F <- alpha f + (1 - alpha) F, f the mean squared batch gradient of the interval (EWC++, Sec. 4.1).
            fisher.mul_(1.0 - c.alpha).add_(self.squares[name], alpha=c.alpha / n_steps)
            self.start[name].copy_(theta)
        self.path.zero()
        self.squares.zero()

    def consolidate(self, task: TaskInfo, data: Samples) -> None:
        for new, old in zip(self.score.values(), self.kept_score.values(), strict=True):
            # Across tasks the score is averaged, s <- (s_old + s_new) / 2, so that the penalty stays elastic.
            old.copy_((old + new) / 2 if task.index else new)
        fisher, score = self.fisher.values(), self.kept_score.values()
        if self.config.normalise:
            fisher, score = scaled(fisher), scaled(score)
        for name, f, s in zip(self.fisher.names, fisher, score, strict=True):
            self.importance.put(name, f + s)
        self.score.zero()
        self.anchor.copy_from(self.theta)


ENTRIES = {
    "rwalk": Entry(
        Rwalk,
        RwalkConfig(),
        "Riemannian Walk: running Fisher and path score (Chaudhry et al., ECCV 2018)",
        small={
            "adam": f"{small.TRAIN}, strength=1, alpha=0.9, interval=3, damping=1e-3, normalise=true",
            "stored": f"{small.STORED}, memory_choice=mean_of_features, memory_weight=classes, strength=0.01, "
            "alpha=0.5, interval=2, damping=0.1, normalise=false",
        },
    )
}
