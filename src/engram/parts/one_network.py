"""What methods of one network have in common: interfaces with named hooks, from which methods derive.

Neither is a method, and what they do is not overridden: a method fills in hooks, so that its file holds what its paper
adds and nothing else. Stored samples ("-S") are those of Chaudhry et al. (ECCV 2018), Sec. 6: a few of old classes,
mixed into training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, final

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
    Step,
    TaskInfo,
    Terms,
    evaluating,
    named_parameters,
)
from engram.errors import ConfigError
from engram.parts.classifier import Classifier
from engram.parts.fitting import Loss, TrainOptions
from engram.parts.memory import SampleMemory
from engram.parts.penalty import Penalty
from engram.parts.statistics import norms_of
from engram.parts.window import Window, cross_entropy


class OneNetwork(Method):
    """A classifier that learns task by task, and real samples if any are stored.

    Hooks: :meth:`before_growth`, :meth:`begin`, :meth:`consolidate` and :meth:`added_facts`.
    """

    config: TrainOptions
    penalties: Sequence[Penalty] = ()

    def __init__(self, config: TrainOptions, context: Context) -> None:
        super().__init__(config, context)
        self.net = make_network(config, context)
        self.memory = SampleMemory(context.image_shape) if config.memory_per_class else None
        self.reads = "task" if self.memory is None else "memory"
        self._theta: dict[str, nn.Parameter] = {}

    # Hooks --------------------------------------------------------------------------------------------------
    def before_growth(self, task: TaskInfo) -> None:
        """When a task begins, before the output layer gets rows for its labels."""

    def begin(self, task: TaskInfo) -> None:
        """When a task begins, with rows for all labels seen."""

    def consolidate(self, task: TaskInfo, data: Samples) -> None:
        """After the last phase, before samples are stored; without gradients."""

    def added_facts(self) -> dict[str, str]:
        """Facts beside those of head and stored samples."""
        return {}

    # What stands here for all -------------------------------------------------------------------------------
    @property
    def theta(self) -> dict[str, nn.Parameter]:
        """Trainable parameters by name, looked up once a task, since that costs as much as some of the sums."""
        if not self._theta:
            self._theta = named_parameters(self)
        return self._theta

    def taking_part(self, task: TaskInfo) -> dict[str, nn.Parameter]:
        """The parameters that the task's logits depend on."""
        return named_parameters(self, *(f"net.{prefix}" for prefix in self.net.taking_part(task)))

    def fit_phase(self, task: TaskInfo, loss: Loss) -> Phase:
        """The ordinary phase. With stored samples a step holds ``memory_share`` of them, and an epoch is still one pass
        over the task's samples.
        """
        plain, memory = self.config.for_task(task).phase(loss), self.memory
        if memory is None or not len(memory):
            return plain
        stored = round(self.config.memory_share * plain.batch_size)
        updates = (replace(plain.updates[0], pools=("task", "memory")),)
        return replace(plain, updates=updates, batch_size=plain.batch_size - stored, sizes={"memory": stored})

    def window(self, task: TaskInfo) -> Window:
        """The labels that compete in a batch of ``task``, which may hold stored samples."""
        memory, by_class = self.memory, self.config.memory_weight == "classes"
        first_new = task.start if by_class and memory is not None and len(memory) else None
        if memory is None:
            return Window(task.active, first_new=first_new)
        return self.net.mixed(task, first_new)

    def cross_entropy(self, features: Tensor, batch: Batch, step: Step) -> Tensor:
        """Mean cross entropy [] of a batch with features [B, F], within the window of its task."""
        labels = self.window(step.task)
        return cross_entropy(self.net.head(features, labels.active), batch.y, labels)

    @final
    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        self.before_growth(task)
        self.net.grow(task, zero=self.config.zero_head)
        self._theta = {}
        self.begin(task)
        for penalty in self.penalties:
            penalty.pad(self.theta)

    @final
    def pools(self, task: TaskInfo, phase: str, epoch: int, data: Samples) -> dict[str, Samples]:
        return {} if self.memory is None or not len(self.memory) else {"memory": self.memory.even()}

    @final
    def end_task(self, task: TaskInfo, data: Samples) -> None:
        with torch.no_grad():
            self.consolidate(task, data)
            if self.memory is not None:
                self._store(self.memory, task, data)

    def _store(self, memory: SampleMemory, task: TaskInfo, data: Samples) -> None:
        """Add ``memory_per_class`` samples of each class of the task that ends, by ``memory_choice``."""
        fresh, n = SampleMemory(memory.image_shape).to(memory.labels.device), self.config.memory_per_class
        if self.config.memory_choice == "random":
            fresh.add_random(data, n, seeds.generator(self.context.seed, "memory", task.index))
        else:
            normalise = self.context.network.normalise
            with evaluating(self.net):
                fresh.add_herded(data, n, lambda x: self.net.trunk(normalise(x)))
        memory.append(fresh)

    @final
    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        return self.net.predict(x, task)

    def rebuild(self, structure: dict[str, Any]) -> None:
        super().rebuild(structure)
        self._theta = {}

    @final
    def facts(self) -> dict[str, str]:
        c, told = self.config, {}
        if c.masked_head:
            told["head"] = "one, softmax masked to the task"
        if c.freeze_norms and norms_of(self.net.trunk):
            told["batch norm"] = "statistics of the first task"
        if c.memory_per_class:
            how, by_class = c.memory_choice.replace("_", " "), c.memory_weight == "classes"
            told["stored samples"] = (
                f"{c.memory_per_class} a class, {how}, {c.memory_share:g} of each batch"
                f"{', weighted by class' if by_class else ''} (-S)"
            )
        return {**told, **self.added_facts()}


class PlainTraining(OneNetwork):
    """One network, trained with cross entropy and quadratic penalties in one phase a task.

    Further hooks: ``penalties``, set in the constructor, which hold from the second task on; :meth:`observe`; and
    :meth:`Method.after_step`.
    """

    adds_gradient = True  # penalties move weights by their gradient; otherwise the method sees to it

    def observe(self, grads: Mapping[str, Tensor], step: Step) -> None:
        """Sees the gradient of the loss alone, by parameter name; without gradients."""

    @final
    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        return (self.fit_phase(task, self.loss),)

    @final
    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        return {"net": self.config.for_task(task).player(self.theta)}

    def loss(self, batch: Batch, step: Step) -> Terms:
        """Cross entropy."""
        return {"ce": self.cross_entropy(self.net.trunk(batch.x), batch, step)}

    @final
    @torch.no_grad()
    def after_backward(self, player: str, grads: dict[str, Tensor], step: Step) -> None:
        self.observe(grads, step)
        for penalty in self.penalties if step.task.index and self.adds_gradient else ():
            penalty.add_gradient(grads, self.theta)

    @final
    def measures(self, step: Step) -> dict[str, Any]:
        values = [penalty.value(self.theta) for penalty in self.penalties]
        return {"penalty": float(sum(values))} if values else {}


def make_network(config: TrainOptions, context: Context) -> Classifier:
    """Trunk and empty head, whose kind follows scenario and options; ``ConfigError`` where these do not fit."""
    if config.masked_head and context.scenario != "task":
        raise ConfigError(
            f"masked_head needs the task label, scenario {context.scenario} gives none: leave it out, or use "
            "scenario task."
        )
    if config.masked_head and config.memory_per_class:
        raise ConfigError(
            "masked_head must be off where samples are stored, got memory_per_class = "
            f"{config.memory_per_class}: use real heads."
        )
    if config.memory_per_class and config.memory_weight == "classes" and context.scenario == "domain":
        raise ConfigError(
            "memory_weight=classes needs classes that arrive with tasks, in scenario domain each task has all: leave "
            "it out, or use scenario class or task."
        )
    return Classifier(context, shared_head=config.masked_head, hold_norms=config.freeze_norms)
