"""Piggyback: one fixed network, and for each task a learned mask over its weights.

A. Mallya, D. Davis, S. Lazebnik: "Piggyback: Adapting a Single Network to Multiple Tasks by Learning to Mask Weights",
ECCV 2018, arXiv 1801.06519. Here: its Sec. 3. The backbone's weights W never move. A task learns a real score r for
each of them and a head, and computes with m W, where m is found from the scores by a threshold:

    binary:   m = 1 if r > threshold, else 0
    ternary:  m = 1 if r > threshold, -1 if r < 0, else 0

The threshold is passed straight through backwards: dL/dr = dL/d(m W) * W, element by element. Biases and normalisation
are the backbone's and stay, so that a task's answers never change by a bit and do not depend on which others came.

Departures: with ``backbone=first_task`` the first task of the stream trains the backbone, all weights of which it uses,
so that the quality of every later task hangs on it; the paper's backbone was trained on ImageNet. With
``backbone=given`` the network is taken as it comes, for one of your own that was trained before, and the first task has
a mask too. Schedules are those of the shared options.
Cost: one bit (ternary: two) a weight and task, a head a task; scores while a task is learned.

Shapes: * is a weight's shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from engram import seeds
from engram.core.contract import (
    Batch,
    Context,
    Method,
    Phase,
    Player,
    Samples,
    Scenario,
    Step,
    TaskInfo,
    Terms,
    evaluating,
    n_bytes,
    named_parameters,
)
from engram.core.options import Positive
from engram.errors import ConfigError
from engram.methods.registry import Entry
from engram.networks.masks import pack, unpack
from engram.parts import small
from engram.parts.classifier import Classifier
from engram.parts.fitting import FreshFitOptions
from engram.parts.masked_weights import run_with, weight_names
from engram.parts.statistics import norms_of
from engram.parts.window import Window, cross_entropy

Kind = Literal["binary", "ternary"]


@dataclass(frozen=True)
class PiggybackConfig(FreshFitOptions):
    """Options of Piggyback. ``later_lr`` is the rate of masks and heads: 1e-4 with Adam, as the paper.

    Args:
        masks: values that a mask may take: binary (0, 1) or ternary (-1, 0, 1).
        backbone: where the backbone comes from: first_task (the first task trains it) or given (the network as it
            comes, for one trained before).
        threshold: the score above which a weight is in use.
        score: the value at which scores start.
        score_start: how scores start: constant (every score is ``score``) or uniform (within plus and minus ``score``).
        freeze_norms: leave batch norms as the backbone's; otherwise each task moves them, and older tasks drift.
    """

    fresh: ClassVar[str] = "scores start anew in every task"
    later_lr: Positive | None = 1e-4
    masks: Kind = "binary"
    backbone: Literal["first_task", "given"] = "first_task"
    threshold: Positive = 0.005
    score: Positive = 0.01
    score_start: Literal["constant", "uniform"] = "constant"
    freeze_norms: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.score <= self.threshold:
            raise ConfigError(
                f"score must be above threshold, so that a mask starts as the backbone, got {self.score!r} and "
                f"{self.threshold!r}: give for example 0.01 and 0.005."
            )


def mask_of(score: Tensor, threshold: Positive, kind: Kind) -> Tensor:
    """m [*] in {0, 1}, or in {-1, 0, 1}, of scores [*]; a score at the threshold gives 0."""
    m = (score > threshold).to(score.dtype)
    return m - (score < 0).to(score.dtype) if kind == "ternary" else m


class StraightThrough(torch.autograd.Function):
    """`mask_of`, whose gradient is passed to the scores unchanged."""

    @staticmethod
    def forward(ctx: Any, score: Tensor, threshold: Positive, kind: Kind) -> Tensor:
        return mask_of(score, threshold, kind)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad, None, None


class Piggyback(Method):
    """Cross entropy of the backbone's weights times a mask."""

    Config = PiggybackConfig
    config: PiggybackConfig
    scenarios: ClassVar[frozenset[Scenario]] = frozenset({"task"})

    def __init__(self, config: PiggybackConfig, context: Context) -> None:
        super().__init__(config, context)
        self.net = Classifier(context)
        self.names = weight_names(self.net.trunk)
        shapes = [self.net.trunk.get_parameter(name).shape for name in self.names]
        self.scores = nn.ParameterList(nn.Parameter(torch.zeros(shape)) for shape in shapes)

    @property
    def n_plain(self) -> int:
        """Tasks that use the backbone as it is."""
        return 1 if self.config.backbone == "first_task" else 0

    def masked(self, index: int) -> bool:
        """Whether task ``index`` has a mask."""
        return index >= self.n_plain

    def train(self, mode: bool = True) -> Piggyback:
        """All of it, but the backbone's batch norms where a mask is learned."""
        super().train(mode)
        hold = self.config.freeze_norms and self.masked(len(self.net.stops) - 1)
        for norm in norms_of(self.net.trunk) if mode and hold else ():
            norm.eval()
        return self

    # Training -----------------------------------------------------------------------------------------------
    @torch.no_grad()
    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        self.net.grow(task)
        bound = self.config.score
        for i, r in enumerate(self.scores):
            if self.config.score_start == "constant":
                r.fill_(bound)
            else:
                g = seeds.generator(self.context.seed, "scores", task.index, i)
                r.copy_(torch.rand(r.shape, generator=g) * (2.0 * bound) - bound)

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        return (self.config.for_task(task).phase(self.loss),)

    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        if not self.masked(task.index):
            trained = named_parameters(self, "net.")
        else:
            trained = named_parameters(self, "scores.", f"net.{self.net.newest}")
            if not self.config.freeze_norms:
                moving = {id(p) for norm in norms_of(self.net.trunk) for p in norm.parameters()}
                trained |= {n: p for n, p in named_parameters(self, "net.trunk.").items() if id(p) in moving}
        return {"net": self.config.for_task(task).player(trained)}

    def loss(self, batch: Batch, step: Step) -> Terms:
        labels = Window(step.task.active)
        if self.masked(step.task.index):
            c = self.config
            masks = [cast(Tensor, StraightThrough.apply(r, c.threshold, c.masks)) for r in self.scores]
            features = self._features(batch.x, masks)
        else:
            features = self.net.trunk(batch.x)
        return {"ce": cross_entropy(self.net.head(features, labels.active), batch.y, labels)}

    def _features(self, x: Tensor, masks: list[Tensor]) -> Tensor:
        pairs = zip(self.names, masks, strict=True)
        weights = {name: m * self.net.trunk.get_parameter(name).detach() for name, m in pairs}
        return run_with(self.net.trunk, weights, x)

    @torch.no_grad()
    def end_task(self, task: TaskInfo, data: Samples) -> None:
        if self.masked(task.index):
            for i, r in enumerate(self.scores):
                m = mask_of(r, self.config.threshold, self.config.masks)
                self.register_buffer(f"mask_{task.index}_{i}", self._packed(m))

    def _packed(self, m: Tensor) -> Tensor:
        """A mask as bits: those of its ones, and with ternary masks those of its minus ones behind them."""
        planes = [m > 0, m < 0] if self.config.masks == "ternary" else [m > 0]
        return torch.cat([pack(p) for p in planes])

    def mask(self, index: int, i: int) -> Tensor:
        """The mask [*] of layer ``i`` for task ``index``, as numbers."""
        name, r = f"mask_{index}_{i}", self.scores[i].detach()
        if name not in self._buffers:
            return mask_of(r, self.config.threshold, self.config.masks)  # of the task that is being learned
        bits = self.get_buffer(name)
        if self.config.masks == "binary":
            return unpack(bits, r.shape).to(r.dtype)
        ones, minus = (unpack(half, r.shape).to(r.dtype) for half in bits.chunk(2))
        return ones - minus

    # Answers and state --------------------------------------------------------------------------------------
    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        if task is None:
            raise ConfigError("piggyback predicts only with a task label, none was given: use scenario task.")
        with evaluating(self):
            if not self.masked(task.index):
                return self.net.predict(x, task)
            masks = [self.mask(task.index, i) for i in range(len(self.names))]
            return self.net.answer(self._features(x, masks), task)

    @property
    def n_kept(self) -> int:
        """Tasks, counted from the first, whose masks are kept."""
        return sum(name.endswith("_0") for name in self._buffers if name.startswith("mask_"))

    def structure(self) -> dict[str, Any]:
        return {**super().structure(), "masks": self.n_kept}

    def rebuild(self, structure: dict[str, Any]) -> None:
        super().rebuild(structure)
        for index in range(self.n_plain, self.n_plain + int(structure["masks"])):
            for i, r in enumerate(self.scores):
                self.register_buffer(f"mask_{index}_{i}", self._packed(torch.zeros_like(r)))

    def storage_bytes(self) -> dict[str, int]:
        # Scores start anew in each task.
        kept = n_bytes(b for n, b in self.named_buffers() if n.startswith("mask_"))
        return {**super().storage_bytes(), **self.net.storage_bytes(), "masks": kept, "other": 0}

    def facts(self) -> dict[str, str]:
        first = self.config.backbone == "first_task"
        told = {"backbone": "trained on the first task" if first else "the network as given"}
        if not self.config.freeze_norms:
            told["batch norm"] = "moves with every task"
        return told

    @torch.no_grad()
    def report(self) -> dict[str, Any]:
        """Share of each layer's weights that the newest task leaves out, and turns round."""
        index = len(self.net.stops) - 1
        if not self.masked(index):
            return {}
        masks = {name: self.mask(index, i) for i, name in enumerate(self.names)}
        told = {"out": {k: round(float((m == 0).float().mean()), 6) for k, m in masks.items()}}
        if self.config.masks == "ternary":
            told["turned"] = {k: round(float((m < 0).float().mean()), 6) for k, m in masks.items()}
        return told


_SMALL = f"{small.FIT}, momentum=0, weight_decay=0, keep_optimiser=false, later_epochs=3, threshold=0.005"

ENTRIES = {
    "piggyback": Entry(
        Piggyback,
        PiggybackConfig(),
        "Piggyback: a mask per task over a fixed network, needs task labels (Mallya et al., ECCV 2018)",
        small={
            "binary": f"{_SMALL}, later_lr=2e-3, masks=binary, backbone=first_task, score=0.01, score_start=constant, "
            "freeze_norms=true",
            "ternary": f"{_SMALL}, optimiser=sgd, lr=0.05, momentum=0.9, weight_decay=1e-3, "
            "later_lr=0.2, masks=ternary, backbone=given, score=0.02, score_start=uniform, freeze_norms=false",
        },
    )
}
