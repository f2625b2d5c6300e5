"""FeTrIL: features of old classes are imitated by moving those of new ones to the old means; a linear head learns on
both.

G. Petit, A. Popescu, H. Schindler, D. Picard, B. Delezoide, "FeTrIL: Feature Translation for Exemplar-Free
Class-Incremental Learning", WACV 2023, arXiv 2211.13131. For an old class c and the new class k whose mean is most
like its own (cosine),

    z_c = z_k - mu_k + mu_c                                                                                     (1)

are its pseudo-features. Only means are kept; the head starts afresh after each task, so that it owes nothing to the
order of steps.

Departures: features are what the stream hands out, instead of those of a network that learned the first task (the
stream's feature ``first-task`` is that). The head is trained with cross entropy and Adam, the authors' with a linear
support vector machine. Before the head, features are scaled to a root mean square of 1.
Cost: K d numbers and the head; K ``samples`` d numbers of pseudo-features while it is trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from engram import seeds
from engram.core.contract import (
    Batch,
    Context,
    Optimiser,
    Phase,
    Player,
    Samples,
    Step,
    TaskInfo,
    Terms,
    Update,
    named_parameters,
)
from engram.core.options import Count, NonNegative, Positive
from engram.errors import ConfigError
from engram.methods.registry import Entry
from engram.networks.heads import Head
from engram.parts import small
from engram.parts.one_pass import OnePass, PassOptions


@dataclass(frozen=True)
class FetrilConfig(PassOptions):
    """Options of FeTrIL.

    Args:
        epochs: epochs for which the head is trained after each task, with new pseudo-features in each.
        samples: features of each class in an epoch of the head, drawn at random.
        head_batch: features in a step of the head.
        lr: learning rate of the head at its start; it falls to 0 as a cosine.
        weight_decay: L2 term of the head's optimiser.
    """

    epochs: Count = 20
    samples: Count = 200
    head_batch: Count = 100
    lr: Positive = 1e-3
    weight_decay: NonNegative = 0.0


def scaled(z: Tensor) -> Tensor:
    """Vectors [B, d] with a root mean square of 1."""
    return F.normalize(z) * z.shape[1] ** 0.5


class Fetril(OnePass):
    """A linear head on features of new classes and translated ones of old classes."""

    Config = FetrilConfig
    config: FetrilConfig

    def __init__(self, config: FetrilConfig, context: Context) -> None:
        super().__init__(config, context, "none")
        self.head = Head(self.statistics.d, "single")

    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        super().begin_task(task, data)
        self.head.grow(task.n_seen, self.context.seed, task.index)
        self.head.to(data.x.device)

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        c = self.config
        learn = Update("head", "head", self.loss, ("features",))
        head = Phase("head", c.epochs, (learn,), c.head_batch, primary="features", refresh="epoch")
        return (*super().phases(task, n_samples), head)

    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        if phase != "head":
            return {}
        adam = Optimiser("adam", self.config.lr, weight_decay=self.config.weight_decay, schedule="cosine")
        return {"head": Player(named_parameters(self, "head."), adam)}

    def begin_phase(self, task: TaskInfo, phase: str) -> None:
        if phase == "head":
            with seeds.seeded(self.context.seed, "fresh head", task.index):
                for layer in self.head.layers:
                    layer.reset_parameters()

    def pools(self, task: TaskInfo, phase: str, epoch: int, data: Samples) -> dict[str, Samples]:
        """For each class as many features: its own where the task has them, else those of (1)."""
        if phase != "head":
            return {}
        new, means, n = data.y.unique(), self.statistics.means, self.config.samples
        like = F.normalize(means) @ F.normalize(means[new]).T
        like[new, torch.arange(len(new), device=new.device)] = torch.inf  # itself
        g = seeds.generator(self.context.seed, "translated", task.index, epoch)
        sets = []
        for c in self.statistics.known.tolist():
            k = int(new[like[c].argmax()])
            own = (data.y == k).nonzero().flatten()
            rows = own[torch.randint(len(own), (n,), generator=g).to(own.device)]
            z = self.context.network.normalise(data.x[rows]).flatten(1)
            sets.append(scaled(z + (means[c] - means[k]).to(z.dtype)))
        y = self.statistics.known.repeat_interleave(n)
        return {"features": Samples(torch.cat(sets), y)}

    def loss(self, batch: Batch, step: Step) -> Terms:
        """Cross entropy over all classes seen."""
        return {"ce": F.cross_entropy(self.head(batch.x, (0, step.task.n_seen)), batch.y)}

    def scores(self, z: Tensor) -> Tensor:
        logits = self.head(scaled(z).to(self.head.layers[0].weight.dtype), (0, self.head.n_outputs))
        return logits[:, self.statistics.known].double()

    def forget(self, label: int) -> None:
        raise ConfigError(
            "a class must not be in the head to be forgotten exactly, the head of fetril was trained against it: use "
            "ncm, fecam, or slda or ridge with scatter=classes."
        )


ENTRIES = {
    "fetril": Entry(
        Fetril,
        FetrilConfig(),
        "a linear head on features of new classes, moved to the means of old ones (Petit et al., WACV 2023)",
        small={"adam": f"{small.PASS}, epochs=2, samples=6, head_batch=5, lr=1e-3, weight_decay=0"},
    )
}
