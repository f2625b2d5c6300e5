"""The guard between a method and the stream: what the method declares can be read, the future never."""

from __future__ import annotations

from typing import get_args

import torch

from engram.core.contract import Reads
from engram.core.samples import Samples
from engram.errors import ConfigError, StrictnessError
from engram.streams.stream import SplitName, Stream


class Guard:
    """Hands out training samples of a stream while a task is open. There is no way to test samples from here.

    Args:
        stream: the guarded stream.
        reads: what the method declares: "task", the open task only; "memory", the same, besides samples that
            the method itself keeps and is charged for; "all", the open task and every earlier one.
    Raises:
        ConfigError: reads is none of these.
    """

    def __init__(self, stream: Stream, reads: Reads) -> None:
        if reads not in get_args(Reads):
            raise ConfigError(f'reads must be "task", "memory" or "all", got {reads!r}.')
        self.reads = reads
        self._stream = stream
        self._current: int | None = None
        self._last = -1  # the latest task that was begun; tasks are never begun twice
        self._log: dict[SplitName, list[int]] = {name: [0] * stream.n_tasks for name in ("train", "valid")}

    @property
    def current(self) -> int | None:
        """Index of the open task; None between tasks."""
        return self._current

    @property
    def reads_log(self) -> dict[str, list[int]]:
        """Granted reads so far, {"train": [a count a task], "valid": [...]}; plain JSON values."""
        return {split: list(counts) for split, counts in self._log.items()}

    def begin(self, task_index: int) -> None:
        """Open a task; a resumed run may begin later than at 0.

        Raises StrictnessError while another is open or when the task is not later than the last one begun.
        """
        if self._current is not None:
            raise StrictnessError(
                f"one task is open at a time, got begin({task_index}) while task {self._current} is open: "
                "end it first."
            )
        if task_index not in range(self._stream.n_tasks):
            raise ConfigError(f"a task index must lie in 0..{self._stream.n_tasks - 1}, got {task_index}.")
        if task_index <= self._last:
            raise StrictnessError(
                f"tasks come once and in order, got begin({task_index}) after task {self._last}: go on with "
                "a later one."
            )
        self._current = self._last = task_index

    def end(self, task_index: int) -> None:
        """Close the open task. Raises StrictnessError when it is not this one."""
        if self._current is None or task_index != self._current:
            raise StrictnessError(f"only the open task can end, got end({task_index}) with {self._open()}.")
        self._current = None

    def train(self, task_index: int) -> Samples:
        """The task's training samples. Raises StrictnessError when reading them is not declared."""
        self._check("train", task_index)
        return self._stream.train(task_index)

    def training_data(self, task_index: int) -> Samples:
        """What a method learns the open task from: its samples, or where it reads all, those of every task so far."""
        if self.reads != "all":
            return self.train(task_index)
        parts = [self.train(i) for i in range(task_index + 1)]
        return Samples(torch.cat([p.x for p in parts]), torch.cat([p.y for p in parts]))

    def valid(self, task_index: int) -> Samples:
        """The task's validation samples. Raises StrictnessError when reading them is not declared."""
        self._check("valid", task_index)
        return self._stream.valid(task_index)

    def _check(self, split: SplitName, task_index: int) -> None:
        current = self._current
        past = self.reads == "all" and current is not None and 0 <= task_index < current
        if current is None or not (task_index == current or past):
            if current is not None and 0 <= task_index < current:
                advice = 'keep what is needed while a task is open, or declare reads = "all"'
            else:
                advice = "samples can be read from begin to end of their task, never before"
            raise StrictnessError(
                f'a method that declares reads = "{self.reads}" may read {self._allowed()}, got a read '
                f"of the {split} samples of task {task_index} with {self._open()}: {advice}."
            )
        self._log[split][task_index] += 1

    def _allowed(self) -> str:
        return "the open task and earlier ones" if self.reads == "all" else "the open task only"

    def _open(self) -> str:
        return "no task open" if self._current is None else f"task {self._current} open"
