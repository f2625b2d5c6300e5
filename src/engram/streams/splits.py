"""Named random generators, and who goes where: splits that keep the share of every class, groups, orders."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from engram.errors import ConfigError, DataError
from engram.streams.images import ImageData
from engram.streams.stream import SplitName

TEST_SHARE = 0.25  # of each class, where a source has no test split


def named_generator(purpose: str, *more: int | str) -> torch.Generator:
    """A CPU generator whose seed is a hash of its name, so that two purposes never share a sequence."""
    name = "/".join([purpose, *map(str, more)])
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1
    return torch.Generator().manual_seed(seed)


def hold_out(
    labels: Tensor, n_held: Callable[[int], int], *, generator: Callable[[int], torch.Generator]
) -> tuple[Tensor, Tensor]:
    """Split row numbers into kept and held, class by class.

    Args:
        labels: int64 [N].
        n_held: number of rows to hold out of a class, given the class's size.
        generator: decides which rows of a label.
    Returns:
        (kept, held): int64 row numbers, ascending, disjoint, together 0..N-1.
    """
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero().flatten()
        order = torch.randperm(len(rows), generator=generator(label))
        held[rows[order[: n_held(len(rows))]]] = True
    return (~held).nonzero().flatten(), held.nonzero().flatten()


def set_aside(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Rows kept for training and rows of a test split, a quarter of each class, the same every time."""
    shared = named_generator("test split")
    return hold_out(labels, lambda size: int(size * TEST_SHARE + 0.5), generator=lambda _: shared)


def n_valid(size: int, fraction: float) -> int:
    """How many of a class's ``size`` training samples are held out: at least one, and never all."""
    return min(size - 1, max(1, int(size * fraction + 0.5)))


def by_class(purpose: str, seed: int, number: int, names: Sequence[str]) -> Callable[[int], torch.Generator]:
    """A generator for each label, named by its class: what is drawn of it does not depend on other classes."""
    return lambda label: named_generator(purpose, seed, number, names[label])


def choose_rows(
    data: ImageData, number: int, seed: int, valid_fraction: float, max_per_class: int | None
) -> dict[SplitName, Tensor]:
    """Row numbers of each split.

    Those of a class depend on the seed, the data set's place and the class's name and samples; not on other classes,
    so that a class can be held out of when it arrives as if all had been there.

    Args:
        data: the data set.
        number: its place in the stream.
        seed, valid_fraction, max_per_class: see `builders`.
    """
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ConfigError(f"seed must be an integer, got {seed!r}.")
    if not isinstance(valid_fraction, int | float) or not 0 <= valid_fraction < 1:
        raise ConfigError(f"valid_fraction must be a number in [0, 1), got {valid_fraction!r}.")
    if max_per_class is not None and not is_count(max_per_class):
        raise ConfigError(f"max_per_class must be an integer >= 1 or None, got {max_per_class!r}.")
    train = torch.arange(len(data.train_y))
    if max_per_class is not None:
        most = max_per_class
        chosen = by_class("max_per_class", seed, number, data.class_names)
        train = hold_out(data.train_y, lambda n: min(n, most), generator=chosen)[1]
    valid = train[:0]
    if valid_fraction > 0:
        smallest, label = torch.bincount(data.train_y[train]).min(0)
        if int(smallest) < 2:
            raise DataError(
                f"{data.name}: a validation split needs 2 training samples of each class, got "
                f'{int(smallest)} of "{data.class_names[int(label)]}": set valid_fraction=0 or add samples.'
            )
        chosen = by_class("valid", seed, number, data.class_names)
        kept, held = hold_out(data.train_y[train], lambda n: n_valid(n, valid_fraction), generator=chosen)
        train, valid = train[kept], train[held]
    return {"train": train, "valid": valid, "test": torch.arange(len(data.test_y))}


def group_sizes(n_classes: int, n_tasks: int | None, groups: Sequence[int] | None) -> list[int]:
    """Number of classes of each task; see `class_incremental`."""
    if (n_tasks is None) == (groups is None):
        raise ConfigError("class_incremental needs n_tasks= or groups=, one of the two.")
    if groups is not None:
        sizes = list(groups)
        if not all(is_count(size) for size in sizes) or sum(sizes) != n_classes:
            raise ConfigError(
                f"groups must be integers >= 1 that add up to the {n_classes} classes, got {sizes}."
            )
        return [int(size) for size in sizes]
    if n_tasks is None or not is_count(n_tasks) or n_tasks > n_classes:
        raise ConfigError(
            f"n_tasks must be an integer in 1..{n_classes}, a class or more each, got {n_tasks!r}: "
            "use fewer tasks or a data set of more classes."
        )
    share, rest = divmod(n_classes, n_tasks)
    return [share + (index < rest) for index in range(n_tasks)]


def class_order_of(
    names: Sequence[str], class_order: Sequence[int | str] | str | None, seed: int
) -> list[int]:
    """Labels in order of arrival; see `class_incremental`."""
    if class_order is None:
        return list(range(len(names)))
    if class_order == "random":
        return torch.randperm(len(names), generator=named_generator("class order", seed)).tolist()
    given = [] if isinstance(class_order, str) else [str(k) for k in class_order]
    labels = [str(k) for k in range(len(names))]
    numbers = all(isinstance(k, int) for k in class_order)
    for known in (labels, names) if numbers else (names, labels):  # where classes are called by numbers
        if sorted(given) == sorted(known):
            return [known.index(k) for k in given]
    raise ConfigError(
        f'class_order must be "random" or hold each label 0..{len(names) - 1} once, or each class name once, got '
        f"{class_order!r}: give all {len(names)} of them."
    )


def is_count(value: Any) -> bool:
    """Whether value is an integer >= 1 (and no bool)."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
