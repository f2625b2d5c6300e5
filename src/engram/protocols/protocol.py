"""How a run is judged: who competes, what is measured, and which epoch is reported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engram.core.contract import Scenario, TaskInfo
from engram.errors import ConfigError
from engram.streams.stream import Stream

Selection = Literal["last", "val_real_all"]


@dataclass(frozen=True)
class Protocol:
    """How a run is judged.

    Args:
        scenario: class (no task label, all classes seen compete), task (label given, its own classes compete), or
            domain (no label, all tasks share the classes).
        generated_per_class: samples a class for the oracle's accuracy of generative methods; 0 leaves it out.
        selection: which test accuracy of a task's training is reported: ``last``, after its last epoch; or
            ``val_real_all``, at the epoch with the best accuracy on real validation samples of all tasks so far, as
            the released code of Ostapenko et al. (CVPR 2019) does. The latter reads old classes to choose, so it is
            not strict, and the result says so. Training itself does not depend on it.
        select_every: epochs between two looks of ``val_real_all``.
        record_valid: measure the validation samples of the tasks seen beside the test samples, after each task. Only
            the evaluator reads them; sweeps choose by them.
    """

    scenario: Scenario = "class"
    generated_per_class: int = 200
    selection: Selection = "last"
    select_every: int = 2
    record_valid: bool = False

    def check(self, stream: Stream) -> None:
        """Raise ``ConfigError`` unless the stream's labels and splits fit."""
        if self.record_valid and any(task.n_valid == 0 for task in stream.tasks):
            raise ConfigError(
                "a choice on validation data needs validation samples in every task, this stream has tasks without: "
                "give a larger --valid-fraction."
            )
        if self.selection == "val_real_all" and any(task.n_valid == 0 for task in stream.tasks):
            raise ConfigError(
                "selection val_real_all needs validation samples in every task, this stream has none: give "
                "--valid-fraction, for example 0.15."
            )
        shared = stream.label_space == "shared"
        if shared != (self.scenario == "domain") and stream.n_tasks > 1:
            kind = "shared by its tasks" if shared else "of their own in each task"
            want = "domain" if shared else "class or task"
            raise ConfigError(
                f"scenario must be {want} for a stream whose classes are {kind}, got {self.scenario!r}: "
                f"give --scenario {want.split()[0]}."
            )

    def task(self, stream: Stream, index: int) -> TaskInfo:
        """The numbers of a task, as methods see them."""
        classes = stream.tasks[index].classes
        return TaskInfo.of(index, min(classes), max(classes) + 1, self.scenario)
