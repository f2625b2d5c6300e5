"""Joint training: the upper bound. After each task a fresh network is trained on all data so far.

Source: "JT" in Ostapenko et al. (CVPR 2019), Table 1; the paper gives no recipe for it. So that it is a bound, it
trains until the loss on a held-out part of the training samples has not fallen for ``patience`` epochs, with the
augmentation of the row that it bounds (``shift``, ``rotate``, ``mirror``, ``colour``), and the weights of the least
such loss answer.

Departures: where the scenario gives the task label, the loss of a sample is taken within its own task. The method
declares that it reads ``all``: the one method here that is not a continual learner. With ``at`` it is trained after
some tasks only. With ``patience=none`` it trains for ``epochs`` on all samples, none held out.
Cost: the data of all tasks; training time grows with their number.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
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
    evaluating,
    named_parameters,
)
from engram.core.network import Norm
from engram.core.options import BelowOne, Count, NonNegative, Positive, Share
from engram.core.values import Checked
from engram.errors import ConfigError
from engram.methods.registry import Entry
from engram.parts import small
from engram.parts.classifier import Classifier
from engram.parts.images import Augmentation
from engram.parts.teacher import Teacher
from engram.parts.window import Window, cross_entropy

BATCH = 500


@dataclass(frozen=True)
class JointConfig(Checked):
    """Options of joint training.

    Args:
        epochs: passes over all data so far, or blocks of ``steps_per_epoch`` steps; with patience the most of them.
        patience: epochs without a lower loss on the held-out samples after which a training ends; None for none held
            out and all of ``epochs``.
        held_out: share of each class's training samples that is held out.
        shift: pixels by which training images are shifted at random, at most.
        rotate: degrees by which they are rotated at random, at most.
        mirror: every second one is mirrored: for photographs, not for digits or letters.
        colour: share by which contrast and brightness of each of their channels change at random, at most.
        norm: normalisation in the network: batch, group or none.
        steps_per_epoch: steps of an epoch; none for a pass over all data so far.
        batch_size: samples in a training step.
        optimiser: adam or sgd.
        lr: learning rate of the optimiser.
        schedule: constant; cosine from lr to 0 over each training; or step, a tenth of lr from half of the epochs on
            and a hundredth from three quarters on.
        at: train after these tasks and after the last one only, counted from 1, [] for the last alone; after the
            others nothing is measured, so that there is no forgetting to tell of. None for all tasks.
    """

    epochs: Count = 100
    patience: Count | None = 5
    held_out: BelowOne = 0.1
    shift: NonNegative = 0.0
    rotate: NonNegative = 0.0
    mirror: bool = False
    colour: Share = 0.0
    norm: Norm = "batch"
    steps_per_epoch: Count | None = None
    batch_size: Count = 64
    optimiser: Literal["adam", "sgd"] = "adam"
    lr: Positive = 1e-3
    schedule: Schedule = "constant"
    at: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        at = () if self.at is None else self.at
        if any(isinstance(t, bool) or not isinstance(t, int) or t < 1 for t in at):
            raise ConfigError(
                f"at must hold numbers of tasks >= 1, got {list(at)}: give for example [1,5,10]."
            )


class Joint(Method):
    """Cross entropy on everything seen so far, from fresh weights at every task."""

    Config = JointConfig
    config: JointConfig
    task_of: Tensor
    least: Tensor
    waited: Tensor
    reads: Reads = "all"

    def __init__(self, config: JointConfig, context: Context) -> None:
        super().__init__(config, context)
        self.augment = Augmentation(config.shift, config.rotate, config.mirror, config.colour)
        self.augment.check(context.image_shape)
        if config.patience is not None and config.held_out == 0.0:
            raise ConfigError(
                "held_out must be > 0 where patience is given, got 0: give 0.1, or patience=none."
            )
        self.net = self._fresh(None)
        self.last = None if config.at is None else self.beforehand("n_tasks")
        # First label of each label's task: with a task label a sample competes within its own task only.
        self.register_buffer("task_of", torch.zeros(0, dtype=torch.int64))
        self.best: Teacher | None = None
        if config.patience is not None:
            self.best = Teacher(
                partial(self._fresh, None)
            )  # the network of the least loss on held-out samples
            self.register_buffer("least", torch.tensor(torch.inf, dtype=torch.float64))
            self.register_buffer("waited", torch.tensor(0))  # epochs since then

    def _fresh(self, task: TaskInfo | None) -> Classifier:
        seed = self.context.seed if task is None else seeds.derive(self.context.seed, "fresh", task.index)
        return Classifier(replace(self.context, seed=seed), norm=self.config.norm)

    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        device = self.task_of.device
        if self.answers(task):
            self.net = self._fresh(task)
        self.net.head.grow(task.n_seen, self.context.seed, task.index)
        self.net.to(device)
        old = self.task_of[: task.start]
        self.task_of = torch.cat([old, torch.full((task.n_seen - len(old),), task.index, device=device)])

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        c = self.config
        if not self.answers(task):
            return ()
        if self.best is None:
            return (self._phase("fit", "task"),)
        return (replace(self._phase("fit", "fit"), until=lambda: int(self.waited) >= (c.patience or 0)),)

    def _phase(self, name: str, pool: str) -> Phase:
        c, noise = self.config, self.augment.drawn(self.context.image_shape)
        fit = Update("net", "net", self.loss, (pool,), noise=noise)
        return Phase(name, c.epochs, (fit,), c.batch_size, c.steps_per_epoch, pool)

    def pools(self, task: TaskInfo, phase: str, epoch: int, data: Samples) -> dict[str, Samples]:
        if self.best is None:
            return {}
        fit, _ = self._parts(task, data.y)
        return {"fit": Samples(data.x[fit], data.y[fit])}

    def _parts(self, task: TaskInfo, y: Tensor) -> tuple[Tensor, Tensor]:
        """Rows to learn and rows held out: of each class's samples a random share, at least one is learned."""
        order = torch.randperm(len(y), generator=seeds.generator(self.context.seed, "held out", task.index))
        labels = y.cpu()[order]
        out = torch.zeros(len(y), dtype=torch.bool)
        for label in labels.unique().tolist():
            rows = order[labels == label]
            out[rows[: round(self.config.held_out * len(rows))]] = True
        return (~out).nonzero().flatten().to(y.device), out.nonzero().flatten().to(y.device)

    def begin_phase(self, task: TaskInfo, phase: str) -> None:
        if self.best is not None:
            self.least.fill_(torch.inf)
            self.waited.zero_()

    @torch.no_grad()
    def end_epoch(self, step: Step, data: Samples) -> None:
        """Keep the network if its loss on the held-out samples is the least so far."""
        if self.best is None:
            return
        _, rows = self._parts(step.task, data.y)
        if not len(rows):
            raise ConfigError(
                f"held_out must leave samples to measure the loss on, {self.config.held_out:g} of {len(data)} leaves "
                "none: give a larger share, or patience=none."
            )
        total, normalise = torch.zeros_like(self.least), self.context.network.normalise
        with evaluating(self.net):
            for part in rows.split(BATCH):
                total += len(part) * self._cross_entropy(normalise(data.x[part]), data.y[part], step.task)
        if total / len(rows) < self.least:
            self.least.copy_(total / len(rows))
            self.waited.zero_()
            self.best.learn(self.net)
        else:
            self.waited += 1

    def end_phase(self, task: TaskInfo, phase: str) -> None:
        if self.best is not None and self.best.module is not None:
            self.net.load_state_dict(self.best.net.state_dict())
            self.best.forget()

    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        c = self.config
        return {
            "net": Player(named_parameters(self, "net."), Optimiser(c.optimiser, c.lr, schedule=c.schedule))
        }

    def loss(self, batch: Batch, step: Step) -> Terms:
        return {"ce": self._cross_entropy(self.augment(batch.x, batch.noise), batch.y, step.task)}

    def _cross_entropy(self, x: Tensor, y: Tensor, task: TaskInfo) -> Tensor:
        seen = (0, task.n_seen)
        labels = Window(seen, self.task_of if self.context.scenario == "task" else None)
        return cross_entropy(self.net(x, seen), y, labels)

    def measures(self, step: Step) -> dict[str, Any]:
        return {} if self.best is None else {"held-out loss": float(self.least), "waited": int(self.waited)}

    def facts(self) -> dict[str, str]:
        if self.config.at is None or self.last is None:
            return {}
        at = sorted({t for t in self.config.at if t < self.last} | {self.last})
        return {
            "trained": f"after {'the last task' if len(at) == 1 else 'tasks ' + ', '.join(map(str, at))} only"
        }

    def answers(self, task: TaskInfo) -> bool:
        number = task.index + 1
        return self.config.at is None or number in self.config.at or number == self.last

    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        return self.net.predict(x, task)

    def rebuild(self, structure: dict[str, Any]) -> None:
        super().rebuild(structure)
        self.task_of = torch.zeros(self.net.head.n_outputs, dtype=torch.int64)


_FRESH = "every task starts from fresh weights on all data so far: that is what joint training is"

_NEW = "epochs=4, lr=0.1, patience=1, held_out=0.3, shift=1, rotate=5, norm=none"
_OLD = "patience=none, held_out=0.1, shift=0, rotate=0, norm=batch, mirror=false, colour=0"

ENTRIES = {
    "joint": Entry(
        Joint,
        JointConfig(),
        "trained afresh on all data so far: the upper bound, reads all",
        small={
            "adam": f"{small.FIT}, {_OLD}, at=none",
            "cosine": f"{small.FIT}, {_OLD}, schedule=cosine, steps_per_epoch=3, at=none",
            "patient": f"{small.FIT}, {_OLD}, {_NEW}, at=none",
        },
        skipped={("", "growing_keeps_old_logits"): _FRESH},
    )
}
