"""Streams from data sets: classes in groups, permuted pixels, rotated images, or one data set after another.

All builders share three arguments:

- ``seed``: of the random class order, the permutations, the validation split and the choice of
  `max_per_class`;
- ``valid_fraction``: share of each class's training samples held out for validation, in [0, 1); at least one
  a class when above 0, so that every class can be validated;
- ``max_per_class``: use only so many training samples of a class, chosen at random, before the validation
  split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from engram.errors import ConfigError
from engram.streams.images import ImageData
from engram.streams.splits import choose_rows, class_order_of, group_sizes, is_count, named_generator
from engram.streams.stream import LabelSpace, Pool, SplitName, Stream, Task, TaskSource
from engram.streams.transforms import Identity, Permutation, Rotation, Transform

Rows = Mapping[SplitName, Tensor]


def class_incremental(
    data: ImageData,
    *,
    n_tasks: int | None = None,
    groups: Sequence[int] | None = None,
    class_order: Sequence[int | str] | str | None = None,
    seed: int = 0,
    valid_fraction: float = 0.0,
    max_per_class: int | None = None,
) -> Stream:
    """Each class in exactly one task.

    Args:
        data: the data set.
        n_tasks: number of tasks, of sizes that differ by at most one, the larger first (10 classes, 3 tasks:
            4 3 3).
        groups: or the number of classes of each task. One of the two must be given.
        class_order: labels of ``data`` in order of arrival, each once; or its class names; "random"; None for 0, 1,
            2, ... Whole numbers are labels where they can be, and names else.
        seed, valid_fraction, max_per_class: see the module.
    Raises:
        ConfigError: the classes cannot be split so, or class_order is not an order of all classes.
        DataError: too few samples of a class for a validation split.
    """
    sizes = group_sizes(data.n_classes, n_tasks, groups)
    order = class_order_of(data.class_names, class_order, seed)
    rows = choose_rows(data, 0, seed, valid_fraction, max_per_class)
    place = torch.empty(len(order), dtype=torch.int64)
    place[torch.tensor(order)] = torch.arange(len(order))
    labels = _labels(data, rows, place)
    names = [data.class_names[k] for k in order]
    tasks, sources = [], []
    first = 0
    for index, size in enumerate(sizes):
        classes = tuple(range(first, first + size))
        first += size
        here = {s: (labels[s] >= classes[0]) & (labels[s] <= classes[-1]) for s in rows}
        source = TaskSource(
            0, {s: rows[s][here[s]] for s in rows}, {s: labels[s][here[s]] for s in rows}, Identity()
        )
        tasks.append(_task(index, _join([names[c] for c in classes]), classes, source))
        sources.append(source)
    options = {"groups": sizes, "class_order": order, "valid_fraction": valid_fraction}
    options["max_per_class"] = max_per_class
    return _stream("class-incremental", "disjoint", [data], tasks, sources, names, seed, options)


def permuted(
    data: ImageData,
    n_tasks: int,
    *,
    seed: int = 0,
    first_identity: bool = True,
    across_channels: bool = False,
    valid_fraction: float = 0.0,
    max_per_class: int | None = None,
) -> Stream:
    """All classes in every task, the pixels of each task in an order of its own.

    Args:
        data: the data set.
        n_tasks: number of tasks, at least 1.
        first_identity: leave the first task's pixels in place.
        across_channels: permute over channels too; otherwise the same order in each.
        seed, valid_fraction, max_per_class: see the module. The order of task i depends on (seed, i) only.
    Raises:
        ConfigError: n_tasks is below 1, or a shared argument is not usable.
        DataError: too few samples of a class for a validation split.
    """
    if not is_count(n_tasks):
        raise ConfigError(f"n_tasks must be an integer >= 1, got {n_tasks!r}.")
    data.check_images("permuted")
    channels, height, width = data.image_shape
    n_pixels = height * width * (channels if across_channels else 1)
    transforms: list[Transform] = []
    for index in range(n_tasks):
        if index == 0 and first_identity:
            transforms.append(Identity())
            continue
        order = torch.randperm(n_pixels, generator=named_generator("permutation", seed, index))
        transforms.append(Permutation(order, f"pixels permuted (seed {seed}, task {index})"))
    options = {"n_tasks": n_tasks, "first_identity": first_identity, "across_channels": across_channels}
    return _transformed("permuted", data, transforms, seed, valid_fraction, max_per_class, options)


def rotated(
    data: ImageData,
    n_tasks: int | None = None,
    *,
    max_angle: float = 180.0,
    angles: Sequence[float] | None = None,
    seed: int = 0,
    valid_fraction: float = 0.0,
    max_per_class: int | None = None,
) -> Stream:
    """All classes in every task, the images of each task turned by an angle of its own.

    Args:
        data: the data set.
        n_tasks: number of tasks, at angles equally spaced from 0 to max_angle.
        max_angle: degrees, counter-clockwise. The range 0 to 180 is that of Lopez-Paz & Ranzato (2017), who
            draw angles in it.
        angles: or the angles themselves. One of n_tasks and angles must be given.
        seed, valid_fraction, max_per_class: see the module.
    Raises:
        ConfigError: neither or both of n_tasks and angles, an angle that is not finite, or a shared argument.
        DataError: too few samples of a class for a validation split.
    """
    if (n_tasks is None) == (angles is None):
        raise ConfigError("rotated needs n_tasks= or angles=, one of the two.")
    if angles is None:
        if not is_count(n_tasks) or n_tasks is None:
            raise ConfigError(f"n_tasks must be an integer >= 1, got {n_tasks!r}.")
        angles = [max_angle * index / max(n_tasks - 1, 1) for index in range(n_tasks)]
    turns = [float(angle) for angle in angles]
    if not turns or not all(abs(turn) < float("inf") for turn in turns):
        raise ConfigError(f"angles must be one finite number of degrees a task, got {list(angles)}.")
    data.check_images("rotated")
    height, width = data.image_shape[1:]
    transforms = [Rotation(turn, height, width) for turn in turns]
    return _transformed("rotated", data, transforms, seed, valid_fraction, max_per_class, {"angles": turns})


def sequence(
    data: Sequence[ImageData],
    *,
    shared_labels: bool = False,
    seed: int = 0,
    valid_fraction: float = 0.0,
    max_per_class: int | None = None,
) -> Stream:
    """Each data set a task, in the order given.

    Args:
        data: one or more data sets of one image shape.
        shared_labels: all have the same classes (names in the same order), and the task changes only the
            images; otherwise each brings its own classes, and a name that occurs twice gets its data set's
            name in front.
        seed, valid_fraction, max_per_class: see the module.
    Raises:
        ConfigError: no data set, image shapes that differ, class names that differ although shared, or a
            shared argument.
        DataError: too few samples of a class for a validation split.
    """
    sets = list(data)
    if not sets:
        raise ConfigError("sequence needs at least one data set, got none.")
    for other in sets[1:]:
        if other.image_shape != sets[0].image_shape:
            raise ConfigError(
                f"all data sets must have one image shape, got {list(sets[0].image_shape)} ({sets[0].name}) "
                f"and {list(other.image_shape)} ({other.name}) [C, H, W]: use resize() and to_channels()."
            )
        if shared_labels and other.class_names != sets[0].class_names:
            raise ConfigError(
                "with shared_labels all data sets must have the same class names, got "
                f"{_join(sets[0].class_names)} "
                f"({sets[0].name}) and {_join(other.class_names)} ({other.name}): leave shared_labels out."
            )
    tasks, sources = [], []
    names: list[str] = []
    every = [name for one in sets for name in one.class_names]
    for index, one in enumerate(sets):
        first = 0 if shared_labels else len(names)
        if not shared_labels or index == 0:
            twice = not shared_labels
            names += [f"{one.name}: {n}" if twice and every.count(n) > 1 else n for n in one.class_names]
        rows = choose_rows(one, index, seed, valid_fraction, max_per_class)
        labels = _labels(one, rows, torch.arange(first, first + one.n_classes))
        source = TaskSource(index, rows, labels, Identity())
        tasks.append(_task(index, one.name, tuple(range(first, first + one.n_classes)), source))
        sources.append(source)
    options: dict[str, Any] = {"shared_labels": shared_labels, "valid_fraction": valid_fraction}
    options["max_per_class"] = max_per_class
    space: LabelSpace = "shared" if shared_labels else "disjoint"
    return _stream("sequence", space, sets, tasks, sources, names, seed, options)


def _transformed(
    builder: str,
    data: ImageData,
    transforms: Sequence[Transform],
    seed: int,
    valid_fraction: float,
    max_per_class: int | None,
    options: dict[str, Any],
) -> Stream:
    """A domain-incremental stream: the same rows and labels in every task, under a transform each."""
    rows = choose_rows(data, 0, seed, valid_fraction, max_per_class)
    labels = _labels(data, rows, torch.arange(data.n_classes))
    sources = [TaskSource(0, rows, labels, transform) for transform in transforms]
    classes = tuple(range(data.n_classes))
    tasks = [
        _task(index, "as it is" if s.transform.description == "none" else s.transform.description, classes, s)
        for index, s in enumerate(sources)
    ]
    options |= {"valid_fraction": valid_fraction, "max_per_class": max_per_class}
    return _stream(builder, "shared", [data], tasks, sources, list(data.class_names), seed, options)


def _stream(
    builder: str,
    label_space: LabelSpace,
    data: Sequence[ImageData],
    tasks: Sequence[Task],
    sources: Sequence[TaskSource],
    names: Sequence[str],
    seed: int,
    options: Mapping[str, Any],
) -> Stream:
    several = len(data) > 1
    notes = [f"{one.name}: {note}" if several else note for one in data for note in one.notes]
    return Stream(
        name=f"{builder} {', '.join(one.name for one in data)}",
        label_space=label_space,
        tasks=tuple(tasks),
        class_names=tuple(names),
        image_shape=data[0].image_shape,
        seed=seed,
        options=options,
        data=tuple((one.name, one.fingerprint) for one in data),
        notes=tuple(notes),
        pools=[Pool(one.train_x, one.test_x) for one in data],
        sources=sources,
    )


def _task(index: int, name: str, classes: tuple[int, ...], source: TaskSource) -> Task:
    sizes = {split: len(rows) for split, rows in source.rows.items()}
    return Task(
        index, name, classes, sizes["train"], sizes["valid"], sizes["test"], source.transform.description
    )


def _labels(data: ImageData, rows: Rows, place: Tensor) -> dict[SplitName, Tensor]:
    """Stream labels of the rows; place [K] maps a label of the data set to its stream label."""
    return {split: place[(data.test_y if split == "test" else data.train_y)[r]] for split, r in rows.items()}


def _join(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{names[0]} to {names[-1]} ({len(names)} classes)"
