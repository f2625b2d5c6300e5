"""Tables of images and labels, before decoding, and how they come from columns of Arrow data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.errors import DataError
from engram.streams.decode import Encoded
from engram.streams.labels import number, unlabelled

if TYPE_CHECKING:
    import pyarrow

TEST_NAMES = ("test", "testing", "validation", "valid", "val")  # in order of preference
_IMAGE_NAMES = ("image", "img")
# fine_label: CIFAR-100 has coarse ones too
_LABEL_NAMES = ("label", "labels", "fine_label", "class", "target", "y")


@dataclass(frozen=True, eq=False)
class Split:
    """One split: the images, read once, and their labels 0..K-1 in the same order."""

    images: Encoded
    labels: list[int]


@dataclass(frozen=True, eq=False)
class Table:
    """A train split, a test split where the source has one, and the K class names."""

    train: Split
    test: Split | None
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Columns:
    """Names of the image and label columns where the user gave them."""

    image: str | None = None
    label: str | None = None


@dataclass(frozen=True, eq=False)
class ArrowSplit:
    """One split of a source of columns.

    Args:
        where: for messages.
        schema: names and types; its metadata may hold the features of the Hugging Face library.
        column: the values of a column, as Python objects, few at a time.
        find: the file that a path in the image column means, None where it is none of the source's.
    """

    where: str
    schema: pyarrow.Schema
    column: Callable[[str], Iterator[Any]]
    find: Callable[[str], Path | None]


def from_arrow(origin: str, splits: Mapping[str, ArrowSplit], columns: Columns) -> Table:
    """A table from splits by name.

    The image column is the one that is marked so (or has ``bytes`` inside, or is binary), the label column the one
    that is marked as class labels, or else the one named "label" or alike, or the only one of whole numbers.

    Raises:
        DataError: no train split, no or several candidates for a column, or a label that is missing.
    """
    if "train" not in splits:
        raise DataError(f'{origin} must have a split "train", got {", ".join(splits) or "none"}.')
    test = next((name for name in TEST_NAMES if name in splits), None)
    used = {role: splits[name] for role, name in (("train", "train"), ("test", test)) if name}
    schema = used["train"].schema
    image = columns.image or _image_column(origin, schema)
    label = columns.label or _label_column(origin, schema, image)
    class_names = _class_names(schema, label)
    for split in used.values():
        for name in (image, label):
            if name not in split.schema.names:
                have = ", ".join(split.schema.names)
                raise DataError(
                    f'{split.where} must have a column "{name}", got columns {have}: name another.'
                )
        if _class_names(split.schema, label) != class_names:
            raise DataError(
                f'{split.where}: column "{label}" must have the same class names in every split, got others: '
                "write the splits with one list of names."
            )
    if class_names is None:
        read = {split.where: _no_negatives(split.where, split.column(label)) for split in used.values()}
        labels, class_names = number(read)
    else:
        labels = [_class_labels(split, label, len(class_names)) for split in used.values()]
    made = [Split(_cells(split, image), row) for split, row in zip(used.values(), labels, strict=True)]
    notes = () if test in (None, "test") else (f'the test split is the source\'s "{test}"',)
    return Table(made[0], made[1] if test else None, class_names, notes)


def _features(schema: pyarrow.Schema) -> dict[str, dict[str, Any]]:
    """What the Hugging Face library wrote about the columns, such as that they are images; often nothing."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: facts for name, facts in features.items() if isinstance(facts, dict)}
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        RecursionError,
    ):  # none, or not written by that library
        return {}


def _class_names(schema: pyarrow.Schema, label: str) -> tuple[str, ...] | None:
    names = _features(schema).get(label, {}).get("names")
    return tuple(map(str, names)) if isinstance(names, list) else None


def _marked(schema: pyarrow.Schema, kind: str) -> list[str]:
    return [n for n, f in _features(schema).items() if f.get("_type") == kind and n in schema.names]


def _kind(column: pyarrow.Field) -> str:
    """The type of a column in a word; that of its values where it is a dictionary."""
    name = str(column.type)
    return str(column.type.value_type) if name.startswith("dictionary<") else name


def _image_column(origin: str, schema: pyarrow.Schema) -> str:
    def holds_bytes(column: pyarrow.Field) -> bool:
        kind = _kind(column)
        return "binary" in kind and (
            kind.startswith("struct<bytes") or ", bytes: " in kind or "<" not in kind
        )

    found = _marked(schema, "Image") or [column.name for column in schema if holds_bytes(column)]
    return _choose(origin, schema, "image", found, _IMAGE_NAMES)


def _label_column(origin: str, schema: pyarrow.Schema, image: str) -> str:
    found = _marked(schema, "ClassLabel")
    if not found:
        kinds = {column.name: _kind(column) for column in schema if column.name != image}
        usable = (
            "int",
            "uint",
            "string",
            "large_string",
            "string_view",
            "bool",
            "float",
            "double",
            "halffloat",
        )
        found = [n for n, kind in kinds.items() if n in _LABEL_NAMES and kind.rstrip("0123456789") in usable]
        found = found or [n for n, kind in kinds.items() if kind.rstrip("0123456789") in ("int", "uint")]
    return _choose(origin, schema, "label", found, _LABEL_NAMES)


def _choose(
    origin: str, schema: pyarrow.Schema, what: str, found: list[str], preferred: tuple[str, ...]
) -> str:
    if len(found) == 1:
        return found[0]
    best = [name for name in preferred if name in found]
    if best:
        return best[0]
    names = found or [f"none among {', '.join(f'{c.name} ({_kind(c):.40})' for c in schema)}"]
    raise DataError(
        f"{origin} must have one {what} column, got {', '.join(names)}: say which with {what}_column="
    )


def _no_negatives(where: str, labels: Iterator[Any]) -> Iterator[Any]:
    for row, label in enumerate(labels):
        if isinstance(label, (int, float)) and label < 0:  # what many sources write for "no label"
            raise unlabelled(where, row, label)
        yield label


def _class_labels(split: ArrowSplit, column: str, n_classes: int) -> list[int]:
    labels = list(split.column(column))
    for row, label in enumerate(labels):
        if not isinstance(label, int) or not 0 <= label < n_classes:
            raise unlabelled(split.where, row, label)
    return labels


def _cells(split: ArrowSplit, column: str) -> Encoded:
    for row, cell in enumerate(split.column(column)):
        content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
        if content is None and isinstance(path, str):
            content = split.find(path)
        yield f"{split.where}, row {row}", content if isinstance(content, (bytes, Path)) else None
