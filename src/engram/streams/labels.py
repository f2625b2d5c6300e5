"""From labels of any kind to 0..K-1: what a class is called, and in which order classes come."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from engram.errors import DataError


def class_order(names: Iterable[str]) -> tuple[str, ...]:
    """The names that differ, in order: whole numbers by value (0, 1, 2, 10), then all others as text."""

    def place(name: str) -> tuple[bool, int, str]:
        number = re.fullmatch("-?[0-9]{1,40}", name)
        return number is None, int(name) if number else 0, name

    return tuple(sorted(set(names), key=place))


def number(columns: Mapping[str, Iterable[Any]]) -> tuple[list[list[int]], tuple[str, ...]]:
    """Labels 0..K-1 of each column, and the K class names in order.

    Args:
        columns: labels by where they come from, which messages name: whole numbers (also as floats), truth
            values or text.
    Raises:
        DataError: a label of another kind, or none.
    """
    named = [[_name(where, row, v) for row, v in enumerate(column)] for where, column in columns.items()]
    names = class_order(name for column in named for name in column)
    place = {name: label for label, name in enumerate(names)}
    return [[place[name] for name in column] for column in named], names


def _name(where: str, row: int, label: Any) -> str:
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if isinstance(label, bytes):
        return label.decode("utf-8", "backslashreplace")
    if isinstance(label, (int, str)):
        return str(label)
    raise unlabelled(where, row, label)


def unlabelled(where: str, row: int, label: Any) -> DataError:
    """The error for a row without a label that can be used."""
    return DataError(
        f"{where}, row {row}: every image needs a label (a whole number or text), got {label!r:.60}: "
        "label it, or remove the row."
    )
