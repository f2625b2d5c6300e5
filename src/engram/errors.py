"""Errors that a user can act on.

Every message is one line and says what must hold, what was given, and what to do. The command line prints it
without a traceback and leaves with exit code 2.
"""

from __future__ import annotations

import re
from typing import Any


def printable(text: str) -> str:
    """One line that is safe on a terminal: bytes that are not UTF-8 and control characters become escapes."""
    if text.isprintable():
        return text
    text = re.sub(
        "[\udc80-\udcff]+",  # what Python makes of bytes of file names that it cannot decode
        lambda found: found[0].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"),
        text,
    )
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def all_printable(value: Any) -> Any:
    """A JSON value in which every text is :func:`printable`, keys too: of a file that anyone may have written."""
    if isinstance(value, dict):
        return {printable(key): all_printable(one) for key, one in value.items()}
    if isinstance(value, list):
        return [all_printable(one) for one in value]
    return printable(value) if isinstance(value, str) else value


def reason(fault: BaseException) -> str:
    """The first line of another library's message, without a full stop; the error's type where it has no text."""
    lines = str(fault).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(fault).__name__


class EngramError(ValueError):
    """Base of every error that engram raises on purpose; also a ``ValueError``. Its text is one printable line."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class ConfigError(EngramError):
    """An option, a value, or a combination of options that cannot work."""


class DataError(EngramError):
    """Images, labels or splits that cannot be used as they are."""


class StrictnessError(EngramError):
    """A method tried to read samples that it did not declare."""


class PrivacyError(EngramError):
    """What would be kept holds samples of a method that must keep none."""


class CheckpointError(EngramError):
    """A checkpoint that is damaged, missing, or belongs to another run."""


class PlaceError(EngramError):
    """A file or folder that the operating system refuses, or has no room for; or a limit of the process."""


class DivergedError(EngramError):
    """Training produced a loss or gradient that is not finite."""
