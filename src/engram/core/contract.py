"""The contract between a method and the one training loop.

A task is learned in *phases*; each step of a phase runs its *updates* in the order of the paper; an update names a
*player* (parameters with one optimiser), its loss, and what it reads. The loop owns data, gradients and optimisers;
a method owns its losses and what happens at seven named moments. It never owns a loop.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from engram.core.options import Precision
from engram.core.samples import Samples, Shape
from engram.errors import ConfigError

if TYPE_CHECKING:
    from engram.core.network import Network

Terms = dict[str, Tensor]
Scenario = Literal["class", "task", "domain"]
Reads = Literal["task", "memory", "all"]
Schedule = Literal["constant", "cosine", "step"]

#: Kinds of what is kept. Statistics (sums, means, scatter) are of real data, and may tell of single samples.
STORAGE = ("weights", "masks", "norms_and_heads", "exemplars", "statistics", "other")


@dataclass(frozen=True)
class TaskInfo:
    """What a method may know of a task: numbers, no data.

    Labels are positions in order of arrival, so the classes of a task are ``start .. stop - 1`` and those seen so
    far are ``0 .. n_seen - 1``. ``active`` are the labels that compete in the softmax: all seen ones when no task
    label is given at test time, the task's own when it is.
    """

    index: int
    start: int
    stop: int
    n_seen: int
    active: tuple[int, int]

    @classmethod
    def of(cls, index: int, start: int, stop: int, scenario: Scenario) -> TaskInfo:
        """A task whose classes are ``start .. stop - 1``, the last ones seen."""
        return cls(index, start, stop, stop, (start, stop) if scenario == "task" else (0, stop))

    @property
    def n_classes(self) -> int:
        """Number of classes of this task."""
        return self.stop - self.start


@dataclass(frozen=True)
class Batch:
    """What one update sees: ``x`` float [B, C, H, W] in the network's range, or [B, D]; ``y`` int64 [B]; noise."""

    x: Tensor
    y: Tensor
    noise: Mapping[str, Tensor]


@dataclass(frozen=True)
class Step:
    """Where training stands: ``epoch`` of ``n_epochs``, ``step`` of ``n_steps`` in the epoch, all counted from 0.

    While a graph of a step is made, ``epoch`` and ``step`` are what stands for these numbers in every step: compute
    with them, compare them, give them to tensors; a step that turns them into numbers goes on without a graph.
    """

    task: TaskInfo
    phase: str
    epoch: int
    n_epochs: int
    step: int
    n_steps: int


@dataclass(frozen=True)
class Noise:
    """Noise that an update needs: one draw of ``shape`` for each sample of its batch."""

    shape: tuple[int, ...]
    kind: Literal["normal", "uniform"] = "normal"


@dataclass(frozen=True)
class Update:
    """What is done with one batch of a step.

    Args:
        name: prefix of the logged terms.
        player: whose parameters move; None for none, as in a pass that sums over the data.
        loss: maps (batch, step) to named scalars []; their sum is differentiated. Pure, but for running statistics
            of normalisation. Without a player it runs without gradients, may write to buffers (sums, counts), and its
            scalars, if any, are logged only.
        pools: what is read: ``"task"`` (this task's training samples) or names given by :meth:`Method.pools`. Several
            pools are concatenated.
        chunk: ``(k, n)`` reads the k-th of n equal parts of the shuffled concatenation; all chunks of the same pools
            in a step are parts of one shuffle.
        noise: drawn by the loop for each sample of the batch.
        step: False stops at the gradient, which ``after_backward`` then sees.
    """

    name: str
    player: str | None
    loss: Callable[[Batch, Step], Terms]
    pools: tuple[str, ...] = ("task",)
    chunk: tuple[int, int] | None = None
    noise: Mapping[str, Noise] = field(default_factory=dict)
    step: bool = True


@dataclass(frozen=True)
class Phase:
    """A part of a task: ``epochs`` passes over the ``primary`` pool with the given updates.

    Args:
        name: unique in the task.
        epochs: number of passes, or of blocks of ``steps_per_epoch`` steps.
        updates: run in this order in every step.
        batch_size: samples drawn from each pool in a step.
        steps_per_epoch: None makes an epoch one pass over the primary pool, its last batch smaller if need be; a
            number makes it a block of that many full batches, drawn from one shuffle after another.
        primary: the pool whose length defines an epoch.
        shuffle: a new order in every epoch; False keeps the stored order.
        sizes: samples drawn from a pool in a step, where that differs from ``batch_size``.
        refresh: ``"epoch"`` asks :meth:`Method.pools` anew in every epoch, ``"phase"`` once.
        until: asked after each epoch, and on resume; where it is true of the state the phase is over, after fewer
            epochs than ``epochs``. None for all of them.
    """

    name: str
    epochs: int
    updates: tuple[Update, ...]
    batch_size: int
    steps_per_epoch: int | None = None
    primary: str = "task"
    shuffle: bool = True
    sizes: Mapping[str, int] = field(default_factory=dict)
    refresh: Literal["phase", "epoch"] = "phase"
    until: Callable[[], bool] | None = None


@dataclass(frozen=True)
class Optimiser:
    """An optimiser and its settings; the names are those of ``torch.optim``.

    Args:
        kind: ``"adam"``, ``"nadam"``, ``"rmsprop"`` or ``"sgd"``.
        lr: learning rate, > 0.
        betas: decay rates of Adam's and NAdam's moments; the second is RMSProp's.
        momentum: of SGD.
        weight_decay: factor of an L2 term, whose gradient is added to that of the loss; 0 by default, for it moves
            frozen weights.
        schedule: ``"constant"``; ``"cosine"`` from ``lr`` to 0 over the phase; ``"step"``, a tenth from half of the
            phase on and a hundredth from three quarters on. The rate is set anew at every epoch.
    """

    kind: Literal["adam", "nadam", "rmsprop", "sgd"] = "adam"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: Schedule = "constant"

    def rate(self, epoch: int, n_epochs: int) -> float:
        """The learning rate of epoch ``epoch`` (from 0) of ``n_epochs``."""
        if self.schedule == "cosine":
            return self.lr * 0.5 * (1.0 + math.cos(math.pi * epoch / n_epochs))
        if self.schedule == "step":
            return self.lr * 0.1 ** ((2 * epoch >= n_epochs) + (4 * epoch >= 3 * n_epochs))
        return self.lr


@dataclass(frozen=True)
class Tradeoff:
    """The option with which a method trades old tasks for new ones.

    Args:
        option: its name. The larger its value, the more is kept of the old tasks; a mixing ratio is the weight of the
            old network.
        scale: ``"log"`` for a strength >= 0, ``"linear"`` for a mixing ratio in 0..1.
        centre: about where a strength begins to matter; the middle of a logarithmic grid. See
            :meth:`Method.tradeoff_centre`.
        after: nothing of a run depends on the option before the second task begins, or, where a phase is named,
            before that phase of the second task is over. Runs that differ in it only can share what comes before; the
            contract suite holds a method to it.
    """

    option: str
    scale: Literal["log", "linear"] = "log"
    centre: float = 1.0
    after: str | None = None


@dataclass(frozen=True)
class Player:
    """Parameters that one optimiser moves.

    Args:
        parameters: by name, as in ``method.named_parameters()``.
        optimiser: made when the phase begins.
        keep_state: continue with this player's optimiser state of the phase before; otherwise start empty, and keep
            nothing of it when the phase ends.
        clip_norm: bound on the norm of all gradients together, applied after ``after_backward``.
        zero_unused: give parameters that the loss does not reach a zero gradient, so that the optimiser's moments
            still act on them (as PyTorch 1.0 did); False skips them.
    """

    parameters: Mapping[str, nn.Parameter]
    optimiser: Optimiser
    keep_state: bool = False
    clip_norm: float | None = None
    zero_unused: bool = False


@dataclass(frozen=True)
class Context:
    """What a method is built for.

    Args:
        network: makes trunks and, where it can, generators.
        image_shape: of the stream's samples, (C, H, W) or (D,).
        n_classes: classes that will ever come, None where that is not known; see :meth:`Method.beforehand`.
        scenario: how it will be judged.
        seed: of the run; growth draws from generators named by it.
        n_tasks: tasks that will ever come, None where that is not known.
    """

    network: Network
    image_shape: Shape
    n_classes: int | None
    scenario: Scenario
    seed: int
    n_tasks: int | None = None


class Method(nn.Module, ABC):
    """A continual-learning method: losses, and what happens at named moments.

    A concrete method is final. All state that lasts is parameters, buffers and submodules; sizes come from
    :meth:`structure`, so that :meth:`rebuild` can make an empty method into which tensors load strictly.
    A ``functools.cached_property`` is for what follows from the state and is slow to find, such as means of classes:
    it is no part of the state, and found anew when it is asked for after the loop has let the state move.
    Images are uint8 [N, C, H, W], feature vectors float32 [N, D], labels int64 [N] in order of arrival, losses scalars.
    Class attributes name what it reads (``reads``), where it can be used (``scenarios``), and what stands in the
    result table (:meth:`facts`).
    """

    Config: ClassVar[type]
    reads: Reads = "task"
    scenarios: ClassVar[frozenset[str]] = frozenset({"class", "task", "domain"})
    generative: ClassVar[bool] = False
    precisions: tuple[Precision, ...] = get_args(Precision)  # that it may learn with
    refines: ClassVar[bool] = False  # samples of known classes may come later, as if they had come at first
    tradeoff: ClassVar[Tradeoff | None] = None
    _cached: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = (name for name, value in vars(cls).items() if isinstance(value, cached_property))
        cls._cached = (*cls._cached, *own)

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__()
        self.config = config
        self.context = context
        self.capacity: dict[str, int] = {}  # what it must know beforehand
        self.register_load_state_dict_post_hook(lambda method, _: method.forget_cached())
        if context.scenario not in self.scenarios:
            raise ConfigError(
                f"scenario must be one of {', '.join(sorted(self.scenarios))} for {type(self).__name__}, got "
                f"{context.scenario!r}: choose another scenario or method."
            )

    def beforehand(self, name: Literal["n_classes", "n_tasks"]) -> int:
        """A number of the context that speaks of the future, for a method that cannot do without.

        It becomes part of what the learner is. ``ConfigError`` where it is not known.
        """
        value = getattr(self.context, name)
        if value is None:
            raise ConfigError(
                f"{name} must be known beforehand by {type(self).__name__} with these options, it is not: give "
                f"{name}=, or other options."
            )
        self.capacity[name] = value
        return value

    # What is trained -------------------------------------------------------------------------------------------
    @abstractmethod
    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        """The phases of this task, in order; a function of state and arguments that sets nothing.

        Asked when the task has begun, after each phase and on resume: what is done stays as it is, phases to come may
        follow from what was learned.
        """

    @abstractmethod
    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        """The players of a phase, asked when it begins and on resume; a function that sets nothing."""

    def pools(self, task: TaskInfo, phase: str, epoch: int, data: Samples) -> dict[str, Samples]:
        """Further pools beside ``"task"``; a function of frozen state, seed and arguments, so never stored."""
        return {}

    # What it answers -------------------------------------------------------------------------------------------
    @abstractmethod
    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        """Logits [B, n_seen] for ``x`` as in :class:`Batch`; minus infinity where a label cannot be.

        ``task`` is given only when the scenario gives it. Changes nothing, not even running statistics.
        """

    # The seven moments -----------------------------------------------------------------------------------------
    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        """Before the first phase: grow heads, copy teachers."""

    def begin_phase(self, task: TaskInfo, phase: str) -> None:
        """Before a phase's optimisers are made."""

    def after_backward(self, player: str, grads: dict[str, Tensor], step: Step) -> None:
        """Sees the gradient of the loss alone, by parameter name, and may edit it in place."""

    def after_step(self, player: str, step: Step) -> None:
        """After the optimiser has moved the player."""

    def end_epoch(self, step: Step, data: Samples) -> None:
        """After an epoch's last step, before it is told and stored: measure what decides how long a phase lasts."""

    def end_phase(self, task: TaskInfo, phase: str) -> None:
        """After a phase's last epoch."""

    def end_task(self, task: TaskInfo, data: Samples) -> None:
        """After the last phase: consolidate, freeze, grow."""

    def forget(self, label: int) -> None:
        """Remove a class of the position ``label`` exactly: the others are as if its samples had never come.

        Its place stays, and is empty. ``ConfigError`` where the method's state does not tell classes apart.
        """
        raise ConfigError(
            f"a class must have sums of its own to be removed exactly, with {type(self).__name__} it has not: use ncm, "
            "fecam, or slda or ridge with scatter=classes; or learn again without it."
        )

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Move to another device or type: what cached properties hold does not come along."""
        self.forget_cached()
        return super()._apply(fn, recurse)

    def forget_cached(self) -> None:
        """Drop what cached properties hold. The loop calls it whenever it lets the state move."""
        for name in self._cached:
            self.__dict__.pop(name, None)

    # What it stores --------------------------------------------------------------------------------------------
    def structure(self) -> dict[str, Any]:
        """Sizes that differ from those at construction, as JSON: what each submodule that has a ``structure`` says.

        A method with sizes or lists of its own adds them, and reads them in :meth:`rebuild`.
        """
        return {name: part.structure() for name, part in _parts(self, "structure")}

    def rebuild(self, structure: dict[str, Any]) -> None:
        """Give a freshly built method the shapes of ``structure``; values follow from the state dict."""
        for name, part in list(_parts(self, "structure")):
            part.rebuild(structure[name])

    def storage_bytes(self) -> dict[str, int]:
        """Bytes that must be kept to continue, by kind, each of ``STORAGE``.

        Each submodule that has ``storage_bytes`` says its own; other parameters are weights, other buffers ``other``.
        """
        kept = dict.fromkeys(STORAGE, 0)
        told = dict(_parts(self, "storage_bytes"))
        for part in told.values():
            for kind, size in part.storage_bytes().items():
                kept[kind] += size
        for kind, tensors in (("weights", self.named_parameters()), ("other", self.named_buffers())):
            kept[kind] += n_bytes(t for n, t in tensors if not n.startswith(tuple(f"{p}." for p in told)))
        return kept

    # What it tells ---------------------------------------------------------------------------------------------
    def facts(self) -> dict[str, str]:
        """Short strings that a reader of the result table must know, such as which solver was used."""
        return {}

    def measures(self, step: Step) -> dict[str, Any]:
        """Observed at the end of each epoch, as JSON. Pure."""
        return {}

    def report(self) -> dict[str, Any]:
        """Observed at the end of each task, as JSON. Pure."""
        return {}

    def answers(self, task: TaskInfo) -> bool:
        """Whether it has learned ``task``, so that accuracies after it say something; False where it waits for more."""
        return True

    @classmethod
    def tradeoff_centre(cls, config: Any, n_samples: int) -> float:
        """Middle of the logarithmic grid over the trade-off option, for a later task of ``n_samples`` samples."""
        return cls.tradeoff.centre if cls.tradeoff is not None else math.nan

    def generate(self, y: Tensor, *, generator: torch.Generator) -> Tensor:
        """Images [N, C, H, W] in the network's range for labels ``y`` [N]; only generative methods."""
        raise ConfigError(f"{type(self).__name__} keeps no generator: ask a generative method, such as dgmw.")


def _parts(module: nn.Module, attribute: str) -> Iterator[tuple[str, Any]]:
    """The submodules that have ``attribute``, by name, without those inside another one."""
    for name, child in module.named_children():
        if hasattr(child, attribute):
            yield name, child
        else:
            yield from ((f"{name}.{inner}", part) for inner, part in _parts(child, attribute))


def n_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes that ``tensors`` take."""
    return sum(t.numel() * t.element_size() for t in tensors)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradient inside; every submodule's own mode is put back afterwards."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for m, mode in modes:
            m.training = mode


def named_parameters(method: nn.Module, *prefixes: str) -> dict[str, nn.Parameter]:
    """The method's trainable parameters whose name starts with one of ``prefixes`` (all when none is given)."""
    return {
        n: p
        for n, p in method.named_parameters()
        if p.requires_grad and (not prefixes or n.startswith(prefixes))
    }
