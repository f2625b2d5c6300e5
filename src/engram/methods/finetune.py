"""Fine-tuning: the lower bound. Every task is learned with plain cross entropy, nothing protects the old ones.

Source: the baseline of every paper here; e.g. "vanilla" in Chaudhry et al. (ECCV 2018), Sec. 6.

Departures: where a task holds a single class, the loss is taken over all classes seen, old rows of the head kept.
Cost: none beyond training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor
from torch.nn import functional as F

from engram.methods.base import (
    Batch,
    Context,
    Method,
    Optimiser,
    Phase,
    Player,
    Samples,
    Step,
    Task,
    Terms,
    Update,
    named_parameters,
)
from engram.parts.classifier import Classifier
from engram.parts.options import check_fraction, check_positive, check_types


@dataclass(frozen=True)
class FinetuneConfig:
    """Options of fine-tuning.

    Args:
        epochs: passes over each task, or blocks of ``steps_per_epoch`` steps.
        steps_per_epoch: None for whole passes.
        batch_size: samples a step.
        optimiser: adam or sgd.
        lr: learning rate.
        momentum: of sgd.
        schedule: constant, or cosine from lr to 0 over each task.
        keep_optimiser: keep the optimiser's state from task to task; otherwise a fresh one for each.
    """

    epochs: int = 10
    steps_per_epoch: int | None = None
    batch_size: int = 64
    optimiser: Literal["adam", "sgd"] = "adam"
    lr: float = 1e-3
    momentum: float = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    keep_optimiser: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "epochs", "steps_per_epoch", "batch_size", "lr")
        check_fraction(self, "momentum", below_one=True)


class Finetune(Method):
    """Cross entropy on the current task, nothing else."""

    Config = FinetuneConfig
    config: FinetuneConfig
    reads: ClassVar = "task"

    def __init__(self, config: FinetuneConfig, context: Context) -> None:
        super().__init__(config, context)
        self.net = Classifier(context)
        self.active = (0, 0)

    def begin_task(self, task: Task, data: Samples) -> None:
        self.net.head.grow(task.n_seen, self.context.seed, task.index)

    def phases(self, task: Task, n_samples: int) -> tuple[Phase, ...]:
        c = self.config
        self.active = task.active
        fit = Update("net", "net", self.loss)
        return (Phase("fit", c.epochs, (fit,), c.batch_size, c.steps_per_epoch),)

    def players(self, phase: str) -> dict[str, Player]:
        c = self.config
        optimiser = Optimiser(c.optimiser, c.lr, momentum=c.momentum, schedule=c.schedule)
        return {"net": Player(named_parameters(self), optimiser, keep_state=c.keep_optimiser)}

    def loss(self, batch: Batch, step: Step) -> Terms:
        first, last = self.active
        return {"ce": F.cross_entropy(self.net(batch.x, (first, last)), batch.y - first)}

    def predict(self, x: Tensor, *, task: Task | None = None) -> Tensor:
        return self.net.predict(x, task)

    def structure(self) -> dict[str, Any]:
        return {"head": self.net.head.sizes}

    def rebuild(self, structure: dict[str, Any]) -> None:
        self.net.head.rebuild(structure["head"])
