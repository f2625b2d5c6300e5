"""Folders of tables, and of images in a folder a class."""

from __future__ import annotations

import os
import re
from pathlib import Path

from engram.core.walking import Folder
from engram.errors import DataError
from engram.streams.decode import endings
from engram.streams.labels import class_order
from engram.streams.tables import TEST_NAMES, Split, Table

_TRAIN_NAMES = ("train", "training")
_SPLITS = ("train", *TEST_NAMES)


def _hidden_note(folder: Folder) -> list[str]:
    """A note on hidden images, where there are any."""
    n = sum(map(_is_image, folder.hidden))
    return [f"{n} hidden images were left out"] if n else []


def parquet_files(folder: Folder, config: str | None) -> tuple[dict[str, list[Path]], list[str]]:
    """The Parquet files of train and, where there is one, of the test split; and notes on those left out.

    The files of a split begin with its name or lie in a folder of that name; these lie in the folder itself, in
    ``data/``, or in the folder of one configuration, as on the Hugging Face hub.

    Args:
        folder: where to look; no split is found where it holds no Parquet file.
        config: the configuration to take where there are several.
    Raises:
        DataError: no train split, several configurations, or a part of a split that is missing.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for name in (f for f in folder.files if f.lower().endswith(".parquet")):
        *above, last = name.split("/")
        split = next((s for s in _SPLITS if last.lower().startswith(s)), "")
        if not split and above and above[-1].lower() in _SPLITS:
            split = above.pop().lower()
        found.setdefault("/".join(above), {}).setdefault(split or last, []).append(name)
    tables = {place: splits for place, splits in found.items() if "train" in splits}
    place = next((p for p in ("", "data", config) if p in tables), None)
    n_images = sum(map(_is_image, folder.files))
    if not found or (place is None and n_images):
        return {}, []
    if not tables:
        some = next(iter(next(iter(found.values())).values()))[0]
        raise DataError(
            f"{folder.root} must hold train*.parquet and test*.parquet, got {some}: rename the files."
        )
    if place is None:
        if len(tables) > 1:
            raise DataError(
                f"{folder.root} must hold one table, got {', '.join(tables)}: give the path of one of these folders."
            )
        (place,) = tables
    splits = tables[place]
    test = next((s for s in TEST_NAMES if s in splits), None)
    chosen = {s: splits[s] for s in ("train", test) if s}
    for names in chosen.values():
        _check_parts(folder.root, names)
    taken = {name for names in chosen.values() for name in names}
    rest = [
        name for splits in found.values() for names in splits.values() for name in names if name not in taken
    ]
    notes = _hidden_note(folder)
    if rest:
        notes.append(f"{len(rest)} tables of other splits were left out, such as {rest[0]}")
    if n_images:
        notes.append(f"{n_images} image files beside the tables are used only where these name them")
    return {s: [folder.root / name for name in names] for s, names in chosen.items()}, notes


def _check_parts(root: Path, names: list[str]) -> None:
    """Raise DataError where names such as train-00000-of-00002.parquet say that some are missing."""
    for name in names:
        said = re.search(r"-of-(\d{1,9})(?=\D*$)", name)
        if said and int(said[1]) != len(names):
            raise DataError(
                f"{root} must hold {int(said[1])} parts such as {name}, got {len(names)}: add the others."
            )


def from_image_folder(folder: Folder) -> Table:
    """A table from ``root/train/<class>/<file>`` with ``root/test/...``, or from ``root/<class>/<file>``.

    Classes are the folders, whole numbers by value and all others as text. Whatever is left out is counted in
    the notes.

    Raises:
        DataError: there is no class folder, a class folder has no image or holds images in a sub-folder, or train
            and test disagree on the classes.
    """
    top = {name.lower(): name for name in folder.folders if "/" not in name}
    train = next((top[name] for name in _TRAIN_NAMES if name in top), None)
    test = next((top[name] for name in TEST_NAMES if train and name in top), None)
    roles = {"train": f"{train}/" if train else ""} | ({"test": f"{test}/"} if test else {})
    inside = {role: _classes(folder, start) for role, start in roles.items()}
    classes = class_order(inside["train"])
    if not classes:
        raise DataError(
            f"{folder.root} must hold train*.parquet files or one folder of images a class, got neither: "
            "see the layouts that load() documents."
        )
    odd = class_order(set(classes) ^ set(inside.get("test", classes)))
    if odd:
        raise DataError(
            f"{folder.root}: {train} and {test} must have the same class folders, got "
            f'"{odd[0]}" in one only: add or remove it.'
        )
    found: dict[tuple[str, str], list[str]] = {}
    loose, deep, others = [], [], 0
    for name in folder.files:
        role = next((r for r, start in roles.items() if name.startswith(start)), None)
        below = name[len(roles[role]) :].split("/") if role else []
        if not _is_image(name):
            others += len(below) > 1
        elif role is None or len(below) == 1:
            loose.append(name)
        elif len(below) > 2:
            deep.append(name)
        else:
            found.setdefault((role, below[0]), []).append(name)
    if deep:
        raise DataError(
            f"{folder.root}: images must lie directly in the folder of their class, got {len(deep)} in sub-folders, "
            f"such as {deep[0]}: move them up."
        )
    splits = {
        role: _split(folder, start, [found.get((role, c), []) for c in classes], classes)
        for role, start in roles.items()
    }
    notes = [f'the test split is the source\'s "{test}"'] if test not in (None, "test") else []
    if others:
        notes.append(f"{others} files without the ending of an image were left out")
    if loose:
        notes.append(f"{len(loose)} images outside the class folders were left out, such as {loose[0]}")
    return Table(splits["train"], splits.get("test"), classes, (*notes, *_hidden_note(folder)))


def _classes(folder: Folder, start: str) -> list[str]:
    inner = (name[len(start) :] for name in folder.folders if name.startswith(start))
    return [name for name in inner if "/" not in name]


def _split(folder: Folder, start: str, files: list[list[str]], classes: tuple[str, ...]) -> Split:
    for name, images in zip(classes, files, strict=True):
        if not images:
            raise DataError(
                f"{folder.root / start / name} must hold at least one image file, got none: add some or remove it "
                f"({', '.join(sorted(endings()))})."
            )
    paths = [folder.root / name for images in files for name in images]
    labels = [label for label, images in enumerate(files) for _ in images]
    return Split([(str(path), path) for path in paths], labels)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in endings()
