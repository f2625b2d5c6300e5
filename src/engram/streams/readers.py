"""Reading folders and the Hugging Face hub into tables; every failure becomes one line."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from engram.errors import DataError
from engram.streams.tables import TEST_NAMES, Columns, Table, from_datasets, from_image_folder

HUB_TIMEOUT_S = 10.0


def identity(root: Path) -> str:
    """A hash of folders' names and files' names, sizes and times: changes when the content does."""
    digest = hashlib.sha256(str(root.resolve()).encode())
    for folder, subfolders, files in os.walk(root):
        subfolders.sort()
        digest.update(f"\n{os.path.relpath(folder, root)}/".encode())  # an empty folder is an empty class
        for name in sorted(files):
            path = os.path.join(folder, name)
            facts = os.stat(path)
            digest.update(f"\n{os.path.relpath(path, root)} {facts.st_size} {facts.st_mtime_ns}".encode())
    return digest.hexdigest()


def read_folder(root: Path, columns: Columns) -> Table:
    """Parquet files where there are any, else images in class folders."""
    files = _parquet_files(root)
    return _read_parquet(root, files, columns) if files else from_image_folder(root)


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
            f"{type(fault).__name__}: {_first_line(fault)}: put it in a folder and give --data-dir "
            "(data_dir=), or check the network and the name."
        ) from fault
    table = from_datasets(repository, splits, columns)
    note = f"from the Hugging Face hub, {repository}" + (f", revision {revision}" if revision else "")
    return Table(table.train, table.test, table.class_names, (note, *table.notes))


def _parquet_files(root: Path) -> dict[str, list[Path]]:
    for folder in (root, root / "data"):
        found = sorted(folder.glob("*.parquet"))
        if not found:
            continue
        splits: dict[str, list[Path]] = {}
        for split in ("train", *TEST_NAMES):
            paths = [p for p in found if p.name.lower().startswith(split)]
            # one test split is enough, and "val" would claim the files of "validation" again
            if paths and len(splits) < 2:
                splits[split] = paths
        if "train" not in splits:
            raise DataError(
                f"{folder} must hold train*.parquet and test*.parquet, got {found[0].name}: rename the files."
            )
        return splits
    return {}


def _read_parquet(root: Path, files: dict[str, list[Path]], columns: Columns) -> Table:
    import datasets  # here, since it is slow to import
    from pyarrow import parquet

    splits = {}
    # `datasets` writes a copy of what it reads: into a folder of ours that goes away, never beside the data
    with tempfile.TemporaryDirectory(prefix="engram-") as scratch, _quiet():
        for split, paths in files.items():
            names = [str(p) for p in paths]
            try:
                n_rows = sum(parquet.read_metadata(name).num_rows for name in names)
            except Exception as fault:  # pyarrow's own types, by version
                raise _unreadable(paths[0].parent, split, fault) from fault
            if n_rows == 0:  # which `datasets` cannot read
                raise DataError(
                    f"{root}: the {split} split must hold at least one image, got none: check {names[0]}."
                )
            try:
                # not load_dataset("parquet", ...): it reports its use to the hub and waits for a dead network
                splits[split] = datasets.Dataset.from_parquet(names, cache_dir=scratch, keep_in_memory=True)
            except Exception as fault:  # datasets wraps pyarrow's errors in its own
                raise _unreadable(paths[0].parent, split, fault.__cause__ or fault) from fault
    return from_datasets(str(root), splits, columns)


def _unreadable(folder: Path, split: str, fault: BaseException) -> DataError:
    return DataError(
        f"{folder}: {split}*.parquet must be readable Parquet tables, got {_first_line(fault)}: copy or "
        "download them again."
    )


def _first_line(fault: BaseException) -> str:
    """The first line of an exception's text, without a full stop; its type where it has no text."""
    lines = str(fault).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(fault).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and log lines from `datasets` while it reads local files."""
    import datasets

    bars = datasets.is_progress_bar_enabled() if hasattr(datasets, "is_progress_bar_enabled") else True
    level = datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()
