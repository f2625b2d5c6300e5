"""Which files in a folder are engram's: what may be replaced, and how it is removed without touching anything else."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

from engram.core.files import LOCK, read_regular, shortened
from engram.errors import ConfigError

STUDY_FILE, CONFIG_FILE = "study.json", "config.yaml"
JOB_FILE, LOG_FILE, SEED_FILE = "job.json", "worker.log", "seed.json"  # of a seed
OLD_RESULT, OLD_SWEEP, OLD_TRADEOFF = OLD_FILES = (
    "results.json",
    "sweep.json",
    "tradeoff.json",
)  # of schema 1
CONFIG_HEAD = "# Resolved settings."
SHARED = "shared"  # what several runs of a study have in common: common starts, a classifier that judges

# What engram writes: names of files in seed-N, seed-N/checkpoints, tensorboard/seed-N, and in the folders above seed-N.
TEMPORARY = r"\..+\.\d+\.tmp"
SEED_FILES = (
    r"(job|seed|result)\.json|worker\.log|(samples(-\d+)?|mistakes|artifacts)\.safetensors|\.task\.lock|"
    + TEMPORARY
)
CHECKPOINT = r"\d{8}\.(json|safetensors)|" + TEMPORARY
JUDGE = r"judge-[0-9a-f]{16}\.safetensors|" + TEMPORARY  # in the folder SHARED
EVENTS = r"events\.out\.tfevents\..+"


def folder_name(label: str, keep: str = "") -> str:
    """A label as the name of a folder: ``dgmw:solver=shared`` is ``dgmw-solver-shared``; signs in ``keep`` stay."""
    return shortened(re.sub(rf"[^A-Za-z0-9._{keep}-]+", "-", label).strip("-."), label)


def holds_old(root: Path) -> bool:
    """Whether the folder holds results of schema 1."""
    return any((root / name).exists() for name in OLD_FILES) or any(root.glob(f"*/{OLD_RESULT}"))


def check_ours(folders: Iterable[Path]) -> None:
    """Only what engram wrote may be overwritten; an empty folder, or none, is fine.

    Raises:
        ConfigError: one of the folders holds files, and none that engram wrote.
    """
    for folder in folders:
        files = [path for path in folder.iterdir() if path.name != LOCK] if folder.is_dir() else []
        if files and not any(map(_is_ours, files)) and not _seeds_below(folder):
            raise ConfigError(
                f"--overwrite must name a folder that engram wrote, {folder} holds other files and no result: "
                "give another --out."
            )


def clear(folder: Path) -> None:
    """Remove what engram wrote below a folder, and nothing else; folders that are empty then go too.

    Figures stay: they are replaced when the report is drawn, and the page embeds its own.
    """
    for seed in _seeds_below(folder):
        clear_checkpoints(seed)
        _clear_files(seed.parent / "tensorboard" / seed.name, EVENTS)
        _clear_files(seed, SEED_FILES)
        for path in filter(_is_ours, seed.parent.glob("*")):
            path.unlink()
        for empty in (seed.parent / "tensorboard", seed, *seed.parents):
            if not empty.is_relative_to(folder):
                break
            with contextlib.suppress(OSError):  # not empty, or no folder
                empty.rmdir()
    for path in filter(_is_ours, folder.glob("*")):
        path.unlink()
    if folder.name == SHARED:
        _clear_files(folder, JUDGE)


def clear_checkpoints(seed: Path) -> None:
    """Remove the checkpoints of one seed."""
    _clear_files(seed / "checkpoints", CHECKPOINT)


def _seeds_below(folder: Path) -> list[Path]:
    """Folders of seeds, and those called ``seed-N`` that hold nothing."""
    return [
        path
        for path in sorted(folder.rglob("seed-*"))
        if re.fullmatch(r"seed-\d+", path.name)
        and path.is_dir()
        and not path.is_symlink()
        and (path / JOB_FILE).is_file()
    ]


def _clear_files(folder: Path, known: str) -> None:
    """Remove the files whose names match ``known`` in full, the job last, and the folder where it is empty then."""
    if not folder.is_dir() or folder.is_symlink():
        return
    for path in sorted(folder.iterdir(), key=lambda p: p.name == JOB_FILE):
        if re.fullmatch(known, path.name) and (path.is_symlink() or path.is_file()):
            path.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


def _is_ours(path: Path) -> bool:
    """Whether a file is one of those that engram writes above the folders of seeds."""
    try:
        if path.name == CONFIG_FILE:
            return read_regular(path).startswith(CONFIG_HEAD.encode())
        if path.name == STUDY_FILE or path.name in OLD_FILES:
            stored = json.loads(read_regular(path))
            return isinstance(stored, dict) and "schema" in stored
    except (OSError, ValueError, RecursionError):
        return False
    return False
