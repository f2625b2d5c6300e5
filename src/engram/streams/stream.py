"""A stream: tasks in order of arrival, each with train, validation and test samples.

A stream knows no network, optimiser or number of epochs. Its labels are *stream labels*: a class's place in
the order of arrival, so that the classes seen so far are always 0..n-1. Build one with the functions of
`builders`.

Shape legend: ``N`` samples, ``C`` channels, ``H`` and ``W`` pixels.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from engram.core.samples import Samples, Shape
from engram.errors import ConfigError
from engram.streams.transforms import Transform

LabelSpace = Literal["disjoint", "shared"]
SplitName = Literal["train", "valid", "test"]


@dataclass(frozen=True)
class Task:
    """What is known about one task without looking at its samples.

    Args:
        index: place in the stream, from 0.
        name: for people.
        classes: stream labels that occur in it.
        n_train, n_valid, n_test: samples in each split.
        transform: what is done to the images, in words; "none".
    """

    index: int
    name: str
    classes: tuple[int, ...]
    n_train: int
    n_valid: int
    n_test: int
    transform: str = "none"


@dataclass(frozen=True, eq=False)
class Pool:
    """Images of one data set, shared by the tasks that draw on it; "valid" rows are rows of train_x."""

    train_x: Tensor
    test_x: Tensor


@dataclass(frozen=True, eq=False)
class TaskSource:
    """How a task's samples come about: rows of a pool, their stream labels, and a transform.

    Args:
        pool: number of the pool.
        rows, labels: by split, int64 [N] on the CPU.
        transform: applied to the images when they are asked for.
    """

    pool: int
    rows: Mapping[SplitName, Tensor]
    labels: Mapping[SplitName, Tensor]
    transform: Transform


class View(Protocol):
    """What a stream's images look like to whoever learns from them: fixed features, see `engram.features`."""

    image_shape: Shape
    shape: Shape

    @property
    def digest(self) -> str:
        """In one word, what decides the vectors beside the images."""
        ...

    def describe(self) -> dict[str, Any]:
        """What it is, as JSON."""
        ...

    def __call__(self, x: Tensor, first: Callable[[], Samples]) -> Tensor:
        """Vectors [N, D] of the images of one split of one task; ``first`` gives the first task's training images."""
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class Stream:
    """Tasks and their samples. Made by the builders; constructing one by hand is possible but seldom of use.

    Args:
        name: builder and data, for people.
        label_space: "disjoint" where each task brings its own classes, "shared" where all have all classes.
        tasks: in order of arrival.
        class_names: by stream label.
        image_shape: (C, H, W), or (D,) of feature vectors.
        seed: of everything random in the stream.
        options: the builder's other arguments, JSON-able.
        data: name and fingerprint of each data set, in order.
        notes: of the data sets, and about the stream itself.
        pools, sources: where samples come from; a source for each task.
        view: makes the samples of the images, see :meth:`through`; None leaves them as they are.
        device: where samples are.
    """

    name: str
    label_space: LabelSpace
    tasks: tuple[Task, ...]
    class_names: tuple[str, ...]
    image_shape: Shape
    seed: int
    options: Mapping[str, Any]
    data: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    pools: Sequence[Pool] = field(repr=False)
    sources: Sequence[TaskSource] = field(repr=False)
    view: View | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _latest: dict[SplitName, tuple[int, Samples]] = field(default_factory=dict, repr=False)
    _overwritten: dict[tuple[SplitName, int], Samples] = field(default_factory=dict, repr=False)

    @property
    def n_tasks(self) -> int:
        """Number of tasks."""
        return len(self.tasks)

    @property
    def n_classes(self) -> int:
        """Number of classes over all tasks."""
        return len(self.class_names)

    @property
    def fingerprint(self) -> str:
        """sha256, as hex, of what decides the samples: data, classes, rows, transforms; not of names."""
        digest = hashlib.sha256(
            json.dumps([[f for _, f in self.data], self.label_space, list(self.image_shape)]).encode()
        )
        for task, source in zip(self.tasks, self.sources, strict=True):
            digest.update(f"{source.pool} {list(task.classes)} {source.transform.description}".encode())
            digest.update(source.transform.digest.encode())
            for tensors in (source.rows, source.labels):
                for split in ("train", "valid", "test"):
                    digest.update(tensors[split].numpy().data)
        if self.view is not None:
            digest.update(self.view.digest.encode())
        return digest.hexdigest()

    def train(self, task_index: int) -> Samples:
        """The task's training samples, in the data set's order. ConfigError when there is no such task."""
        return self._samples("train", task_index)

    def valid(self, task_index: int) -> Samples:
        """The task's validation samples, held out of the train split; none unless asked for when building."""
        return self._samples("valid", task_index)

    def test(self, task_index: int) -> Samples:
        """The task's test samples: for evaluation only."""
        return self._samples("test", task_index)

    def through(self, view: View) -> Stream:
        """The same tasks, seen as vectors. They are made task by task, a split at a time, when they are asked for.

        ``ConfigError`` where samples are vectors already.
        """
        if len(self.image_shape) != 3:
            raise ConfigError(
                f"features are of images, this stream holds vectors of {self.image_shape[0]} numbers: leave features "
                "out."
            )
        return dataclasses.replace(self, view=view, image_shape=view.shape, _latest={}, _overwritten={})

    @property
    def images(self) -> Stream:
        """The stream that this one is a view of; itself where it is none."""
        if self.view is None:
            return self
        shape = self.view.image_shape
        return dataclasses.replace(self, view=None, image_shape=shape, _latest={}, _overwritten={})

    def to(self, device: torch.device | str) -> Stream:
        """The same stream, overwritten tasks included, with its samples on a device; this one stays."""
        target = torch.device(device)
        moved: dict[int, Tensor] = {}  # pools may share tensors: move each once

        def move(x: Tensor) -> Tensor:
            if id(x) not in moved:
                moved[id(x)] = x.to(target)
            return moved[id(x)]

        facts = {name: getattr(self, name) for name in self.__dataclass_fields__ if not name.startswith("_")}
        facts["pools"] = [Pool(move(p.train_x), move(p.test_x)) for p in self.pools]
        facts["device"] = target
        copies = {
            key: Samples(s.x.to(target, copy=True), s.y.to(target, copy=True))
            for key, s in self._overwritten.items()
        }
        return Stream(**facts, _overwritten=copies)

    def overwrite_train(self, task_index: int, generator: torch.Generator) -> None:
        """Fill a task's train and validation images with random values, and its labels with those of classes that
        have come by then. For the strictness test only.

        Later reads return the random samples, and tensors handed out by the latest read of these splits are
        overwritten in place, so that a method which kept them, or reads them again, is found out. No other
        task changes, nor do the test samples or the data set the stream was built from.

        Args:
            task_index: from 0.
            generator: a CPU generator.
        """
        for split in _LEARNT:
            samples = self._samples(split, task_index)
            noise = torch.randint(0, 256, samples.x.shape, generator=generator)
            n_seen = max(self.tasks[task_index].classes) + 1
            labels = torch.randint(0, n_seen, samples.y.shape, generator=generator)
            samples.x.copy_(noise)
            samples.y.copy_(labels)
            self._overwritten[split, task_index] = samples

    def describe(self) -> dict[str, Any]:
        """All facts as plain JSON values: for results, and for a checkpoint to recognise its stream."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "label_space": self.label_space,
            "seed": self.seed,
            "options": dict(self.options),
            "data": [{"name": name, "fingerprint": print_} for name, print_ in self.data],
            "image_shape": list(self.image_shape),
            **({} if self.view is None else {"features": self.view.describe()}),
            "n_classes": self.n_classes,
            "class_names": list(self.class_names),
            "tasks": [
                {
                    "index": task.index,
                    "name": task.name,
                    "classes": list(task.classes),
                    "class_names": [self.class_names[c] for c in task.classes],
                    "n_train": task.n_train,
                    "n_valid": task.n_valid,
                    "n_test": task.n_test,
                    "transform": task.transform,
                }
                for task in self.tasks
            ],
            "notes": list(self.notes),
        }

    def _samples(self, split: SplitName, task_index: int) -> Samples:
        if task_index not in range(self.n_tasks):
            raise ConfigError(f"a task index must lie in 0..{self.n_tasks - 1}, got {task_index}.")
        if (split, task_index) in self._overwritten:
            return self._overwritten[split, task_index]
        latest = self._latest.get(split)
        if latest is None or latest[0] != task_index:
            self._latest.pop(split, None)  # before the new one is made: memory holds one task a split
            samples = self._make(split, self.sources[task_index])
            if self.view is not None:
                first = partial(self._make, "train", self.sources[0])
                samples = Samples(self.view(samples.x, first), samples.y)
            latest = (task_index, samples)
            self._latest[split] = latest
        return latest[1]

    def _make(self, split: SplitName, source: TaskSource) -> Samples:
        """Images: always fresh tensors, never a view of a pool, since `overwrite_train` writes into them."""
        pool = self.pools[source.pool]
        images = pool.test_x if split == "test" else pool.train_x
        x = source.transform(images.index_select(0, source.rows[split].to(images.device)))
        return Samples(x, source.labels[split].to(self.device, copy=True))


_LEARNT: tuple[SplitName, SplitName] = ("train", "valid")
