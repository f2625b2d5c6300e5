"""What code of one's own is called in results, and the checksum of its source."""

from __future__ import annotations

import hashlib
import inspect
import linecache
import re
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any


@cache  # as it was when it was first asked for: a file that changes later is not what runs
def described(thing: Any) -> dict[str, str] | None:
    """What a class or function of one's own is, as JSON; None for engram's own.

    ``name`` is its qualified name. ``sha256`` is that of its ``file``, or of its own text where it has none, as in a
    notebook; "unknown", with a ``note``, where no source is to be had.
    """
    if isinstance(thing, partial):
        return described(thing.func)
    if not hasattr(thing, "__qualname__"):
        return described(type(thing))  # type: ignore[arg-type]
    if thing.__module__.partition(".")[0] == "engram":
        return None
    file = Path(getattr(sys.modules.get(thing.__module__), "__file__", None) or "")
    if file.is_file():
        return {
            "name": thing.__qualname__,
            "file": file.name,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
    for part in [thing, *vars(thing).values()] if isinstance(thing, type) else [thing]:
        code = getattr(inspect.unwrap(part) if callable(part) else part, "__code__", None)
        lines = linecache.getlines(code.co_filename) if code is not None else []
        if code is None or not lines:
            continue
        heads = [i for i, line in enumerate(lines) if re.match(rf"\s*class {thing.__name__}\b", line)]
        start = max((i for i in heads if i < code.co_firstlineno), default=code.co_firstlineno - 1)
        text = "".join(inspect.getblock(lines[start:]))
        return {"name": thing.__qualname__, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    return {
        "name": thing.__qualname__,
        "sha256": "unknown",
        "note": "no source is to be had: a change of it is not noticed",
    }
