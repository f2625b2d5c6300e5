"""Dark Experience Replay++: stored samples keep the answers that the network once gave for them.

P. Buzzega, M. Boschini, A. Porrello, D. Abati, S. Calderara: "Dark Experience for General Continual Learning: a Strong,
Simple Baseline", NeurIPS 2020, arXiv 2004.07211 ("DER++"). Here: the objective of its Eq. 6 and Algorithm 2, with
reservoir sampling (Vitter, ACM TOMS 11(1), 1985). With ``beta=0`` it is DER (Eq. 4).

Departures: the squared distance of answers is a mean over samples and stored logits, as in the released code, where the
paper writes a norm. An answer covers the labels known when it was stored, and only those are compared, since the output
layer grows; the released code has all outputs from the start. Answers are taken after the step, in evaluation mode.
Stored samples are drawn with replacement and not augmented. Each presentation counts for the reservoir.
Cost: ``memory_budget`` real samples and their logits, which are counted with them; three times the batch in every step.

Shapes: B batch, M samples held, C labels seen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from engram.core.contract import (
    Batch,
    Context,
    Method,
    Noise,
    Phase,
    Player,
    Reads,
    Samples,
    Step,
    TaskInfo,
    Terms,
    Update,
    evaluating,
    named_parameters,
)
from engram.core.options import Count, NonNegative
from engram.methods.registry import Entry
from engram.parts import small
from engram.parts.classifier import Classifier
from engram.parts.fitting import FitOptions
from engram.parts.reservoir import Reservoir
from engram.parts.window import cross_entropy


@dataclass(frozen=True)
class DerConfig(FitOptions):
    """Options of Dark Experience Replay++; ``batch_size`` counts new samples, twice as many stored ones come to them.

    Args:
        alpha: weight of the distance to stored answers (Eq. 4 and 6).
        beta: weight of the cross entropy on stored samples (Eq. 6); 0 is DER.
        memory_budget: real samples stored, over all classes together.
    """

    alpha: NonNegative = 0.1
    beta: NonNegative = 0.5
    memory_budget: Count = 200


class Answers(Reservoir):
    """A reservoir that keeps logits float32 [M, C] beside its samples; those of labels not known then are NaN."""

    logits: Tensor

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.register_buffer("logits", torch.empty((0, 0)))

    def keep(self, slots: Tensor, logits: Tensor) -> None:
        """Logits [n, C] of the samples just put into ``slots``."""
        shape = (len(self), logits.shape[1])
        if self.logits.shape != shape:
            grown = self.logits.new_full(shape, torch.nan)
            grown[: len(self.logits), : self.logits.shape[1]] = self.logits
            self.logits = grown
        self.logits[slots] = logits

    def structure(self) -> Any:
        """Number of samples and of logits each."""
        return list(self.logits.shape)

    def rebuild(self, size: Any) -> None:
        """Room for them."""
        super().rebuild(size[0])
        self.logits = self.logits.new_empty(size)


def distance(logits: Tensor, stored: Tensor) -> Tensor:
    """Mean squared difference [] of logits [B, C] from stored ones [B, c], c <= C, over those that are not NaN."""
    known = ~stored.isnan()
    return F.mse_loss(logits[:, : stored.shape[1]][known], stored[known])


class Der(Method):
    """Cross entropy, alpha times the distance to stored answers, beta times cross entropy on stored samples (Eq. 6)."""

    Config = DerConfig
    config: DerConfig
    reads: Reads = "memory"

    def __init__(self, config: DerConfig, context: Context) -> None:
        super().__init__(config, context)
        self.net = Classifier(context)
        self.memory = Answers(context.image_shape, config.memory_budget)

    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        self.net.grow(task)

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        plain, u = self.config.for_task(task).phase(self.loss), Noise((), "uniform")
        learn = replace(plain.updates[0], noise={"alpha": u, "beta": u})
        return (replace(plain, updates=(learn, Update("memory", None, self.remember, noise={"admit": u}))),)

    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        return {"net": self.config.for_task(task).player(named_parameters(self, "net."))}

    def loss(self, batch: Batch, step: Step) -> Terms:
        c, memory, normalise = self.config, self.memory, self.context.network.normalise
        labels = self.net.mixed(step.task)
        terms = {"ce": cross_entropy(self.net(batch.x, labels.active), batch.y, labels)}
        if len(memory) and c.alpha:
            rows = memory.rows(batch.noise["alpha"])
            logits = self.net(normalise(memory.images[rows]), (0, step.task.n_seen))
            terms["answers"] = c.alpha * distance(logits, memory.logits[rows])
        if len(memory) and c.beta:
            stored = memory.at(memory.rows(batch.noise["beta"]))
            logits = self.net(normalise(stored.x), labels.active)
            terms["stored"] = c.beta * cross_entropy(logits, stored.y, labels)
        return terms

    def remember(self, batch: Batch, step: Step) -> Terms:
        """The batch is presented to the reservoir, which keeps the network's answers for what it takes."""
        slots = self.memory.admit(batch.noise["admit"])
        if slots:
            x, y = batch.x[list(slots.values())], batch.y[list(slots.values())]
            at = self.memory.put(slots, self.context.network.to_stored(x), y)
            with evaluating(self.net):
                self.memory.keep(at, self.net(x, (0, step.task.n_seen)))
        return {}

    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        return self.net.predict(x, task)

    def facts(self) -> dict[str, str]:
        return {"stored samples": f"{self.config.memory_budget} with their logits, reservoir"}


ENTRIES = {
    "der++": Entry(
        Der,
        DerConfig(),
        "Dark Experience Replay++: stored samples with stored answers (Buzzega et al., NeurIPS 2020)",
        small={"adam": f"{small.FIT}, memory_budget=7, alpha=0.5, beta=0.5"},
    )
}
