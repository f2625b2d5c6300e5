"""What discriminative methods share: options, network, the ordinary phase and player, labels, memory.

Functions and frozen dataclasses; a method calls them, it inherits nothing but options.

Which labels compete in the loss follows the scenario: all seen ones (class), the task's own (task), the
shared ones (domain). The task's own have a head each, or with ``masked_head`` one head whose softmax is
masked to the task, as in the code of Zenke et al. (ICML 2017). "-S" (Chaudhry et al., ECCV 2018, Sec. 6: a
few stored samples of old classes mixed into single-head training) is the option ``memory_per_class``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engram import seeds
from engram.core.contract import (
    Batch,
    Context,
    Method,
    Optimiser,
    Phase,
    Player,
    Samples,
    Schedule,
    Step,
    TaskInfo,
    Terms,
    Update,
    evaluating,
)
from engram.core.network import n_features
from engram.core.values import check_at_least, check_fraction, check_positive, check_types
from engram.errors import ConfigError
from engram.networks.heads import Head
from engram.parts.classifier import Classifier
from engram.parts.memory import SampleMemory
from engram.parts.statistics import norms_of


@dataclass(frozen=True)
class FitOptions:
    """Options of plain training on a task.

    Args:
        epochs: passes over each task, or blocks of ``steps_per_epoch`` steps.
        steps_per_epoch: None for whole passes.
        batch_size: samples a step, stored ones included.
        optimiser: adam or sgd.
        lr: learning rate.
        momentum: of sgd.
        weight_decay: L2 in the optimiser, no part of any task gradient that a method sees.
        schedule: constant; cosine from lr to 0 over each task; or step, a tenth of lr from half of the epochs on
            and a hundredth from three quarters on.
        keep_optimiser: keep the optimiser's state from task to task; otherwise a fresh one for each.
        later_epochs: epochs of every task but the first; None for as many.
        later_lr: learning rate of every task but the first; None for the same.
    """

    epochs: int = 10
    steps_per_epoch: int | None = None
    batch_size: int = 64
    optimiser: Literal["adam", "sgd"] = "adam"
    lr: float = 1e-3
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: Schedule = "constant"
    keep_optimiser: bool = False
    later_epochs: int | None = None
    later_lr: float | None = None

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "epochs", "steps_per_epoch", "batch_size", "lr", "later_epochs", "later_lr")
        check_fraction(self, "momentum", below_one=True)
        check_at_least(self, 0, "weight_decay")


Options = TypeVar("Options", bound=FitOptions)
MemoryWeight = Literal["samples", "classes"]


@dataclass(frozen=True)
class TrainOptions(FitOptions):
    """Options of plain training, of the output layer and of stored samples.

    Args:
        masked_head: with task labels: one output layer whose softmax is masked to the task, instead of a
            layer a task. Outputs of earlier tasks get no gradient, but move with momentum that ``keep_optimiser``
            keeps and with ``weight_decay``.
        zero_head: new rows of the output layer start at 0, as in the code of Zenke et al. (2017).
        freeze_norms: from the second task on batch norms use, and keep, the running statistics of the first;
            otherwise those of the new task replace them, which old tasks forget by.
        memory_per_class: real samples of each class stored at the end of its task ("-S"); in a
            domain-incremental stream, of each class and task.
        memory_choice: which ones: random, or mean_of_features: one by one, the sample that brings their mean feature
            closest to that of the whole class (Chaudhry et al., ECCV 2018, Sec. 4.3; herding, Rebuffi et al., CVPR
            2017, Algorithm 4, without its normalisation).
        memory_weight: of the loss of stored samples: samples, every sample of a batch counts the same; or classes, the
            stored samples together count as their classes' share of all classes seen, in class- and
            task-incremental streams.
        memory_share: share of each batch that is drawn from the stored samples.
    """

    masked_head: bool = False
    zero_head: bool = False
    freeze_norms: bool = False
    memory_per_class: int = 0
    memory_choice: Literal["random", "mean_of_features"] = "random"
    memory_weight: MemoryWeight = "samples"
    memory_share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 0, "memory_per_class")
        check_fraction(self, "memory_share")
        if self.memory_per_class and not 0 < round(self.memory_share * self.batch_size) < self.batch_size:
            raise ConfigError(
                "memory_share must leave room in a batch for stored and new samples, got "
                f"{self.memory_share!r} of {self.batch_size}: give a fraction such as 0.5."
            )


def for_task(config: Options, task: TaskInfo) -> Options:
    """The options with ``epochs`` and ``lr`` of this task."""
    if task.index == 0:
        return config
    return replace(config, epochs=config.later_epochs or config.epochs, lr=config.later_lr or config.lr)


# The network ------------------------------------------------------------------------------------------------
def make_net(config: TrainOptions, context: Context) -> Classifier:
    """Trunk and empty head; the head's kind follows scenario and options."""
    net = Classifier(context)
    net.hold_norms = config.freeze_norms
    if config.masked_head:
        if context.scenario != "task":
            raise ConfigError(
                f"masked_head needs the task label, scenario {context.scenario} gives none: leave it out, "
                "or use scenario task."
            )
        if config.memory_per_class:
            raise ConfigError(
                "masked_head must be off where samples are stored, got memory_per_class = "
                f"{config.memory_per_class}: use real heads."
            )
        net.head = Head(n_features(net.trunk), "single")
    return net


def grow_head(net: Classifier, task: TaskInfo, seed: int, *, zero: bool = False) -> None:
    """Rows for every label seen; new ones at 0 where ``zero``."""
    before, net.task = net.head.n_outputs, task.index
    net.head.grow(task.n_seen, seed, task.index)
    if not zero:
        return
    first = 0
    with torch.no_grad():
        for part, n in zip(net.head.parts, net.head.sizes, strict=True):
            for p in part.parameters():
                p[max(before - first, 0) :] = 0.0
            first += n


def taking_part(method: Method, net: Classifier, task: TaskInfo) -> dict[str, nn.Parameter]:
    """The parameters that the task's logits depend on, by name: the trunk and the heads of active labels."""
    first, used = 0, []
    for i, n in enumerate(net.head.sizes):
        if first < task.active[1] and first + n > task.active[0]:
            used.append(f"net.head.parts.{i}.")
        first += n
    return {
        n: p for n, p in method.named_parameters() if p.requires_grad and n.startswith(("net.trunk.", *used))
    }


def predict(net: Classifier, x: Tensor, task: TaskInfo | None) -> Tensor:
    """Logits [B, n_seen] as ``Method.predict``; ``ConfigError`` for a task that was never seen."""
    check_seen(net, task)
    return net.predict(x, task)


def check_seen(net: Classifier, task: TaskInfo | None) -> None:
    """Raise ``ConfigError`` unless ``net`` has a head for ``task``."""
    if task is not None and task.active[1] > net.head.n_outputs:
        raise ConfigError(
            f"a task must be learned before its head is asked, task {task.index + 1} was not: learn it first."
        )


# Labels and the loss ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Window:
    """Labels a .. b - 1 compete; where samples of several tasks meet and task labels are given, each within
    its own.

    Args:
        active: a and b.
        task_of: the task of each label [b], or None.
        first_new: labels below are of stored samples, whose classes count as the new ones do; None where all samples
            count the same.
    """

    active: tuple[int, int]
    task_of: Tensor | None = None
    first_new: int | None = None


def window(
    net: Classifier, task: TaskInfo, memory: SampleMemory | None = None, weight: MemoryWeight = "samples"
) -> Window:
    """The labels that compete in the loss of ``task``, whose batches may hold stored samples."""
    first_new = task.start if weight == "classes" and memory is not None and len(memory) else None
    if memory is None or task.active == (0, task.n_seen):
        return Window(task.active, first_new=first_new)
    sizes = torch.tensor(net.head.sizes, device=next(net.parameters()).device)
    task_of = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)
    return Window((0, task.n_seen), task_of, first_new)


def cross_entropy(logits: Tensor, y: Tensor, labels: Window) -> Tensor:
    """Mean cross entropy [] of logits [B, b - a] and labels [B] within a window."""
    if labels.task_of is not None:
        logits = logits.masked_fill(labels.task_of[None, :] != labels.task_of[y][:, None], -torch.inf)
    if labels.first_new is None:
        return F.cross_entropy(logits, y - labels.active[0])
    # Old classes: their share of all classes times the mean over their samples; new ones likewise.
    each = F.cross_entropy(logits, y - labels.active[0], reduction="none")
    old, share = y < labels.first_new, labels.first_new / labels.active[1]
    n_old = old.sum()
    weight = torch.where(old, share / n_old.clamp(min=1), (1.0 - share) / (len(y) - n_old).clamp(min=1))
    return (weight * each).sum()


# Phase and player -------------------------------------------------------------------------------------------
def fit_phase(
    config: FitOptions,
    loss: Callable[[Batch, Step], Terms],
    memory: SampleMemory | None = None,
    *,
    name: str = "fit",
) -> Phase:
    """The ordinary phase: one update of player ``net``, on the task's samples and, where there are any,
    stored ones.

    With stored samples a step holds ``memory_share`` of them and an epoch is still one pass over the task's
    samples.
    """
    if memory is None or not len(memory):
        fit = Update("net", "net", loss)
        return Phase(name, config.epochs, (fit,), config.batch_size, config.steps_per_epoch)
    stored = round(config.memory_share * config.batch_size)  # type: ignore[attr-defined]
    fit = Update("net", "net", loss, ("task", "memory"))
    size = config.batch_size - stored
    return Phase(name, config.epochs, (fit,), size, config.steps_per_epoch, sizes={"memory": stored})


def player(config: FitOptions, parameters: Mapping[str, nn.Parameter]) -> Player:
    """Parameters with the optimiser that the options name."""
    c = config
    optimiser = Optimiser(
        c.optimiser, c.lr, momentum=c.momentum, weight_decay=c.weight_decay, schedule=c.schedule
    )
    return Player(parameters, optimiser, keep_state=c.keep_optimiser)


# Stored samples ---------------------------------------------------------------------------------------------
def make_memory(config: TrainOptions, context: Context) -> SampleMemory | None:
    """Where samples are stored, if any are."""
    if not config.memory_per_class:
        return None
    if config.memory_weight == "classes" and context.scenario == "domain":
        raise ConfigError(
            "memory_weight=classes needs classes that arrive with tasks, in scenario domain each task has all: leave "
            "it out, or use scenario class or task."
        )
    return SampleMemory(context.image_shape)


def remember(
    memory: SampleMemory | None,
    config: TrainOptions,
    net: Classifier,
    task: TaskInfo,
    data: Samples,
    context: Context,
) -> None:
    """Add ``memory_per_class`` samples of each class of the task that ends, by ``memory_choice``."""
    if memory is None:
        return
    fresh, n = SampleMemory(memory.image_shape).to(memory.labels.device), config.memory_per_class
    if config.memory_choice == "random":
        fresh.add_random(data, n, seeds.generator(context.seed, "memory", task.index))
    else:
        with evaluating(net), torch.no_grad():
            normalise = context.network.normalise
            fresh.add_herded(data, n, lambda x: net.trunk(normalise(x)))
    memory.images = torch.cat([memory.images, fresh.images])
    memory.labels = torch.cat([memory.labels, fresh.labels])


def memory_pool(memory: SampleMemory | None) -> dict[str, Samples]:
    """The pool ``memory``: each class as often as any other, rows repeated where one has fewer."""
    if memory is None or not len(memory):
        return {}
    rows = [(memory.labels == c).nonzero().flatten() for c in memory.labels.unique().tolist()]
    most = max(len(r) for r in rows)
    even = torch.cat([r[torch.arange(most, device=r.device) % len(r)] for r in rows])
    return {"memory": Samples(memory.images[even], memory.labels[even])}


def some_of(data: Samples, n: int | None, generator: torch.Generator) -> Samples:
    """``n`` random samples in random order; all, as they stand, where ``n`` is None or there are no more."""
    if n is None or n >= len(data):
        return data
    rows = torch.randperm(len(data), generator=generator)[:n].to(data.y.device)
    return Samples(data.x[rows], data.y[rows])


# What is stored, and what is told ---------------------------------------------------------------------------
def structure(net: Classifier, memory: SampleMemory | None) -> dict[str, Any]:
    """Sizes of head and memory as JSON."""
    return {"head": net.head.sizes, "task": net.task, "memory": 0 if memory is None else len(memory)}


def rebuild(net: Classifier, memory: SampleMemory | None, sizes: Mapping[str, Any]) -> None:
    """Shapes of head and memory from :func:`structure`."""
    net.head.rebuild(sizes["head"])
    net.task = sizes["task"]
    if memory is not None:
        memory.rebuild(sizes["memory"])


def storage_bytes(method: Method, net: Classifier, memory: SampleMemory | None) -> dict[str, int]:
    """Bytes by kind: the network, stored samples, and everything else that the method keeps."""

    def total(module: nn.Module | None) -> int:
        return (
            0 if module is None else sum(t.numel() * t.element_size() for t in module.state_dict().values())
        )

    head, exemplars = total(net.head), total(memory)
    weights = total(net) - head
    other = total(method) - weights - head - exemplars
    return {"weights": weights, "masks": 0, "norms_and_heads": head, "exemplars": exemplars, "other": other}


def facts(config: TrainOptions, net: Classifier) -> dict[str, str]:
    """What a reader of the result table must know of head and stored samples."""
    told = {}
    if config.masked_head:
        told["head"] = "one, softmax masked to the task"
    if config.freeze_norms and norms_of(net.trunk):
        told["batch norm"] = "statistics of the first task"
    if config.memory_per_class:
        how = config.memory_choice.replace("_", " ")
        told["stored samples"] = (
            f"{config.memory_per_class} a class, {how}, {config.memory_share:g} of each batch"
            + (", weighted by class" if config.memory_weight == "classes" else "")
            + " (-S)"
        )
    return told
