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


def named_generator(purpose: str, *numbers: int) -> torch.Generator:
    """A CPU generator whose seed is a hash of its name, so that two purposes never share a sequence."""
    name = "/".join([purpose, *map(str, numbers)])
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1
    return torch.Generator().manual_seed(seed)


def hold_out(
    labels: Tensor, n_held: Callable[[int], int], *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Split row numbers into kept and held, class by class.

    Args:
        labels: int64 [N].
        n_held: number of rows to hold out of a class, given the class's size.
        generator: decides which rows.
    Returns:
        (kept, held): int64 row numbers, ascending, disjoint, together 0..N-1.
    """
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero().flatten()
        order = torch.randperm(len(rows), generator=generator)
        held[rows[order[: n_held(len(rows))]]] = True
    return (~held).nonzero().flatten(), held.nonzero().flatten()


def rounded_share(fraction: float) -> Callable[[int], int]:
    """A size -> count function for `hold_out`: the fraction of a class, halves rounded up."""
    return lambda size: int(size * fraction + 0.5)


def choose_rows(
    data: ImageData, number: int, seed: int, valid_fraction: float, max_per_class: int | None
) -> dict[SplitName, Tensor]:
    """Row numbers of each split; they depend on the seed and the data set's place, not on groups of classes.

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
        generator = named_generator("max_per_class", seed, number)
        train = hold_out(data.train_y, lambda n: min(n, most), generator=generator)[1]
    valid = train[:0]
    if valid_fraction > 0:
        smallest, label = torch.bincount(data.train_y[train]).min(0)
        if int(smallest) < 2:
            raise DataError(
                f"{data.name}: a validation split needs 2 training samples of each class, got "
                f'{int(smallest)} of "{data.class_names[int(label)]}": set valid_fraction=0 or add samples.'
            )

        def n_held(size: int) -> int:
            return min(size - 1, max(1, int(size * valid_fraction + 0.5)))

        kept, held = hold_out(data.train_y[train], n_held, generator=named_generator("valid", seed, number))
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
