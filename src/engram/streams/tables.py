"""Encoded images with labels, before decoding: from Hugging Face tables and from folders of image files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from engram.errors import DataError
from engram.streams.decode import Encoded

TEST_NAMES = ("test", "validation", "valid", "val")  # in order of preference
_LABEL_NAMES = (
    "label",
    "labels",
    "fine_label",
    "class",
    "target",
    "y",
)  # fine_label: CIFAR-100 has coarse ones too


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


def from_datasets(origin: str, splits: Mapping[str, Any], columns: Columns) -> Table:
    """A table from `datasets.Dataset` objects by split name.

    The image column is the one of type Image (or a struct with ``bytes``, or binary), the label column the
    one of type ClassLabel, or else the one named "label" or alike, or the only integer column.

    Raises:
        DataError: no train split, no or several candidates for a column, or a label that is missing.
    """
    roles = _roles(origin, splits)
    features = splits[roles["train"]].features
    for given in (columns.image, columns.label):
        if given is not None and given not in features:
            raise DataError(f'{origin} must have a column "{given}", got columns {", ".join(features)}.')
    image = columns.image
    if image is None:
        image = _choose(origin, "image", "image_column", _image_columns(features), ("image", "img"))
    label = columns.label or _label_column(origin, features, image)
    names = getattr(features[label], "names", None)
    for split in roles.values():
        if getattr(splits[split].features.get(label), "names", None) != names:
            raise DataError(
                f'{origin}: column "{label}" must have the same class names in every split, got others in '
                f'"{split}": write the splits with one list of names.'
            )
    raw = {
        role: _plain_labels(f'{origin}, split "{split}"', splits[split][label])
        for role, split in roles.items()
    }
    if names is None:
        values = sorted({v for column in raw.values() for v in column})
        place = {v: k for k, v in enumerate(values)}
        raw = {role: [place[v] for v in column] for role, column in raw.items()}
        names = [str(v) for v in values]
    made = {
        role: Split(_cells(f'{origin}, split "{split}"', splits[split], image), raw[role])
        for role, split in roles.items()
    }
    notes = []
    if "test" in roles and roles["test"] != "test":
        notes.append(f'the test split is the source\'s "{roles["test"]}"')
    return Table(made["train"], made.get("test"), tuple(names), tuple(notes))


def from_image_folder(root: Path) -> Table:
    """A table from ``root/train/<class>/<file>`` with ``root/test/...``, or from ``root/<class>/<file>``.

    Classes are the folders in sorted order; hidden files are left out, other files that are not images by
    their ending are counted in the notes.

    Raises:
        DataError: there is no class folder, a class folder has no image, or train and test disagree on the
            classes.
    """
    train_root = root / "train" if (root / "train").is_dir() else root
    test_root = None
    if train_root is not root:
        test_root = next((root / name for name in TEST_NAMES if (root / name).is_dir()), None)
    classes = _folders(train_root)
    if not classes:
        raise DataError(
            f"{root} must hold train*.parquet files or one folder of images a class, got neither: "
            "see the layouts that load() documents."
        )
    notes = []
    if test_root is not None:
        odd = sorted(set(_folders(test_root)) ^ set(classes))
        if odd:
            raise DataError(
                f"{root}: {train_root.name} and {test_root.name} must have the same class folders, got "
                f'"{odd[0]}" in one only: add or remove it.'
            )
        if test_root.name != "test":
            notes.append(f'the test split is the source\'s "{test_root.name}"')
    train, ignored = _files(train_root, classes)
    test = None
    if test_root is not None:
        test, more = _files(test_root, classes)
        ignored += more
    if ignored:
        notes.append(f"{ignored} files without the ending of an image were left out")
    return Table(train, test, tuple(classes), tuple(notes))


def _folders(root: Path) -> list[str]:
    return sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _files(root: Path, classes: list[str]) -> tuple[Split, int]:
    endings = Image.registered_extensions()
    images: list[tuple[str, bytes | Path]] = []
    labels: list[int] = []
    ignored = 0
    for label, name in enumerate(classes):
        files = sorted(p for p in (root / name).iterdir() if not p.name.startswith("."))
        kept = [p for p in files if p.suffix.lower() in endings and p.is_file()]
        if not kept:
            raise DataError(
                f"{root / name} must hold at least one image file, got none: add some or remove it."
            )
        ignored += len(files) - len(kept)
        images += [(str(p), p) for p in kept]
        labels += [label] * len(kept)
    return Split(images, labels), ignored


def _roles(origin: str, splits: Mapping[str, Any]) -> dict[str, str]:
    """Which split of the source is train, and which, if any, is test."""
    if "train" not in splits:
        raise DataError(f'{origin} must have a split "train", got {", ".join(splits) or "none"}.')
    test = next((name for name in TEST_NAMES if name in splits), None)
    return {"train": "train"} if test is None else {"train": "train", "test": test}


def _image_columns(features: Mapping[str, Any]) -> list[str]:
    typed = [name for name, f in features.items() if type(f).__name__ == "Image"]
    if typed:
        return typed
    # files written without feature metadata: {"bytes", "path"} or the bytes themselves
    return [
        name
        for name, f in features.items()
        if (isinstance(f, dict) and "bytes" in f) or getattr(f, "dtype", None) in ("binary", "large_binary")
    ]


def _label_column(origin: str, features: Mapping[str, Any], image: str) -> str:
    typed = [name for name, f in features.items() if type(f).__name__ == "ClassLabel"]
    if not typed:
        dtypes = {name: str(getattr(f, "dtype", "")) for name, f in features.items() if name != image}
        named = [n for n in dtypes if n in _LABEL_NAMES and ("int" in dtypes[n] or dtypes[n] == "string")]
        typed = named or [n for n in dtypes if "int" in dtypes[n]]
    return _choose(origin, "label", "label_column", typed, _LABEL_NAMES)


def _choose(origin: str, what: str, option: str, found: list[str], preferred: tuple[str, ...]) -> str:
    if len(found) == 1:
        return found[0]
    best = [name for name in preferred if name in found]
    if best:
        return best[0]
    hint = (
        f"{', '.join(found)}: say which with {option}="
        if found
        else "none: is this a data set of labelled images?"
    )
    raise DataError(f"{origin} must have one {what} column, got {hint}")


def _plain_labels(where: str, column: Any) -> list[Any]:
    labels = list(column)
    for row, label in enumerate(labels):
        if label is None or (isinstance(label, int) and label < 0):
            raise DataError(
                f"{where}, row {row}: every image needs a label (an integer >= 0), got {label}: "
                "label it, or remove the row."
            )
    return labels


def _cells(where: str, table: Any, column: str) -> Iterator[tuple[str, bytes | Path]]:
    import datasets  # here, since it is slow to import

    table = table.select_columns([column])
    if type(table.features[column]).__name__ == "Image":
        table = table.cast_column(column, datasets.Image(decode=False))
    row = 0
    for batch in table.iter(batch_size=1000):
        for cell in batch[column]:
            content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
            if content is None and path and os.path.isfile(path):
                content = Path(path)
            if content is None:
                raise DataError(f"{where}, row {row}: every row needs an image, got none: remove the row.")
            yield f"{where}, row {row}", content
            row += 1
