"""Options of plain training, and what they make of a task: its phase and its player."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import nn

from engram.core.contract import Batch, Optimiser, Phase, Player, Schedule, Step, TaskInfo, Terms, Update
from engram.core.options import BelowOne, Count, CountOrZero, NonNegative, Positive, Share
from engram.core.values import Checked
from engram.errors import ConfigError

if TYPE_CHECKING:
    from typing_extensions import Self

Loss = Callable[[Batch, Step], Terms]
MemoryWeight = Literal["samples", "classes"]


@dataclass(frozen=True)
class FitOptions(Checked):
    """Options of plain training on a task.

    Further:
        epochs: passes over each task's data, or blocks of ``steps_per_epoch`` steps.
        steps_per_epoch: steps of an epoch; none for a pass over the task's data.
        batch_size: samples in a training step, stored ones included.
        optimiser: the optimiser: adam or sgd.
        lr: learning rate of the optimiser.
        momentum: momentum of ``optimiser=sgd``.
        weight_decay: L2 term in the optimiser, no part of any task gradient that a method sees.
        schedule: how the learning rate falls: constant; cosine from lr to 0 over each task; or step, a tenth of lr
            from half of the epochs on and a hundredth from three quarters on.
        keep_optimiser: keep the optimiser's state from task to task; otherwise a fresh one for each.
        later_epochs: epochs of every task but the first; none for as many as of the first.
        later_lr: learning rate of every task but the first; none for the same as of the first.
    """

    epochs: Count = 10
    steps_per_epoch: Count | None = None
    batch_size: Count = 64
    optimiser: Literal["adam", "sgd"] = "adam"
    lr: Positive = 1e-3
    momentum: BelowOne = 0.0
    weight_decay: NonNegative = 0.0
    schedule: Schedule = "constant"
    keep_optimiser: bool = False
    later_epochs: Count | None = None
    later_lr: Positive | None = None

    def for_task(self, task: TaskInfo) -> Self:
        """The options with ``epochs`` and ``lr`` of this task."""
        if task.index == 0:
            return self
        return replace(self, epochs=self.later_epochs or self.epochs, lr=self.later_lr or self.lr)

    def phase(self, loss: Loss, name: str = "fit") -> Phase:
        """The ordinary phase: one update of player ``net`` on the task's samples."""
        return Phase(name, self.epochs, (Update("net", "net", loss),), self.batch_size, self.steps_per_epoch)

    def player(self, parameters: Mapping[str, nn.Parameter]) -> Player:
        """Parameters with the optimiser of these options."""
        decay, schedule = self.weight_decay, self.schedule
        optimiser = Optimiser(
            self.optimiser, self.lr, momentum=self.momentum, weight_decay=decay, schedule=schedule
        )
        return Player(parameters, optimiser, keep_state=self.keep_optimiser)


@dataclass(frozen=True)
class FreshFitOptions(FitOptions):
    """Options of plain training on parameters that are new in every task, so that there is no state to keep."""

    #: What is new, for the refusal of ``keep_optimiser``.
    fresh: ClassVar[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep_optimiser:
            raise ConfigError(f"keep_optimiser must be false where {self.fresh}: leave it out.")


@dataclass(frozen=True)
class TrainOptions(FitOptions):
    """Options of plain training, of the output layer and of stored samples.

    Further:
        masked_head: with task labels: one output layer whose softmax is masked to the task, instead of a
            layer a task. Outputs of earlier tasks get no gradient, but move with momentum that ``keep_optimiser``
            keeps and with ``weight_decay``.
        zero_head: new rows of the output layer start at 0, as in the code of Zenke et al. (2017).
        freeze_norms: from the second task on batch norms use, and keep, the running statistics of the first;
            otherwise those of the new task replace them, which old tasks forget by.
        memory_per_class: real samples of each class stored at the end of its task ("-S"); in a
            domain-incremental stream, of each class and task.
        memory_choice: which real samples are stored: random, or mean_of_features: one by one, the sample that brings
            their mean feature closest to that of the whole class (Chaudhry et al., ECCV 2018, Sec. 4.3; herding,
            Rebuffi et al., CVPR 2017, Algorithm 4, without its normalisation).
        memory_weight: weight of stored samples in the loss: samples, every sample of a batch counts the same; or
            classes, the stored samples together count as their classes' share of all classes seen, in class- and
            task-incremental streams.
        memory_share: share of each batch that is drawn from the stored samples.
    """

    masked_head: bool = False
    zero_head: bool = False
    freeze_norms: bool = False
    memory_per_class: CountOrZero = 0
    memory_choice: Literal["random", "mean_of_features"] = "random"
    memory_weight: MemoryWeight = "samples"
    memory_share: Share = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory_per_class and not 0 < round(self.memory_share * self.batch_size) < self.batch_size:
            raise ConfigError(
                "memory_share must leave room in a batch for stored and new samples, got "
                f"{self.memory_share!r} of {self.batch_size}: give a fraction such as 0.5."
            )
