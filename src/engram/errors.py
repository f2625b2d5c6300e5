"""Errors that a user can act on.

Every message is one line and says what must hold, what was given, and what to do. The command line prints it
without a traceback and leaves with exit code 2.
"""

from __future__ import annotations


class EngramError(ValueError):
    """Base of every error that engram raises on purpose; also a ``ValueError``."""


class ConfigError(EngramError):
    """An option, a value, or a combination of options that cannot work."""


class DataError(EngramError):
    """Images, labels or splits that cannot be used as they are."""


class StrictnessError(EngramError):
    """A method tried to read samples that it did not declare."""


class CheckpointError(EngramError):
    """A checkpoint that is damaged, missing, or belongs to another run."""


class DivergedError(EngramError):
    """Training produced a loss or gradient that is not finite."""
