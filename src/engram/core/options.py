"""Options of frozen dataclasses: name, type, default and help, read from the class and its docstring.

One source for the command line, `engram list`, variants such as ``dgmw:solver=shared``, and values read from
JSON. What a value must be stands in :mod:`engram.core.values`.
"""

from __future__ import annotations

import difflib
import inspect
import re
import types
import typing
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any

from engram.errors import ConfigError

_WORDS = {int: "integer", float: "number", str: "text", bool: "true | false", type(None): "none"}


@dataclass(frozen=True)
class Option:
    """One field of a configuration: its type hint, its default, and its line of help."""

    name: str
    type: Any
    default: Any
    help: str = ""

    @property
    def kind(self) -> str:
        """The type in words, such as ``integer or none`` or ``adam | sgd``."""
        return type_words(self.type)


def options_of(config: Any, skip: Iterable[str] = ()) -> tuple[Option, ...]:
    """The options of a dataclass instance, which gives the defaults; those in ``skip`` are left out."""
    cls = type(config)
    hints = typing.get_type_hints(cls)
    helps = argument_help(cls)
    return tuple(
        Option(f.name, hints[f.name], getattr(config, f.name), helps.get(f.name, ""))
        for f in fields(cls)
        if f.name not in skip
    )


def made_of_defaults(cls: Any, what: str) -> Any:
    """An instance of a dataclass with its default options; ``ConfigError`` where that cannot be made."""
    if not (isinstance(cls, type) and is_dataclass(cls)):
        raise ConfigError(f"{what} must be a dataclass, its fields are options, got {cls!r}.")
    if any(f.init and f.default is MISSING and f.default_factory is MISSING for f in fields(cls)):
        raise ConfigError(f"{what} must have a default for every field, got one without: add it.")
    return cls()


def argument_help(cls: type) -> dict[str, str]:
    """The entries of the ``Args:`` sections of a class and of those it inherits options from, each on one line."""
    helps: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        helps |= _own_argument_help(base.__doc__ or "")
    return helps


def _own_argument_help(docstring: str) -> dict[str, str]:
    doc = inspect.cleandoc(docstring)
    found = re.search(r"^Args:\n(.*?)(?:\n\S|\Z)", doc, re.S | re.M)
    helps: dict[str, str] = {}
    if found is None:
        return helps
    names: list[str] = []
    for line in found[1].splitlines():
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


def type_words(hint: Any) -> str:
    """A type hint in words that a user reads."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(map(str, arguments))
    if is_union(hint):
        return " or ".join(map(type_words, arguments))
    if typing.get_origin(hint) in (tuple, list):
        inner = type_words(arguments[0])
        return f"list of {inner}s" if inner in ("integer", "number") else f"list of {inner}"
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


def closest(given: str, known: Iterable[str]) -> str:
    """`` (did you mean X?)`` where one of the known names is near, else nothing."""
    near = difflib.get_close_matches(given, list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""


def split_variant(text: str) -> tuple[str, dict[str, str]]:
    """``NAME:option=value,option=value`` to the name and the values as text.

    Raises:
        ConfigError: an entry has no ``=``.
    """
    name, colon, rest = text.partition(":")
    given: dict[str, str] = {}
    for item in re.split(r",\s*(?=\w+=)", rest) if colon else []:
        option, equals, value = item.partition("=")
        if not option or not equals:
            raise ConfigError(
                f"a variant must be written NAME:option=value,option=value, got {text!r}: "
                "for example dgmw:solver=shared."
            )
        given[option] = value
    return name, given
