"""Names of classes: by them a memory knows what it has learned."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from engram.errors import ConfigError


def folded(name: str) -> str:
    """What is left of a name where case and ways to write an accent do not count, as on some disks."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def check_names(names: Sequence[str], known: Iterable[str], *, refine: bool) -> None:
    """``ConfigError`` unless these can be names of classes beside those known, or with ``refine`` known ones.

    They must not be empty, and must differ by more than case or the way an accent is written: folders of classes that
    are copied to a disk that cannot tell would fall together.
    """
    known = list(known)
    taken = {folded(name): name for name in known}
    old = [name for name in names if name in known]
    if old and not refine:
        shown = ", ".join(old[:5]) + (" ..." if len(old) > 5 else "")
        raise ConfigError(
            f"classes must be new, known already: {shown}. Leave out what is known, or give --refine."
        )
    for name in (name for name in names if name not in old):
        if not name.strip():
            raise ConfigError(f"classes must have names, got {name!r}: name it.")
        other = taken.get(folded(name))
        if other is not None:
            raise ConfigError(
                f"names of classes must differ by more than case, got {name!r} beside {other!r}: rename one."
            )
        taken[folded(name)] = name
