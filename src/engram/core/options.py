"""Options of frozen dataclasses: name, type, default and help, read from the class and its docstring.

One source for the command line, `engram list`, variants such as ``dgmw:solver=shared``, and values read from
JSON. The range of a number stands beside its type; how values are read and checked, in :mod:`engram.core.values`.
"""

from __future__ import annotations

import difflib
import inspect
import re
import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

_WORDS = {int: "integer", float: "number", str: "text", bool: "true | false", type(None): "none"}


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, beside a type: ``Annotated[float, Range(0, 1)]``.

    Args:
        low: smallest value.
        high: largest value; None for no bound.
        open: the end that is itself out of range: ``low``, ``high`` or "".
    """

    low: float
    high: float | None = None
    open: Literal["low", "high", ""] = ""

    def __contains__(self, value: float) -> bool:
        at_end = value == {"low": self.low, "high": self.high}.get(self.open)
        return value >= self.low and (self.high is None or value <= self.high) and not at_end

    def __str__(self) -> str:
        if self.high is None:
            return f"{'>' if self.open == 'low' else '>='} {self.low:g}"
        return f"in [{self.low:g}, {self.high:g}{')' if self.open == 'high' else ']'}"


Count = Annotated[int, Range(1)]
CountOrZero = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0, open="low")]
NonNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
BelowOne = Annotated[float, Range(0, 1, open="high")]
Precision = Literal["float32", "tf32", "bf16"]
Compile = Literal["eager", "inductor", "cudagraphs"]  # names of PyTorch's


@dataclass(frozen=True)
class Option:
    """One field of a configuration: its type hint, its default, its line of help.

    What stands under "Further" in a docstring are departures from a paper, choices of its released code, and what few
    people set.
    """

    name: str
    type: Any
    default: Any
    help: str = ""
    further: bool = False

    @property
    def kind(self) -> str:
        """The type in words, such as ``integer or none`` or ``adam | sgd``."""
        return type_words(self.type)


def options_of(config: Any, skip: Iterable[str] = ()) -> tuple[Option, ...]:
    """The options of a dataclass instance, which gives the defaults; those in ``skip`` are left out."""
    cls = type(config)
    hints = typing.get_type_hints(cls, include_extras=True)
    helps, further = argument_help(cls), argument_help(cls, ("Further",))
    return tuple(
        Option(f.name, hints[f.name], getattr(config, f.name), helps.get(f.name, ""), f.name in further)
        for f in fields(cls)
        if f.name not in skip
    )


def argument_help(cls: type, sections: Sequence[str] = ("Args", "Further")) -> dict[str, str]:
    """The entries of these sections of a class's docstring and of those it inherits options from, each on one line."""
    helps: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        for section in sections:
            helps |= _own_argument_help(base.__doc__ or "", section)
    return helps


def _own_argument_help(docstring: str, section: str) -> dict[str, str]:
    doc = inspect.cleandoc(docstring)
    found = re.search(rf"^{section}:\n(.*?)(?:\n\S|\Z)", doc, re.S | re.M)
    helps: dict[str, str] = {}
    if found is None:
        return helps
    names: list[str] = []
    for line in filter(str.strip, found[1].splitlines()):
        head = re.match(r"    (\w+(?:, \w+)*): (.*)", line)
        if head:
            names = head[1].split(", ")
            helps |= dict.fromkeys(names, head[2].strip())
        else:
            helps |= {name: f"{helps[name]} {line.strip()}" for name in names}
    return helps


def is_union(hint: Any) -> bool:
    """Whether a type hint is a choice of types, such as ``int | None``."""
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def choices(hint: Any) -> list[Any]:
    """The types among which a value's may be, without ranges."""
    if typing.get_origin(hint) is Annotated:
        return choices(typing.get_args(hint)[0])
    return [one for each in typing.get_args(hint) for one in choices(each)] if is_union(hint) else [hint]


def type_words(hint: Any) -> str:
    """A type hint in words that a user reads."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Annotated:
        return f"{type_words(arguments[0])} {arguments[1]}"
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(map(str, arguments))
    if is_union(hint):
        return " or ".join(map(type_words, arguments))
    if typing.get_origin(hint) in (tuple, list):
        inner = type_words(arguments[0])
        return "list of " + re.sub(r"^(integer|number)", r"\1s", inner)
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def shown(value: Any) -> str:
    """A value as a user would write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return "[" + ",".join(map(shown, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def closest(given: object, known: Iterable[str]) -> str:
    """`` (did you mean X?)`` where one of the known names is near, else nothing."""
    near = difflib.get_close_matches(str(given), list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""
