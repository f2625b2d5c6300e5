"""Checks of option values: one sentence for every bad value."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from functools import cache
from typing import Any, Literal

from engram.errors import ConfigError


@cache
def _hints(config: type) -> dict[str, Any]:
    return typing.get_type_hints(config)


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, h) for h in typing.get_args(hint))
    if origin is Literal:
        return any(type(value) is type(a) and value == a for a in typing.get_args(hint))
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint) if hint in (bool, str) else True


def _words(hint: Any) -> str:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_words(h) for h in typing.get_args(hint))
    if origin is Literal:
        return f"one of {', '.join(map(str, typing.get_args(hint)))}"
    known = {
        float: "a finite number",
        int: "a whole number",
        bool: "true or false",
        str: "text",
        type(None): "none",
    }
    return known.get(hint, str(hint))


def check_types(config: Any) -> None:
    """Each field of a dataclass must have a value that its annotation allows; numbers must be finite."""
    hints = _hints(type(config))  # type: ignore[arg-type]
    for field in dataclasses.fields(config):
        value, hint = getattr(config, field.name), hints[field.name]
        if not _fits(value, hint):
            raise ConfigError(f"{field.name} must be {_words(hint)}, got {value!r}: give such a value.")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def check_positive(config: Any, *names: str) -> None:
    """Each named field must be a finite number > 0, or None where :func:`check_types` allows it."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not (_is_number(value) and value > 0):
            raise ConfigError(f"{name} must be a number > 0, got {value!r}: give a positive number.")


def check_at_least(config: Any, bound: float, *names: str) -> None:
    """Each named field must be a finite number >= ``bound``, or None where :func:`check_types` allows it."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not (_is_number(value) and value >= bound):
            raise ConfigError(f"{name} must be a number >= {bound:g}, got {value!r}: give such a number.")


def check_fraction(config: Any, *names: str, below_one: bool = False) -> None:
    """Each named field must be a number in [0, 1], or in [0, 1) with ``below_one``."""
    end = ")" if below_one else "]"
    for name in names:
        value = getattr(config, name)
        if not (_is_number(value) and 0 <= value <= 1) or (below_one and value == 1):
            raise ConfigError(f"{name} must be a number in [0, 1{end}, got {value!r}: give a fraction.")
