"""What a check raises."""

from __future__ import annotations


class CheckFailure(AssertionError):
    """A method breaks the contract; the message says what must hold, what was found, what to do."""


def require(holds: bool, must: str, found: str, advice: str) -> None:
    """Raise :class:`CheckFailure` unless ``holds``."""
    if not holds:
        raise CheckFailure(f"{must}; found: {found}; {advice}.")
