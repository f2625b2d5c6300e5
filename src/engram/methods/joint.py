"""Joint training: the upper bound. After each task a fresh network is trained on all data so far.

Source: "JT" in Ostapenko et al. (CVPR 2019), Table 1; the paper gives no recipe for it, ours is the options' defaults.

Departures: where the scenario gives the task label, the loss of a sample is taken within its own task. The method
declares that it reads ``all``: the one method here that is not a continual learner. With ``at`` it is trained after
some tasks only.
Cost: the data of all tasks; training time grows with their number.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from engram import seeds
from engram.core.contract import (
    Batch,
    Context,
    Method,
    Optimiser,
    Phase,
    Player,
    Reads,
    Samples,
    Schedule,
    Step,
    TaskInfo,
    Terms,
    Update,
    named_parameters,
)
from engram.core.options import Count, Positive
from engram.core.values import Checked
from engram.errors import ConfigError
from engram.methods.registry import Entry
from engram.parts import small
from engram.parts.classifier import Classifier
from engram.parts.window import Window, cross_entropy


@dataclass(frozen=True)
class JointConfig(Checked):
    """Options of joint training.

    Args:
        epochs: passes over all data so far, or blocks of ``steps_per_epoch`` steps.
        steps_per_epoch: None for whole passes.
        batch_size: samples a step.
        optimiser: adam or sgd.
        lr: learning rate.
        schedule: constant; cosine from lr to 0 over each training; or step, a tenth of lr from half of the epochs on
            and a hundredth from three quarters on.
        at: train after these tasks and after the last one only, counted from 1; after the others the last trained
            network answers, so that their accuracies are not those of joint training. None for all tasks.
    """

    epochs: Count = 10
    steps_per_epoch: Count | None = None
    batch_size: Count = 64
    optimiser: Literal["adam", "sgd"] = "adam"
    lr: Positive = 1e-3
    schedule: Schedule = "constant"
    at: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        at = () if self.at is None else self.at
        if self.at == () or any(isinstance(t, bool) or not isinstance(t, int) or t < 1 for t in at):
            raise ConfigError(
                f"at must hold numbers of tasks >= 1, got {list(at)}: give for example [1,5,10]."
            )


class Joint(Method):
    """Cross entropy on everything seen so far, from fresh weights at every task."""

    Config = JointConfig
    config: JointConfig
    task_of: Tensor
    reads: Reads = "all"

    def __init__(self, config: JointConfig, context: Context) -> None:
        super().__init__(config, context)
        self.net = Classifier(context)
        self.last = None if config.at is None else self.beforehand("n_tasks")
        # First label of each label's task: with a task label a sample competes within its own task only.
        self.register_buffer("task_of", torch.zeros(0, dtype=torch.int64))

    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        device = next(self.parameters()).device
        if self._trains(task):
            seed = seeds.derive(self.context.seed, "fresh", task.index)
            self.net = Classifier(replace(self.context, seed=seed))
        self.net.head.grow(task.n_seen, self.context.seed, task.index)
        self.net.to(device)
        old = self.task_of[: task.start]
        self.task_of = torch.cat([old, torch.full((task.n_seen - len(old),), task.index, device=device)])

    def _trains(self, task: TaskInfo) -> bool:
        number = task.index + 1
        return self.config.at is None or number in self.config.at or number == self.last

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        c = self.config
        if not self._trains(task):
            return ()
        fit = Update("net", "net", self.loss)
        return (Phase("fit", c.epochs, (fit,), c.batch_size, c.steps_per_epoch),)

    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        c = self.config
        return {"net": Player(named_parameters(self), Optimiser(c.optimiser, c.lr, schedule=c.schedule))}

    def loss(self, batch: Batch, step: Step) -> Terms:
        seen = (0, step.task.n_seen)
        labels = Window(seen, self.task_of if self.context.scenario == "task" else None)
        return {"ce": cross_entropy(self.net(batch.x, seen), batch.y, labels)}

    def facts(self) -> dict[str, str]:
        if self.config.at is None or self.last is None:
            return {}
        at = sorted({t for t in self.config.at if t < self.last} | {self.last})
        return {"trained": f"after tasks {', '.join(map(str, at))} only; else an earlier network answers"}

    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        return self.net.predict(x, task)

    def rebuild(self, structure: dict[str, Any]) -> None:
        super().rebuild(structure)
        self.task_of = torch.zeros(self.net.head.n_outputs, dtype=torch.int64)


_FRESH = "every task starts from fresh weights on all data so far: that is what joint training is"

ENTRIES = {
    "joint": Entry(
        Joint,
        JointConfig(),
        "trained afresh on all data so far: the upper bound, reads all",
        small={
            "adam": f"{small.FIT}, at=none",
            "cosine": f"{small.FIT}, schedule=cosine, steps_per_epoch=3, at=none",
        },
        skipped={("", "growing_keeps_old_logits"): _FRESH},
    )
}
