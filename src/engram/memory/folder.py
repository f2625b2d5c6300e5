"""A memory on disk: immutable generations, and a manifest that is swapped as the last act of every change.

    MEMORY/memory.json                  the manifest: which generation is current, and the checksum of each that is kept
    MEMORY/generations/0003/record.json what is known of it as JSON: settings, classes, history, its files' checksums
    MEMORY/generations/0003/*           its files: tensors and JSON
    MEMORY/work/                        a `learn` in progress; readers never look there

A generation is written whole, and awaited, before the manifest names it, so a kill, a full disk or a power cut at any
moment leaves the memory as it was or as it is to be. What the manifest does not name is rubbish of such an end, and
the next writer removes it.

A writer holds the folder's lock; readers take none. The current generation and the one before are never removed by
`learn` and `undo`, so that a reader who has read the manifest finds what it names; should it not, since several
changes have passed meanwhile, it reads the manifest anew.

Whatever lies in a memory may have been put there by anyone. Names are of a fixed form, links are not followed, sizes
and checksums are compared before anything is parsed, and nothing that is read names a place outside.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import engram
from engram.core.files import (
    digest,
    drop_leftovers,
    in_use,
    os_errors,
    sealed,
    sync_folder,
    unsealed,
    write_atomically,
)
from engram.errors import CheckpointError, ConfigError, EngramError, all_printable, reason

FORMAT = 1
MANIFEST, GENERATIONS, WORK, RECORD, BEGUN = "memory.json", "generations", "work", "record.json", "begun.json"
MOST_JSON = 64 << 20  # bytes of a manifest or a record
_FILE = re.compile(r"[a-z]{1,20}\.(safetensors|json)")
_TRIES = 20  # readings of a manifest that changes all the time

Made = TypeVar("Made")


class Damaged(CheckpointError):
    """A part of a memory that is not as it was written."""


@dataclass(frozen=True)
class Manifest:
    """Which generation is current, and by number the checksums of the records of those that are kept."""

    current: int
    generations: Mapping[int, str]


def place_of(root: Path, number: int) -> Path:
    """The folder of a generation."""
    return root / GENERATIONS / f"{number:04d}"


# Reading ----------------------------------------------------------------------------------------------------------
def read_inside(root: Path, name: str, most: int) -> bytes:
    """The content of a regular file below ``root``; links are not followed, except at ``root`` itself.

    Raises:
        OSError: there is none, or it lies behind a link.
        Damaged: it is no regular file, or larger than ``most`` bytes.
    """
    *folders, last = name.split("/")
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for one in folders:
            inner = os.open(one, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=handle)
            os.close(handle)
            handle = inner
        file = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=handle)
    finally:
        os.close(handle)
    with open(file, "rb") as opened:
        facts = os.fstat(opened.fileno())
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > most:
            raise Damaged(f"{name} must be a file of at most {most} bytes, it is not")
        return opened.read(most)


def is_memory(root: Path) -> bool:
    """Whether there is a manifest, damaged or not."""
    return os.path.lexists(root / MANIFEST)


def check_new(root: Path) -> None:
    """``ConfigError`` unless a memory may be made here: nothing is here, or what an unfinished first `learn` left."""
    with os_errors(root):
        if os.path.lexists(root) and not root.is_dir():
            raise ConfigError(f"a memory must be a folder, {root} is none: give another place.")
        others = [one.name for one in root.iterdir()] if root.is_dir() else []
    others = [name for name in others if name not in (GENERATIONS, WORK) and not name.startswith(".")]
    if others:
        raise ConfigError(
            f"a new memory must have a folder of its own, {root} holds {others[0]}: give a memory, or another place."
        )


def read_manifest(root: Path) -> Manifest:
    """The manifest.

    Raises:
        ConfigError: there is none.
        CheckpointError: a newer version wrote it.
        Damaged: it is not as it was written.
    """
    if not is_memory(root):
        raise ConfigError(
            f"{root} must be a memory, it holds no {MANIFEST}: give another folder, or make one with engram learn."
        )
    try:
        found = unsealed(read_inside(root, MANIFEST, MOST_JSON))
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(f"{MANIFEST} of {root} cannot be read ({reason(error)})") from error
    if found is None:
        raise Damaged(f"{MANIFEST} of {root} does not match its checksum")
    _check_format(root, found)
    try:
        generations = {int(number): str(sha) for number, sha in found["generations"].items()}
        manifest = Manifest(found["current"], generations)
        if min(generations) < 1 or manifest.current not in generations:
            raise ValueError("its generations")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Damaged(f"{MANIFEST} of {root} is malformed ({reason(error)})") from error
    return manifest


def _check_format(root: Path, found: Mapping[str, Any]) -> None:
    written = found.get("format")
    if not isinstance(written, int) or isinstance(written, bool) or written < 1:
        raise Damaged(f"{MANIFEST} of {root} is malformed (its format)")
    if written > FORMAT:
        raise CheckpointError(
            f"a memory must have format {FORMAT} or less to be read by this version, {root} has {written} (written by "
            f"engram {found.get('engram')!s:.20}): use that version."
        )


def read_generation(root: Path, number: int, sha256: str | None) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Record, its texts printable, and files of a generation; ``sha256`` is the record's, None takes its own word.

    Raises:
        Damaged: it is not as it was written.
    """
    inside = f"{GENERATIONS}/{number:04d}"
    try:
        content = read_inside(root, f"{inside}/{RECORD}", MOST_JSON)
        record = unsealed(content)
        if record is None or (sha256 is not None and digest(content) != sha256):
            raise Damaged("its record does not match its checksum")
        files = {}
        for name, facts in record["files"].items():
            if not _FILE.fullmatch(name) or name == RECORD:
                raise Damaged("its record names a file that cannot be")
            files[name] = read_inside(root, f"{inside}/{name}", int(facts["bytes"]))
            if digest(files[name]) != facts["sha256"]:
                raise Damaged(f"{name} does not match its checksum")
        if record["number"] != number:
            raise Damaged("its record is that of another one")
    except (OSError, AttributeError, KeyError, TypeError, ValueError, RecursionError, OverflowError) as error:
        raise Damaged(f"generation {number} of {root} cannot be read ({reason(error)})") from error
    except Damaged as error:
        raise Damaged(f"generation {number} of {root} is damaged ({error})") from None
    return all_printable(record), files


def read(root: Path, make: Callable[[dict[str, Any], dict[str, bytes]], Made]) -> Made:
    """What ``make`` makes of the record and the files of the current generation.

    Where that one is damaged, of the newest one before it that is whole, which a warning says.

    Raises:
        ConfigError: not a memory.
        CheckpointError: a newer version wrote it, or nothing is whole.
    """
    for _ in range(_TRIES):
        problems: list[str] = []
        try:
            manifest = read_manifest(root)
            numbers = [n for n in sorted(manifest.generations, reverse=True) if n < manifest.current]
            wanted: list[tuple[int, str | None]] = [
                (n, manifest.generations[n]) for n in (manifest.current, *numbers)
            ]
        except Damaged as error:
            problems.append(str(error))
            manifest, wanted = None, [(n, None) for n in on_disk(root)]
        for number, sha256 in wanted:
            try:
                found = made(root, number, sha256, make)
            except Damaged as error:
                problems.append(str(error))
                continue
            if problems and _has_moved_on(root, manifest):
                break
            if problems:
                warnings.warn(f"{problems[0]}: generation {number} is used.", stacklevel=3)
            return found
        if not _has_moved_on(root, manifest):
            raise CheckpointError(f"{problems[0]}, and no other one is whole: make the memory anew.")
    raise EngramError(f"{root} must rest for a moment to be read, it changes all the time: try again.")


def made(
    root: Path, number: int, sha256: str | None, make: Callable[[dict[str, Any], dict[str, bytes]], Made]
) -> Made:
    """What ``make`` makes of a generation; ``Damaged`` where that fails."""
    record, files = read_generation(root, number, sha256)
    try:
        return make(record, files)
    except Exception as error:  # whatever our classes make of numbers that are not theirs
        raise Damaged(f"generation {number} of {root} cannot be used ({reason(error)})") from error


def _has_moved_on(root: Path, seen: Manifest | None) -> bool:
    try:
        return read_manifest(root) != seen
    except Damaged:
        return seen is not None


def repaired(root: Path) -> Manifest:
    """The manifest; where it is damaged, one of what lies there whole, the newest as the current one."""
    try:
        return read_manifest(root)
    except Damaged:
        whole = {}
        for number in on_disk(root):
            with contextlib.suppress(Damaged):
                read_generation(root, number, None)
                record = read_inside(root, f"{GENERATIONS}/{number:04d}/{RECORD}", MOST_JSON)
                whole[number] = digest(record)
        if not whole:
            raise
        return Manifest(max(whole), whole)


def on_disk(root: Path) -> list[int]:
    """Numbers of the generations that lie there, the newest first, whole or not."""
    try:
        names = os.listdir(root / GENERATIONS)
    except OSError:
        return []
    return sorted((int(name) for name in names if re.fullmatch(r"\d{4,9}", name)), reverse=True)


# Writing ----------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def held(root: Path) -> Iterator[None]:
    """Be the one who writes; what killed writers left is removed first."""
    with in_use(root, "wait for it"), os_errors(root):
        for name in (GENERATIONS, WORK):
            if (root / name).is_symlink():
                raise ConfigError(
                    f"{root / name} must be a folder of the memory's own, it is a link: remove it."
                )
        sweep(root)
        yield


def sweep(root: Path) -> None:
    """Remove what the manifest does not name; nothing where it is damaged."""
    drop_leftovers(root)
    try:
        kept = read_manifest(root).generations if is_memory(root) else {}
    except Damaged:
        return
    for number in on_disk(root):
        if number not in kept:
            shutil.rmtree(place_of(root, number), ignore_errors=True)


def write(root: Path, record: Mapping[str, Any], files: Mapping[str, bytes], kept: Mapping[int, str]) -> None:
    """Write a generation whole, and make it the current one.

    Args:
        record: JSON, with its number.
        files: content by name.
        kept: the generations that stay beside it, as in a manifest.
    """
    number = record["number"]
    place = place_of(root, number)
    with os_errors(place):
        shutil.rmtree(place, ignore_errors=True)
        for name, content in files.items():
            write_atomically(place / name, content)
        facts = {name: {"sha256": digest(content), "bytes": len(content)} for name, content in files.items()}
        content = sealed(json.dumps({**record, "files": facts}, sort_keys=True))
        write_atomically(place / RECORD, content)
        sync_folder(place.parent)
        swap(root, Manifest(number, {**kept, number: digest(content)}))


def swap(root: Path, manifest: Manifest) -> None:
    """Make this the manifest, then remove what it does not name."""
    body = {
        "format": FORMAT,
        "engram": engram.__version__,
        "current": manifest.current,
        "generations": {str(number): sha for number, sha in sorted(manifest.generations.items())},
    }
    write_atomically(root / MANIFEST, sealed(json.dumps(body)))
    sweep(root)
