"""Ridge regression on fixed features, or on a random expansion of them: linear outputs from sums, solved once a task.

H. Zhuang, Z. Weng, H. Wei, R. Xie, K.-A. Toh, Z. Lin, "ACIL: Analytic Class-Incremental Learning with Absolute
Memorization and Privacy Protection", NeurIPS 2022; M. D. McDonnell, D. Gong, A. Parvaneh, E. Abbasnejad, A. van den
Hengel, "RanPAC: Random Projections and Pre-trained Models for Continual Learning", NeurIPS 2023. With one-hot rows y
and features h of all samples:

    h = relu(B z),   B [M, d] fixed and random;      (sum h h^T + gamma I) W = sum h y^T                           (1)

ACIL's recursion on (R, W) gives the same W; sums, solved when it is asked, cost less and let no error grow. A strength
gamma that is not given is chosen as in RanPAC: of 10^-8, 10^-7, ... 10^8 the one whose W, from all other samples so
far, has the least squared error on a fifth of the current task's samples; then these are added too.

Departures: every fifth sample is held out instead of the last fifth. Sums are taken about the mean, so that W can have
an ``intercept``, which the papers' has not. ``balance=classes`` divides the sums of each class by its number of
samples, as "AIR" (2024), since ridge regression favours frequent classes. B has variance 1 / d, which only changes
what gamma means. With ``scatter=classes`` a class can be forgotten.
Cost: K d + d^2 / 2 numbers (K d^2 / 2 with ``scatter=classes``), and while gamma is chosen as many again; M d for B; n
d^2 a pass; a Cholesky factor, d^3 / 3, when it is asked first after a task, and seventeen where gamma is chosen. d is
M with a projection.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engram import seeds
from engram.core.contract import Batch, Context, Samples, Step, TaskInfo, Terms
from engram.core.options import Count, Positive
from engram.errors import ConfigError
from engram.methods.registry import Entry
from engram.parts import small
from engram.parts.class_statistics import ClassStatistics
from engram.parts.one_pass import Balance, OnePass, PassOptions

STRENGTHS = tuple(10.0**k for k in range(-8, 9))
EVERY = 5  # which sample is held out


@dataclass(frozen=True)
class RidgeConfig(PassOptions):
    """Options of ridge regression.

    Args:
        gamma: strength of the ridge penalty, > 0; None for the one of 1e-8 .. 1e8 with the least squared error on
            held-out samples of each task.
        projection: number M of random features relu(B z); None for the features as they are.
        intercept: give outputs an offset, which gamma does not act on.
        scatter: which scatter matrix is kept: pooled, one for all classes; or classes, one for each, so that a class
            can be forgotten.
        balance: whether each sample counts the same, or each class.
    """

    gamma: Positive | None = None
    projection: Count | None = None
    intercept: bool = True
    scatter: Literal["pooled", "classes"] = "pooled"
    balance: Balance = "classes"


class Ridge(OnePass):
    """One-hot outputs, linear in fixed features."""

    Config = RidgeConfig
    config: RidgeConfig
    matrices: ClassVar = (5, 0)
    strength: Tensor

    def __init__(self, config: RidgeConfig, context: Context) -> None:
        super().__init__(config, context, config.scatter, config.projection)
        self.balance = config.balance
        self.register_buffer("strength", torch.tensor(config.gamma or 1.0, dtype=torch.float64))
        self.held: ClassStatistics | None = None
        if config.gamma is None:  # held-out samples of the task in progress
            limit, n = config.memory_limit, context.n_classes
            self.held = ClassStatistics(self.statistics.d, config.scatter, config.precision, limit, n)
        self.expansion: nn.Parameter | None = None
        if config.projection is not None:
            n, d = config.projection, math.prod(context.image_shape)
            drawn = torch.randn((n, d), generator=seeds.generator(context.seed, "projection")) / math.sqrt(d)
            self.expansion = nn.Parameter(drawn, requires_grad=False)

    def features(self, x: Tensor) -> Tensor:
        kind = self.statistics.precision
        return x if self.expansion is None else F.linear(x.to(kind), self.expansion.to(kind)).relu()

    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        super().begin_task(task, data)
        if self.held is not None:
            self.held.grow(task.n_seen)

    def add(self, batch: Batch, step: Step) -> Terms:
        if self.held is None:
            return super().add(batch, step)
        x, place = self.features(batch.x.flatten(1)), step.step * self.config.batch_size
        out = (torch.arange(len(x), device=x.device) + place) % EVERY == EVERY - 1
        for statistics, rows in ((self.statistics, ~out), (self.held, out)):
            statistics.add(x[rows], batch.y[rows], self._weights)
        return {}

    def end_phase(self, task: TaskInfo, phase: str) -> None:
        """Choose gamma on the samples held out, then add them."""
        if self.held is None:
            return
        if len(self.held.known):
            self.strength.fill_(self._least_error(self.held))
        self.statistics.merge(self.held)
        self.held.rebuild(0)

    def _least_error(self, held: ClassStatistics) -> float:
        """Of ``STRENGTHS`` the one with the least sum of squared errors on ``held``, from its sums alone."""
        known = held.known
        products, answers, mean, share = self._totals()
        scatter, best = held.within(), (math.inf, 1.0)
        for gamma in STRENGTHS:
            w = solved(products, answers, gamma)
            if w is None:  # gamma is lost in rounding
                continue
            off = -(share - mean @ w + held.means[known] @ w)
            off[torch.arange(len(known)), known] += 1.0
            error = (w * (scatter @ w)).sum() + held.mass[known] @ off.square().sum(1)
            best = min(best, (float(error), gamma))
        return best[1]

    def _totals(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Sums of (1), [d, d] and [d, K], about the means of features [d] and outputs [K]; these are 0 without an
        offset.
        """
        s = self.statistics
        share = s.mass / s.mass.sum() if self.config.intercept else torch.zeros_like(s.mass)
        mean = share @ s.means
        away = s.means - mean
        answers = away.T * s.mass
        return s.within().addmm_(answers, away), answers, mean, share

    @cached_property
    def outputs(self) -> tuple[Tensor, Tensor]:
        """Weights W [d, k] and offsets [k] of the classes that have samples."""
        products, answers, mean, share = self._totals()
        known = self.statistics.known
        w = solved(products, answers[:, known], float(self.strength))
        if w is None:
            given = float(self.strength)
            raise ConfigError(f"gamma must make the sums invertible, {given:g} does not: give a larger one.")
        return w, share[known] - mean @ w

    def scores(self, z: Tensor) -> Tensor:
        w, offsets = self.outputs
        return z @ w + offsets

    def forget(self, label: int) -> None:
        if self.config.gamma is None:
            raise ConfigError(
                "gamma must be given for a class to be forgotten, it was chosen with the class's samples: start again "
                f"with gamma={float(self.strength):g}."
            )
        super().forget(label)

    def report(self) -> dict[str, Any]:
        return {"gamma": float(self.strength)}


def solved(products: Tensor, answers: Tensor, gamma: float) -> Tensor | None:
    """W of (1) [d, k]; None where the matrix is singular to working precision."""
    shifted = products.clone()
    shifted.diagonal().add_(gamma)
    factor, info = torch.linalg.cholesky_ex(shifted)
    return None if int(info) else torch.cholesky_solve(answers, factor)


ENTRIES = {
    "ridge": Entry(
        Ridge,
        RidgeConfig(),
        "ridge regression on fixed features or a random expansion (ACIL, RanPAC)",
        small={
            "chosen": f"{small.PASS}, gamma=none, projection=20, intercept=false, scatter=pooled, balance=classes",
            "given": f"{small.PASS}, gamma=1, projection=none, intercept=true, scatter=classes, balance=samples",
        },
        skipped={("given", "another_seed_another_run"): small.NO_SEED},
    )
}
