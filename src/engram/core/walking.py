"""One walk through a folder of data, which its readers and everything that must know of a change share."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from engram.errors import DataError, reason


@dataclass(frozen=True, eq=False)
class Folder:
    """What lies under a folder, links followed; nothing else is ever read.

    Args:
        root: the folder.
        files: whatever is no folder, relative to root with "/", sorted; links may lead nowhere.
        folders: likewise.
        hidden: names of what begins with a dot, which is left out.
        identity: a hash of all names, of files' sizes and times, and of where links lead.
    """

    root: Path
    files: tuple[str, ...]
    folders: tuple[str, ...]
    hidden: tuple[str, ...]
    identity: str


def walk(root: Path) -> Folder:
    """Look at a folder and all below it.

    Raises:
        DataError: a folder cannot be read, or a link leads back to a folder that holds it.
    """
    digest = hashlib.sha256(os.fsencode(root.resolve()))
    files: list[str] = []
    folders: list[str] = []
    hidden: list[str] = []
    pending = [(root, "", frozenset[tuple[int, int]]())]
    while pending:
        folder, inside, above = pending.pop()
        try:
            facts = folder.stat()
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as fault:
            raise DataError(
                f"{folder} must be a folder that can be read, got {fault.strerror}: mend it."
            ) from fault
        place = (facts.st_dev, facts.st_ino)
        if place in above:
            raise DataError(f"{folder} must not lead back to a folder that holds it: remove the link.")
        for entry in entries:
            if entry.name.startswith("."):
                hidden.append(entry.name)
                continue
            name = inside + entry.name
            parts = [name, os.path.realpath(entry.path) if entry.is_symlink() else ""]
            try:
                facts = entry.stat()
            except OSError as fault:  # a link that leads nowhere, or to where this user may not look
                files.append(name)
                parts.append(reason(fault))
            else:
                if stat.S_ISDIR(facts.st_mode):
                    folders.append(name)
                    pending.append((Path(entry.path), f"{name}/", above | {place}))
                else:
                    files.append(name)
                    parts += [f"{facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns}"]
            digest.update(os.fsencode("\0".join(parts) + "\0\0"))
    return Folder(root, tuple(sorted(files)), tuple(sorted(folders)), tuple(hidden), digest.hexdigest())
