"""What code of one's own is called in results, and the checksums of its source and of the values it captures."""

from __future__ import annotations

import hashlib
import inspect
import linecache
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any


@cache  # as it was when it was first asked for: a file that changes later is not what runs
def described(thing: Any) -> dict[str, str] | None:
    """What a class, function or other object of one's own is, as JSON; None for engram's own.

    ``name`` is its qualified name. ``sha256`` is that of its ``file``, or of its own text where it has none, as in a
    notebook. ``holds`` is the sha256 of the values that it captures: what a partial binds, closure cells, defaults,
    attributes. ``sha256`` is "unknown", with a ``note``, where there is no source, or a value cannot be told.
    """
    named = thing
    while isinstance(named, partial):
        named = named.func
    if not hasattr(named, "__qualname__"):
        named = type(named)
    if thing is named and _is_named(thing, "engram"):
        return None
    found = {"name": named.__qualname__, **_code(named)}
    try:
        found["holds"] = _sha256(_told(thing, (), whole=True).encode())
    except _Untold as error:
        return {
            **found,
            "sha256": "unknown",
            "note": f"{error} cannot be compared: a change of it is not noticed",
        }
    return found


def is_unknown(sources: Any) -> bool:
    """Whether something among these, by `described`, cannot be compared with what it was before."""
    if isinstance(sources, dict):
        return sources.get("sha256") == "unknown" or any(map(is_unknown, sources.values()))
    return isinstance(sources, list) and any(map(is_unknown, sources))


def _code(named: Any) -> dict[str, str]:
    """File and checksum of a class or function."""
    file = Path(getattr(sys.modules.get(named.__module__), "__file__", None) or "")
    if file.is_file():
        return {"file": file.name, "sha256": _sha256(_content(file))}
    for part in [named, *vars(named).values()] if isinstance(named, type) else [named]:
        code = getattr(inspect.unwrap(part) if callable(part) else part, "__code__", None)
        lines = linecache.getlines(code.co_filename) if code is not None else []
        if code is None or not lines:
            continue
        heads = [i for i, line in enumerate(lines) if re.match(rf"\s*class {named.__name__}\b", line)]
        start = max((i for i in heads if i < code.co_firstlineno), default=code.co_firstlineno - 1)
        return {"sha256": _sha256("".join(inspect.getblock(lines[start:])).encode())}
    return {"sha256": "unknown", "note": "no source is to be had: a change of it is not noticed"}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


_content = cache(Path.read_bytes)  # as it was first read


class _Untold(Exception):
    """A value is none of those that can be told."""


def _is_named(thing: Any, *packages: str) -> bool:
    return str(thing.__module__).partition(".")[0] in packages


def _told(value: Any, inside: tuple[int, ...], *, whole: bool = False) -> str:
    """A value in text that is the same in every process; ``inside`` are the objects that it is part of.

    ``whole``: a class or function is told although it is a library's.
    """
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return f"{type(value).__qualname__} {value!r}"
    if id(value) in inside:
        return f"part {inside.index(id(value))}"
    inside = (*inside, id(value))

    def told(*parts: Any) -> str:
        return f"[{', '.join(_told(part, inside) for part in parts)}]"

    if isinstance(value, dict):
        return type(value).__qualname__ + str(sorted(told(k, v) for k, v in value.items()))
    if type(value) in (list, tuple):
        return type(value).__qualname__ + told(*value)
    if type(value) in (set, frozenset):
        return str(sorted(map(told, value)))
    if isinstance(value, partial):
        return "partial" + told(value.func, value.args, value.keywords)
    if isinstance(value, (staticmethod, classmethod, MethodType)):
        return "method" + told(type(value), value.__func__, getattr(value, "__self__", None))
    if isinstance(value, property):
        return "property" + told(value.fget, value.fset)
    if hasattr(value, "tolist") and hasattr(
        value, "dtype"
    ):  # an array or tensor; one on "meta" has a shape alone
        numbers = None if getattr(value, "is_meta", False) else value.tolist()
        return f"{value.dtype} {tuple(value.shape)} {numbers}"
    if isinstance(value, (type, FunctionType)):
        return f"{value.__qualname__} " + _told_code(value, told, whole)
    if isinstance(value, (BuiltinFunctionType, ModuleType)):
        return f"{getattr(value, '__module__', '')} {value.__name__}"
    try:
        made = value.__reduce_ex__(4)  # what a copy of it is made of
    except Exception as error:
        raise _Untold(f"a value of type {type(value).__name__}") from error
    if isinstance(made, str):
        return f"{type(value).__qualname__} {made}"
    return type(value).__qualname__ + told(
        type(value), *(list(p) if isinstance(p, Iterator) else p for p in made)
    )


def _told_code(value: Any, told: Callable[..., str], whole: bool) -> str:
    """The text of a class or function, and what it holds; a library's is known by its name."""
    if not whole and _is_named(value, "engram", "torch", "numpy", "torchvision", *sys.stdlib_module_names):
        return str(value.__module__)
    code = _code(value)["sha256"]
    if isinstance(value, type):
        held = {
            k: v
            for k, v in vars(value).items()
            if isinstance(v, FunctionType) or not k.startswith(("__", "_abc_"))
        }
        own = [base for base in value.__bases__ if base.__module__ == value.__module__]
        return code + told(held, own)
    if code == "unknown":  # a dataclass makes such functions
        of = value.__code__
        code = f"{of.co_code.hex()} {of.co_names} {[c for c in of.co_consts if not isinstance(c, CodeType)]}"
    try:
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
    except ValueError as error:
        raise _Untold(f"an empty closure of {value.__qualname__}") from error
    return code + told(cells, value.__defaults__, value.__kwdefaults__)
