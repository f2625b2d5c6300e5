"""Reading folders and the Hugging Face hub into tables; every failure becomes one line."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engram.core.walking import Folder
from engram.errors import DataError, reason
from engram.streams.folders import from_image_folder, parquet_files
from engram.streams.tables import ArrowSplit, Columns, Table, from_arrow

HUB_TIMEOUT_S = 10.0
_ROWS = 1000  # that are read at a time


def read_folder(folder: Folder, config: str | None, columns: Columns) -> Table:
    """Parquet files where there are any, else images in class folders."""
    files, notes = parquet_files(folder, config)
    if not files:
        for option, given in (("image_column", columns.image), ("label_column", columns.label)):
            if given is not None:
                raise DataError(f"{option} must be left out where images lie in class folders, got {given}.")
        return from_image_folder(folder)
    known = frozenset(folder.files)
    splits = {split: _parquet(folder.root, split, paths, known) for split, paths in files.items()}
    table = from_arrow(str(folder.root), splits, columns)
    return Table(table.train, table.test, table.class_names, (*table.notes, *notes))


def read_hub(repository: str, config: str | None, columns: Columns) -> Table:
    """A data set of the hub, at the revision it has now.

    The hub is asked first for the revision, with a time limit: `load_dataset` itself tries a dead network for
    minutes. ``HF_HUB_OFFLINE=1`` skips the question and takes what was downloaded before.
    """
    import datasets  # here, since it is slow to import
    import huggingface_hub

    revision = None
    try:
        if not huggingface_hub.constants.HF_HUB_OFFLINE:
            revision = huggingface_hub.HfApi().dataset_info(repository, timeout=HUB_TIMEOUT_S).sha
        splits = datasets.load_dataset(repository, config, revision=revision)
    except Exception as fault:  # network, permission, name, format: many types, and they change with versions
        raise DataError(
            f"{repository} must be reachable on the Hugging Face hub, or lie in data_dir, got "
            f"{type(fault).__name__}: {reason(fault)}: put it in a folder and give data_dir, "
            "or check the network and the name."
        ) from fault
    arrow = {name: _hub_split(f'{repository}, split "{name}"', split) for name, split in splits.items()}
    table = from_arrow(repository, arrow, columns)
    note = f"from the Hugging Face hub, {repository}" + (f", revision {revision}" if revision else "")
    return Table(table.train, table.test, table.class_names, (note, *table.notes))


def _hub_split(where: str, split: Any) -> ArrowSplit:
    def column(name: str) -> Iterator[Any]:
        with _one_line(where):
            for part in split.select_columns([name]).with_format("arrow").iter(_ROWS):
                yield from part.column(0).to_pylist()

    return ArrowSplit(
        where, split.features.arrow_schema, column, lambda path: Path(path) if os.path.isfile(path) else None
    )


def _parquet(root: Path, split: str, paths: list[Path], known: frozenset[str]) -> ArrowSplit:
    """The split that lies in these files; ``known`` are the names, relative to root, that its cells may mean."""
    from pyarrow import parquet  # here, since it is slow to import

    def column(name: str) -> Iterator[Any]:
        for path in paths:
            with _one_line(path), parquet.ParquetFile(path) as file:
                if name not in file.schema_arrow.names:
                    have = ", ".join(file.schema_arrow.names)
                    raise DataError(f'{path} must have a column "{name}", got columns {have}: name another.')
                for batch in file.iter_batches(_ROWS, columns=[name]):
                    yield from batch.column(name).to_pylist()

    def find(path: str) -> Path | None:
        inner = os.path.relpath(os.path.join(root, path), root)
        return root / inner if inner in known else None

    for path in paths:
        if not path.is_file():  # a pipe would keep us waiting
            raise DataError(f"{path} must be a file that can be read, got none: replace or remove it.")
    with _one_line(paths[0]):
        schema = parquet.read_schema(paths[0])
    return ArrowSplit(f'{root}, split "{split}"', schema, column, find)


@contextlib.contextmanager
def _one_line(where: object) -> Iterator[None]:
    """Turn whatever is raised while Arrow data are read into one line."""
    try:
        yield
    except DataError:
        raise
    except Exception as fault:  # pyarrow's and other libraries' own types, by version
        raise DataError(
            f"{where} must be a readable Parquet table, got {reason(fault)}: copy or download it again."
        ) from fault
