"""Modules that a process keeps to its end, imported quickly."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator

__all__ = ["staying"]


@contextlib.contextmanager
def staying(module: str) -> Iterator[None]:
    """Import a module of many objects, and what comes with it, within this context; nothing where it is there already.

    Objects that stay are not searched for rubbish: that takes a tenth of the seconds of such an import, and, when a
    process ends, a third of them once more.

    Args:
        module: its name, such as ``torch``.
    """
    if module in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
