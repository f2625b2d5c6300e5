"""Decoded data sets kept on disk, so that images are decoded once.

One safetensors file a data set: the four tensors, and in its header a JSON text with names and notes. The
fingerprint of the tensors and a sha256 of the text are checked at every read, so damage is found and said.
Files are named by their source's identity and never change; deleting any of them is safe.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from engram.core.files import drop_leftovers, os_errors
from engram.streams.images import fingerprint

_FORMAT = 2  # part of every key: raise it when decoding changes, and old files are left alone


@dataclass(frozen=True, eq=False)
class Arrays:
    """What is cached: an `ImageData` in the making, of which not every class need be present yet."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    class_names: tuple[str, ...]
    notes: tuple[str, ...]


def default_cache_dir() -> Path:
    """``$ENGRAM_CACHE``, or ``~/.cache/engram``."""
    given = os.environ.get("ENGRAM_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "engram"


@dataclass(frozen=True)
class Kept:
    """A file of the cache: where, what it holds, its size, and when it was used last, in seconds since 1970."""

    path: Path
    what: str
    n_bytes: int
    used: float


def kept(folder: Path) -> list[Kept]:
    """What lies in a cache folder, the longest unused first; other files are none of the cache's and left out."""
    forms = {
        "pixels": r"[A-Za-z0-9._-]+-[0-9a-f]{20}\.safetensors",
        "features": r"features/[^/]+-[0-9a-f]{32}\.safetensors",
        "leftover": r"(features/)?\..+\.\d+\.tmp|features/[^/]+-[0-9a-f]{32}\.lock",
    }
    found = []
    with os_errors(folder):
        for path in [*folder.glob("*"), *folder.glob("features/*")]:
            name = path.relative_to(folder).as_posix()
            what = next((what for what, form in forms.items() if re.fullmatch(form, name)), None)
            if what is not None and path.is_file() and not path.is_symlink():
                facts = path.stat()
                found.append(Kept(path, what, facts.st_size, max(facts.st_atime, facts.st_mtime)))
    return sorted(found, key=lambda one: one.used)


def cached(folder: Path, name: str, identity: str, *, build: Callable[[], Arrays]) -> Arrays:
    """The arrays stored for this identity; built and stored where there are none or they are damaged.

    Warns (and goes on) when a stored file is damaged or when the folder cannot be written.
    """
    key = hashlib.sha256(f"{_FORMAT}/{identity}".encode()).hexdigest()[:20]
    path = folder / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)[-60:]}-{key}.safetensors"
    if path.is_file():
        try:
            return _read(path)
        except Exception as fault:  # whatever is wrong with the file, the source is still there
            warnings.warn(
                f"cached copy {path} is damaged ({fault}); decoding the source again.", stacklevel=3
            )
    arrays = build()
    try:
        _write(path, arrays)
    except (OSError, SafetensorError) as fault:
        warnings.warn(
            f"the decoded data set could not be kept in {folder} ({fault}); it will be decoded each time: "
            "set cache_dir or ENGRAM_CACHE to a folder that can be written.",
            stacklevel=3,
        )
    return arrays


def _read(path: Path) -> Arrays:
    with safe_open(path, framework="pt") as file:
        header = file.metadata() or {}
        text = header["engram"]
        if hashlib.sha256(text.encode()).hexdigest() != header["sha256"]:
            raise ValueError("its description does not match its checksum")
        tensors = {k: file.get_tensor(k) for k in ("train_x", "train_y", "test_x", "test_y")}
    facts = json.loads(text)
    if fingerprint(*tensors.values()) != facts["fingerprint"]:
        raise ValueError("its pixels or labels do not match their checksum")
    return Arrays(**tensors, class_names=tuple(facts["class_names"]), notes=tuple(facts["notes"]))


def _write(path: Path, arrays: Arrays) -> None:
    tensors = {k: getattr(arrays, k).contiguous() for k in ("train_x", "train_y", "test_x", "test_y")}
    text = json.dumps(
        {
            "class_names": arrays.class_names,
            "notes": arrays.notes,
            "fingerprint": fingerprint(*tensors.values()),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    drop_leftovers(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, temporary, {"engram": text, "sha256": hashlib.sha256(text.encode()).hexdigest()})
        os.replace(temporary, path)  # whole or not at all, also with two runs writing the same file
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
