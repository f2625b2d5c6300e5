"""Residual Continual Learning: source and fine-tuned network combined layer by layer, folded to the same size.

J. Lee, D. Joo, H. G. Hong, J. Kim: "Residual Continual Learning", AAAI 2020, 34(04), arXiv 2002.06774 ("ResCL").
Here: its Algorithm 1. A later task has two phases:

- ``finetune``: the network is trained on the task with cross entropy and weight decay.
- ``combine``: every linear layer becomes (1 + alpha_s) * W_s x + alpha_t * W_t x (`engram.parts.combining`), and the
  alphas and W_t are trained on the task's images, without labels, to give the answers of the source network with the
  old heads and of the fine-tuned one with the new head:

      sum_j D_KL(source_j || combined_j) + D_KL(tuned || combined)
          + lambda |alpha|_1 + (lambda_dec / 2) |theta_t|^2                                                      (6)

  With all alphas 0 the combined network is the source, so the L1 decay holds on to old tasks.

At the end of the task the combination is folded into one network of the source's layers and size, which is the source
of the next task: the divergence is summed over the old heads j then. Only images of the new task are read.

Departures, and choices where the paper's settings are not known to us: temperature T = 2 with factor T^2 on both
divergences (1 gives (6) literally); the L1 decay as a proximal step, alpha <- sign(alpha) max(|alpha| - rate lambda,
0), so that alphas reach exactly 0 and Adam does not rescale lambda; old heads frozen; source batch norms in evaluation
mode, those of the target in training mode and estimated anew before folding; before a third task the folded batch
norms get the statistics of the new images, with scale and offset that leave evaluation mode as it was.

Cost: while a later task is combined, three networks (source, target, the fine-tuned copy) and two forward passes beside
the combined one; afterwards one network. Nothing grows but heads.

Shapes: B batch, C labels of a head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
    Update,
    evaluating,
    named_parameters,
)
from engram.core.options import Count, NonNegative, Positive
from engram.methods.registry import Entry
from engram.parts import small
from engram.parts.classifier import Classifier
from engram.parts.combining import Combiner
from engram.parts.fitting import FitOptions
from engram.parts.proximal import shrink_
from engram.parts.statistics import reestimated_statistics, refit_norms
from engram.parts.teacher import Teacher
from engram.parts.window import Window, cross_entropy

FINETUNE, COMBINE = "finetune", "combine"  # phases
COMBINED = "combined"  # the second phase's player


@dataclass(frozen=True)
class ResclConfig(FitOptions):
    """Options of Residual Continual Learning.

    Args:
        decay: strength lambda of the L1 decay of the alphas; it trades the new task for the old ones.
        decay_step: how the decay acts: proximal, which reaches exact zeros; or subgradient, which adds lambda
            sign(alpha) to the gradient.
        temperature: temperature T of both divergences, each times T^2; 1 is the paper's formula as printed.
        old_tasks: how old tasks count: the sum or the mean over the old heads' divergences.
        combine_epochs: epochs of the second phase; None for as many as of the first.
        combine_lr: learning rate of the second phase; None for that of the first.
        alpha_start: first values of alpha_s and alpha_t.
        per_channel: give each channel an alpha, as the paper; otherwise each layer has one.
        trained: what the second phase trains: both (alphas and target network), alphas, or target.
        train_old_heads: train the heads of old tasks too in the second phase.
        reestimate: estimate the target's running statistics anew before folding, in one pass over the task's images.
    """

    decay: NonNegative = 0.1
    decay_step: Literal["proximal", "subgradient"] = "proximal"
    temperature: Positive = 2.0
    old_tasks: Literal["sum", "mean"] = "sum"
    combine_epochs: Count | None = None
    combine_lr: Positive | None = None
    alpha_start: tuple[float, float] = (-0.5, 0.5)
    per_channel: bool = True
    trained: Literal["both", "alphas", "target"] = "both"
    train_old_heads: bool = False
    reestimate: bool = True


def divergence(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """T^2 D_KL(q || p) [], mean over the batch, with p and q the softmax of ``logits`` and ``target`` [B, C] over T.

    Its gradient with respect to the logits is T (p - q) / B.
    """
    p, q = ((z / temperature).log_softmax(1) for z in (logits, target))
    return temperature**2 * F.kl_div(p, q, reduction="batchmean", log_target=True)


class Rescl(Method):
    """Fine-tune, combine, fold (Algorithm 1)."""

    Config = ResclConfig
    config: ResclConfig
    scenarios = frozenset({"task"})
    tradeoff = Tradeoff("decay", after=FINETUNE)

    def __init__(self, config: ResclConfig, context: Context) -> None:
        super().__init__(config, context)
        self.net = Classifier(context)
        self.source = Teacher(
            lambda: Classifier(context)
        )  # theta_s*, from the beginning of a later task to its end
        self.tuned = Teacher(lambda: Classifier(context))  # theta_t*, in the phase that combines
        self.combiner: Combiner | None = None  # in the phase that combines
        self._combiner()  # a network that cannot be combined is refused before the first task is learned

    # Phases -------------------------------------------------------------------------------------------------
    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        if task.index > 0:
            self.source.learn(self.net)
        if task.index > 1:
            with torch.no_grad():
                refit_norms(self.net.trunk, self._images(data, task, shuffled=False))
        self.net.grow(task)

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        fit = self.config.for_task(task).phase(self.fit_loss)
        if task.index == 0:
            return (fit,)
        combine = Update("combine", COMBINED, self.combine_loss)
        epochs = self.config.combine_epochs or fit.epochs
        return (replace(fit, name=FINETUNE), replace(fit, name=COMBINE, epochs=epochs, updates=(combine,)))

    def begin_phase(self, task: TaskInfo, phase: str) -> None:
        if phase == COMBINE:
            self.tuned.learn(self.net)
            self.combiner = self._combiner()

    def _combiner(self) -> Combiner:
        c = self.config
        return Combiner(self.net.trunk, self.net.trunk, start=c.alpha_start, per_channel=c.per_channel)

    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        if phase != COMBINE:
            return {"net": self.config.for_task(task).player(named_parameters(self, "net."))}
        # A player of its own: kept optimiser state goes from fine-tuning to fine-tuning.
        return {COMBINED: replace(self._second(task).player(self._trained()), keep_state=False)}

    def _second(self, task: TaskInfo) -> ResclConfig:
        """Options of the second phase; theta_t decays in ``after_backward``, for alphas must not."""
        fit = self.config.for_task(task)
        return replace(fit, lr=self.config.combine_lr or fit.lr, weight_decay=0.0)

    def _trained(self) -> dict[str, nn.Parameter]:
        c, last = self.config, len(self.net.head.parts) - 1
        names = [] if c.trained == "target" else ["combiner."]
        if c.trained != "alphas":
            names += ["net.trunk.", "net.head.parts." if c.train_old_heads else f"net.head.parts.{last}."]
        elif c.train_old_heads:
            names += [f"net.head.parts.{i}." for i in range(last)]
        return named_parameters(self, *names)

    # Losses -------------------------------------------------------------------------------------------------
    def fit_loss(self, batch: Batch, step: Step) -> Terms:
        """Cross entropy of the task's head (Algorithm 1, line 2)."""
        labels = Window(step.task.active)
        return {"ce": cross_entropy(self.net(batch.x, labels.active), batch.y, labels)}

    def combine_loss(self, batch: Batch, step: Step) -> Terms:
        """The divergences of (6): old heads from the source network, new head from the fine-tuned one."""
        c, active, stops = self.config, step.task.active, self.source.net.stops
        features = self.features(batch.x)
        old, answers = self.net.head(features, (0, stops[-1])), self.source(batch.x, (0, stops[-1]))
        heads = [
            divergence(old[:, a:b], answers[:, a:b], c.temperature)
            for a, b in zip([0, *stops], stops, strict=False)
        ]
        kept = sum(heads[1:], heads[0]) / (len(heads) if c.old_tasks == "mean" else 1)
        new = divergence(self.net.head(features, active), self.tuned(batch.x, active), c.temperature)
        return {"source": kept, "target": new}

    def features(self, x: Tensor) -> Tensor:
        """Features [B, F] of the combined trunk where there is one, else of the network's."""
        if self.combiner is None:
            return cast(Tensor, self.net.trunk(x))
        return cast(Tensor, self.combiner(self.source.net.trunk, self.net.trunk, x))

    # Moments ------------------------------------------------------------------------------------------------
    def after_backward(self, player: str, grads: dict[str, Tensor], step: Step) -> None:
        if step.phase != COMBINE:
            return
        for name, grad in grads.items():
            p = self.get_parameter(name).detach()
            if not name.startswith("combiner."):
                if self.config.weight_decay:
                    grad.add_(p, alpha=self.config.weight_decay)  # lambda_dec is on theta_t alone
            elif self.config.decay_step == "subgradient":
                grad.add_(p.sign(), alpha=self.config.decay)

    @torch.no_grad()
    def after_step(self, player: str, step: Step) -> None:
        c = self.config
        if step.phase != COMBINE or c.decay_step != "proximal" or c.trained == "target":
            return
        rate = self._second(step.task).player({}).optimiser.rate(step.epoch, step.n_epochs)
        for alpha in cast(Combiner, self.combiner).parameters():
            shrink_(alpha, rate * c.decay)

    def end_task(self, task: TaskInfo, data: Samples) -> None:
        if self.combiner is None:
            return
        if self.config.reestimate:
            with evaluating(self), reestimated_statistics(self.net.trunk):
                for x in self._images(data, task, shuffled=True):
                    self.features(x)
        self.net.trunk.load_state_dict(self.combiner.fold(self.source.net.trunk, self.net.trunk))
        self.source.forget()
        self.tuned.forget()
        self.combiner = None

    def _images(self, data: Samples, task: TaskInfo, *, shuffled: bool) -> Iterator[Tensor]:
        """The task's images in batches, in the network's range; a last batch of one joins the one before."""
        n, size = len(data), self.config.batch_size
        order = torch.arange(n)
        if shuffled:
            order = torch.randperm(n, generator=seeds.generator(self.context.seed, "statistics", task.index))
        count = max(1, math.ceil((n - 1) / size)) if size > 1 else max(1, n // 2)
        for rows in order.to(data.x.device).tensor_split(count):
            yield self.context.network.normalise(data.x[rows])

    # Answers and state --------------------------------------------------------------------------------------
    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        with evaluating(self):
            return self.net.answer(self.features(x), task)

    def structure(self) -> dict[str, Any]:
        return {**super().structure(), "combining": self.combiner is not None}

    def rebuild(self, structure: dict[str, Any]) -> None:
        super().rebuild(structure)
        self.combiner = self._combiner() if structure["combining"] else None

    def facts(self) -> dict[str, str]:
        c = self.config
        told = {}
        if c.trained != "both":
            told["second phase trains"] = "the alphas alone" if c.trained == "alphas" else "the target alone"
        if not c.per_channel:
            told["alphas"] = "one pair a layer"
        return told

    def measures(self, step: Step) -> dict[str, Any]:
        """While combining: mean of alpha_s and alpha_t, the share that is exactly 0, and lambda |alpha|_1."""
        if step.phase != COMBINE or self.combiner is None:
            return {}
        with torch.no_grad():
            pairs = {
                name: torch.cat([a.flatten() for a in alphas.values()])
                for name, alphas in (("alpha_s", self.combiner.alpha_s), ("alpha_t", self.combiner.alpha_t))
            }
            both = torch.cat(list(pairs.values()))
            return {
                **{name: float(a.mean()) for name, a in pairs.items()},
                "alpha_zero": float((both == 0).float().mean()),
                "decay": self.config.decay * float(both.abs().sum()),
            }

    @classmethod
    def tradeoff_centre(cls, config: ResclConfig, n_samples: int) -> float:
        """lambda that takes an alpha from 1/2 to 0 when nothing opposes it: 1 / (2 sum of the rates of all steps).

        Momentum m multiplies what a sub-gradient does by 1 / (1 - m); the proximal step is outside the optimiser.
        """
        steps = config.steps_per_epoch or math.ceil(n_samples / config.batch_size)
        epochs = config.combine_epochs or config.later_epochs or config.epochs
        lr = config.combine_lr or config.later_lr or config.lr
        rate = replace(config, lr=lr).player({}).optimiser.rate
        by_momentum = config.decay_step == "subgradient" and config.optimiser == "sgd"
        way = (1.0 - config.momentum) if by_momentum else 1.0
        return 0.5 * way / (steps * sum(rate(e, epochs) for e in range(epochs)))


_SMALL = (
    f"{small.FIT}, later_epochs=none, later_lr=none, momentum=0, weight_decay=0, keep_optimiser=false, decay=0.5, "
    "decay_step=proximal, temperature=2, old_tasks=sum, combine_epochs=none, combine_lr=none, "
    "alpha_start=[-0.5, 0.5], per_channel=true, trained=both, train_old_heads=false, reestimate=true"
)

ENTRIES = {
    "rescl": Entry(
        Rescl,
        ResclConfig(),
        "Residual Continual Learning: combine with the fine-tuned network, fold (Lee et al., AAAI 2020)",
        small={
            "adam": _SMALL,
            "sgd": f"{_SMALL}, optimiser=sgd, lr=0.05, momentum=0.9, weight_decay=1e-3, keep_optimiser=true, "
            "schedule=cosine, later_epochs=3, later_lr=0.02, decay_step=subgradient, temperature=1, "
            "old_tasks=mean, combine_epochs=2, combine_lr=0.01, alpha_start=[-0.25, 0.75], per_channel=false, "
            "train_old_heads=true, reestimate=false",
        },
    )
}
