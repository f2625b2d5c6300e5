"""Files: written so that readers see the old one or the whole new one, checksummed, and folders held by one process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import socket
import stat
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from engram.errors import ConfigError, EngramError, PlaceError, printable, reason

LOCK = ".lock"
LONGEST_NAME = 100
DEEPEST = 64  # levels of a JSON file of ours
LARGEST_NUMBER = 1e300  # in one, so that sums and differences of them are finite
LEFT_OR_FULL = (errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EBADF)
FULL = (errno.ENOSPC, errno.EDQUOT)
# What Python says of names that cannot be, and torch of memory that is not there.
NO_NAME = ("embedded null", "has an empty name", "Could not determine home", "bytes or os.PathLike object")
NO_MEMORY = (
    "DefaultCPUAllocator: can't allocate",
    "Storage size calculation overflowed",
    "CUDA out of memory",
)


@contextlib.contextmanager
def os_errors(path: Path | None = None) -> Iterator[None]:
    """What the operating system refuses is a ``PlaceError`` that names the file, else ``path``; memory too.

    An error that names neither is of the process (it has too many open files, say); but one of writing passes, since
    then it is of standard output.
    """
    try:
        yield
    except (TypeError, ValueError, RuntimeError, MemoryError) as error:
        if isinstance(error, EngramError):
            raise
        if isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY):
            raise PlaceError(
                f"there must be memory for what is asked for, there is not ({reason(error)}): give less at a time, "
                "smaller images or a smaller network."
            ) from error
        if any(words in str(error) for words in NO_NAME):
            raise PlaceError(
                f"names of files must be usable, one is not ({reason(error)}): correct it."
            ) from error
        raise
    except OSError as error:
        name = error.filename if error.filename2 is None else error.filename2
        where = path if name is None else os.fsdecode(name)
        why = error.strerror or reason(error)
        if where is None and error.errno in LEFT_OR_FULL:
            raise
        if where is None:
            raise PlaceError(
                f"the system must grant what a run needs, it does not ({why}): give fewer --jobs, or raise its limits "
                "(ulimit -a shows them)."
            ) from error
        what = "make room" if error.errno in FULL else "mend that, or give another one"
        raise PlaceError(f"{where} must be a place that can be used, it is not ({why}): {what}.") from error


def open_own(path: Path, flags: int) -> int:
    """Open a file of ours, made if need be, never behind a link: the handle; flags as for `os.open`.

    Raises:
        PlaceError: it cannot be opened, or it is a link, a pipe or a device.
    """
    with os_errors(path):
        handle = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        if stat.S_ISREG(os.fstat(handle).st_mode):
            return handle
        os.close(handle)
    raise PlaceError(f"{path} must be a file that engram wrote, it is a pipe or a device: remove it.")


def read_regular(path: Path) -> bytes:
    """The content of a regular file; ``OSError`` where it cannot be read or is none: a pipe would keep us waiting."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "no regular file", str(path))
        return file.read()


def write_atomically(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Write ``content`` to ``path`` so that readers see the old file or the whole new one; ``sync`` awaits the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(open_own(temporary, os.O_WRONLY | os.O_TRUNC), "wb") as file:
                file.write(content)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)  # half of it would take what room there is
            raise
        if sync:
            sync_folder(path.parent)


def cell(text: str) -> str:
    """Text for a CSV file, which a spreadsheet takes for text: an apostrophe stands before what would be a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def sync_folder(folder: Path) -> None:
    """Await the names in a folder: a file that was moved into place may else be gone after a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems cannot
            os.fsync(handle)
    finally:
        os.close(handle)


def drop_leftovers(folder: Path) -> None:
    """Remove what :func:`write_atomically` left in a folder when its process was killed."""
    for path in folder.glob(".*.tmp"):
        found = re.fullmatch(r"\..+\.(\d+)\.tmp", path.name)
        if found and (int(found[1]) == os.getpid() or not _alive(int(found[1]))):
            path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def shortened(name: str, full: str) -> str:
    """A name that file systems take: a long one is cut, and ends in a checksum of ``full``, what it stands for."""
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME - 11]}-{digest(full.encode('utf-8', 'surrogateescape'))[:10]}"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def checksum(value: Mapping[str, Any]) -> str:
    """A JSON value in one word."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def with_checksum(value: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with the checksum of its content, which finds accidents and not forgery, as its first entry."""
    return {"sha256": checksum(value), **value}


def parsed(content: bytes) -> Any:
    """The value of a JSON file of ours: at most 64 levels deep, of numbers that a float can hold.

    Raises:
        ValueError: it is something else.
    """
    try:
        value = json.loads(content.decode())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    layer = [value]
    for _ in range(DEEPEST):
        if any(isinstance(v, (int, float)) and not -LARGEST_NUMBER <= v <= LARGEST_NUMBER for v in layer):
            raise ValueError("a number in it is not finite")
        layer = [
            v
            for held in layer
            if isinstance(held, (dict, list))
            for v in (held.values() if isinstance(held, dict) else held)
        ]
        if not layer:
            return value
    raise ValueError("it is nested too deeply")


def sealed(body: str) -> bytes:
    """The text of a JSON object with the checksum of that text as its first entry."""
    return f'{{"sha256": "{digest(body.encode())}", {body[1:]}'.encode()


def unsealed(content: bytes) -> dict[str, Any] | None:
    """The object that :func:`sealed` wrote, or None when it is damaged; ``ValueError`` as `parsed`."""
    start = len(sealed("{}")) - 1
    if content != sealed("{" + content[start:].decode(errors="replace")):
        return None
    meta: dict[str, Any] = parsed(content)
    return meta


@contextlib.contextmanager
def in_use(root: Path, otherwise: str = "wait for it, or give another --out") -> Iterator[int]:
    """Hold the folder for this process. The lock is inherited by workers, so it lasts as long as any of them.

    It is the system's and ends with its holders, killed or not; who holds it, and since when, stands in its file.

    Raises:
        EngramError: another process holds it, or it cannot be written; ``otherwise`` says what to do.
    """
    with os_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        handle = open_own(root / LOCK, os.O_RDWR)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"{root} must not be in use, another engram process works in it{_holder(handle)}: {otherwise}."
            ) from error
        since = datetime.now(timezone.utc).isoformat(timespec="seconds")
        owner = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since})
        with os_errors(root / LOCK):
            os.ftruncate(handle, 0)
            os.pwrite(handle, owner.encode(), 0)
        yield handle
    finally:
        os.close(handle)


def _holder(handle: int) -> str:
    """Who holds a lock, in words; nothing where its file does not say."""
    try:
        owner = json.loads(os.pread(handle, 1000, 0))
        return (
            f" (process {int(owner['pid'])} on {printable(owner['host'])} since {printable(owner['since'])})"
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # it is being written
        return ""
