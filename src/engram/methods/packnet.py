"""PackNet: each task trains the free weights, keeps the largest of them for itself and frees the rest.

A. Mallya, S. Lazebnik: "PackNet: Adding Multiple Tasks to a Single Network by Iterative Pruning", CVPR 2018, arXiv
1711.05769. Here: its Sec. 3. A task has two phases with pruning between them:

- ``finetune``: the weights that no earlier task owns are trained; owned ones take part as they are;
- pruning: layer by layer, the share p of the task's weights with the smallest magnitude is set to 0 and freed;
- ``retrain``: what the task kept is trained on.

Task t is answered with the weights of tasks 1 .. t. Biases and normalisation (scale, offset, running statistics) are
learned with the first task and stay, so that old logits never change by a bit, whatever the optimiser: what must stay
is put back after every step, moments and weight decay notwithstanding.

Departures: the first task is the stream's, from fresh weights, instead of a network trained on ImageNet; the best epoch
is not chosen on test images, as the released code (`arunmallya/packnet`) does, the last one counts; the last task is
pruned like any other, since nobody knows that it is the last, except with ``shares=equal``; schedules and optimiser are
those of the shared options.
Cost: an owner a weight, ceil(log2(T + 1)) bits after T tasks (a byte while it runs), a head a task.

Shapes: * is a weight's shape.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

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
    named_parameters,
)
from engram.core.options import BelowOne, Count, Positive
from engram.errors import ConfigError
from engram.methods.registry import Entry
from engram.parts import small
from engram.parts.classifier import Classifier
from engram.parts.fitting import FitOptions
from engram.parts.hold import Hold
from engram.parts.masked_weights import run_with, weight_names
from engram.parts.statistics import norms_of
from engram.parts.window import Window, cross_entropy

FINETUNE, RETRAIN = "finetune", "retrain"  # phases
MOST_TASKS = 255  # an owner is a byte


@dataclass(frozen=True)
class PackNetConfig(FitOptions):
    """Options of PackNet.

    Args:
        shares: how much of its weights a task frees: rates (first_prune and later_prune) or equal (each of the
            stream's tasks keeps as much; their number must be known beforehand).
        first_prune: share of its weights that the first task frees.
        later_prune: share of its weights that every later task frees.
        retrain_epochs: epochs after pruning; None for half as many as before it.
        retrain_lr: learning rate after pruning; None for a tenth of the one before it.
        freeze_norms: leave batch norms as the first task left them; otherwise later tasks move them, and old tasks
            drift.
    """

    shares: Literal["rates", "equal"] = "rates"
    first_prune: BelowOne = 0.5
    later_prune: BelowOne = 0.75
    retrain_epochs: Count | None = None
    retrain_lr: Positive | None = None
    freeze_norms: bool = True


class PackNet(Method):
    """Cross entropy on the free weights, pruning by magnitude, cross entropy on what is kept."""

    Config = PackNetConfig
    config: PackNetConfig
    scenarios: ClassVar[frozenset[Scenario]] = frozenset({"task"})

    def __init__(self, config: PackNetConfig, context: Context) -> None:
        super().__init__(config, context)
        self.net = Classifier(context, hold_norms=config.freeze_norms)
        self.names = weight_names(self.net.trunk)
        self.n_tasks = self.beforehand("n_tasks") if config.shares == "equal" else None
        for i, name in enumerate(self.names):
            shape = self.net.trunk.get_parameter(name).shape
            self.register_buffer(f"owner_{i}", torch.zeros(shape, dtype=torch.uint8))
        self._hold: Hold | None = None
        self._check_room(context.n_tasks or 1)

    def owner(self, i: int) -> Tensor:
        """Who owns each weight of layer ``i``, uint8 [*]: task t (counted from 1), or 0 for nobody."""
        return self.get_buffer(f"owner_{i}")

    def rate(self, index: int) -> float:
        """The share p of its weights that task ``index`` (from 0) frees."""
        if self.n_tasks is not None:
            return 1.0 - 1.0 / max(self.n_tasks - index, 1)
        return self.config.later_prune if index else self.config.first_prune

    def _check_room(self, n_tasks: int) -> None:
        """``ConfigError`` where so many tasks leave one of them without a weight in some layer."""
        if n_tasks > MOST_TASKS:
            raise ConfigError(f"tasks must be at most {MOST_TASKS} for packnet, got {n_tasks}: give fewer.")
        free = [self.owner(i).numel() for i in range(len(self.names))]
        for index in range(n_tasks):
            kept = [n - round(self.rate(index) * n) for n in free]
            for i, name in enumerate(self.names):
                if kept[i] == 0:
                    raise ConfigError(
                        f"each task must own weights in every layer, of {n_tasks} tasks task {index + 1} finds none "
                        f"left in {name} of {self.owner(i).numel()}: give at most {index} tasks, another share "
                        "(first_prune, later_prune, shares) or a wider network."
                    )
            free = [n - k for n, k in zip(free, kept, strict=True)]

    # Training -----------------------------------------------------------------------------------------------
    @torch.no_grad()
    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        self._check_room(task.index + 1)
        full = [n for i, n in enumerate(self.names) if not bool((self.owner(i) == 0).any())]
        if full:
            raise ConfigError(
                f"a task must find free weights in every layer, task {task.index + 1} finds none in {full[0]}: give "
                "fewer tasks, another share (first_prune, later_prune, shares) or a wider network."
            )
        for i in range(len(self.names)):
            self.owner(i).masked_fill_(self.owner(i) == 0, task.index + 1)
        self.net.grow(task)

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        fit = self.config.for_task(task).phase(self.loss, FINETUNE)
        if self.rate(task.index) == 0.0:
            return (fit,)
        epochs = self.config.retrain_epochs or (fit.epochs + 1) // 2
        return (fit, replace(fit, name=RETRAIN, epochs=epochs))

    def begin_phase(self, task: TaskInfo, phase: str) -> None:
        self._hold = None

    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        fit = self.config.for_task(task)
        if phase == RETRAIN:
            fit = replace(fit, lr=self.config.retrain_lr or fit.lr / 10.0)
        return {"net": fit.player(self._trained(task))}

    def _trained(self, task: TaskInfo) -> dict[str, nn.Parameter]:
        if task.index == 0:
            return named_parameters(self, "net.")
        norms = norms_of(self.net.trunk) if not self.config.freeze_norms else []
        free = {id(p) for norm in norms for p in norm.parameters()}
        weights = {f"net.trunk.{name}" for name in self.names}
        head = f"net.{self.net.newest}"
        return {
            n: p
            for n, p in named_parameters(self, "net.").items()
            if n in weights or n.startswith(head) or id(p) in free
        }

    def loss(self, batch: Batch, step: Step) -> Terms:
        labels = Window(step.task.active)
        return {"ce": cross_entropy(self.net(batch.x, labels.active), batch.y, labels)}

    def after_backward(self, player: str, grads: dict[str, Tensor], step: Step) -> None:
        if self._hold is None:
            # Held: weights of earlier tasks at their values, and freed ones at 0.
            masks = {f"net.trunk.{n}": self.owner(i) != step.task.index + 1 for i, n in enumerate(self.names)}
            masks = {n: m for n, m in masks.items() if bool(m.any())}
            self._hold = Hold(masks, dict(self.named_parameters()))
        self._hold.cut(grads)

    @torch.no_grad()
    def after_step(self, player: str, step: Step) -> None:
        if self._hold is not None:
            self._hold.put_back()

    @torch.no_grad()
    def end_phase(self, task: TaskInfo, phase: str) -> None:
        if phase == FINETUNE and self.rate(task.index):
            for i, name in enumerate(self.names):
                prune(
                    self.net.trunk.get_parameter(name), self.owner(i), task.index + 1, self.rate(task.index)
                )

    # Answers and state --------------------------------------------------------------------------------------
    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        if task is None:
            raise ConfigError("packnet predicts only with a task label, none was given: use scenario task.")
        owned: dict[str, Tensor] = {}
        for i, name in enumerate(self.names):
            w, later = self.net.trunk.get_parameter(name), self.owner(i) > task.index + 1
            owned[name] = w.detach().masked_fill(later, 0.0)  # nobody's weights are 0
        with evaluating(self):
            return self.net.answer(run_with(self.net.trunk, owned, x), task)

    def storage_bytes(self) -> dict[str, int]:
        bits = len(self.net.stops).bit_length()  # owners 0 .. T
        n = sum(self.owner(i).numel() for i in range(len(self.names)))
        return {
            **super().storage_bytes(),
            **self.net.storage_bytes(),
            "masks": (n * bits + 7) // 8,
            "other": 0,
        }

    def facts(self) -> dict[str, str]:
        return {} if self.config.freeze_norms else {"batch norm": "moves with every task"}

    def report(self) -> dict[str, Any]:
        """Share of each layer's weights that is still free, and that each task owns."""
        owners = {name: self.owner(i).flatten() for i, name in enumerate(self.names)}
        n = len(self.net.stops) + 1
        shares = {k: (o.bincount(minlength=n) / len(o)).tolist() for k, o in owners.items()}
        return {
            "free": {k: round(v[0], 6) for k, v in shares.items()},
            "owned": {k: [round(s, 6) for s in v[1:]] for k, v in shares.items()},
        }


def prune(weight: Tensor, owner: Tensor, task: int, rate: float) -> None:
    """Free the share ``rate`` of the weights that ``task`` (from 1) owns, the smallest in magnitude, in place.

    Freed weights are 0 and nobody's. The threshold is the k-th smallest magnitude, k = round(rate n); weights at the
    threshold are freed too, as in the released code, so that ties free more.
    """
    own = owner == task
    magnitudes = weight.detach().abs()[own]
    k = round(rate * len(magnitudes))
    if k:
        freed = own & (weight.detach().abs() <= magnitudes.kthvalue(k).values)
        owner.masked_fill_(freed, 0)
        weight.masked_fill_(freed, 0.0)


_SMALL = f"{small.FIT}, momentum=0, weight_decay=0, keep_optimiser=false, first_prune=0.5, freeze_norms=true"

ENTRIES = {
    "packnet": Entry(
        PackNet,
        PackNetConfig(),
        "PackNet: tasks own weights, needs task labels (Mallya and Lazebnik, CVPR 2018)",
        small={
            "rates": f"{_SMALL}, shares=rates, later_prune=0.6, retrain_epochs=1, retrain_lr=none",
            "equal": f"{_SMALL}, optimiser=sgd, lr=0.05, momentum=0.9, weight_decay=0.01, keep_optimiser=true, "
            "shares=equal, later_prune=0.75, retrain_epochs=none, retrain_lr=0.01",
        },
    )
}
