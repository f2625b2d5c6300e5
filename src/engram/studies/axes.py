"""What a sweep varies: ``NAME=v1,v2,...`` or ``NAME=low..high[:log|:int]``, checked against the method's options."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engram.core.options import Option, choices, closest
from engram.core.values import typed
from engram.errors import ConfigError
from engram.methods.registry import about
from engram.studies.settings import plain

__all__ = ["Axis", "axes_of", "grid", "not_both", "parse_over", "shown", "trial_name"]

MOST = 1000  # trials of a grid; more is taken for a slip
EXAMPLE = "give for example --over c=0.01,0.1,1 or, with --engine optuna, --over c=0.001..10:log"


@dataclass(frozen=True)
class Axis:
    """One parameter of a sweep.

    Args:
        name: an option of the method.
        values: the values to try; empty for a range.
        low, high: ends of a range, both included.
        log: drawn evenly in the logarithm.
        whole: drawn among whole numbers.
    """

    name: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    def describe(self) -> dict[str, Any]:
        """As JSON."""
        if self.values:
            return {"values": plain(self.values)}
        return {"low": self.low, "high": self.high, "log": self.log, "whole": self.whole}


def parse_over(method: str, texts: Sequence[str]) -> list[Axis]:
    """The axes that ``--over`` asks for.

    Raises:
        ConfigError: not ``NAME=...``, an unknown option, a value of another type, or as `axes_of`.
    """
    over: dict[str, Any] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        name = name.strip().removeprefix(f"{method}.")
        if not name or not equals or not rest.strip():
            raise ConfigError(
                f"over must be written NAME=v1,v2,... or NAME=low..high, got {text!r}: {EXAMPLE}."
            )
        if name in over:
            raise ConfigError(f"over must name every parameter once, got {name!r} twice: leave one out.")
        _known(method, name)
        over[name] = rest.strip() if _is_range(rest) else _split(rest)
    return axes_of(method, over)


def axes_of(method: str, over: Mapping[str, Any]) -> list[Axis]:
    """Axes from values: a sequence of values (as such or as text), or a range as text.

    Raises:
        ConfigError: nothing to vary, an unknown option, a value of another type, a value twice, an empty range.
    """
    if not isinstance(over, Mapping):
        raise ConfigError(
            f"over must map parameters to values, got {over!r}: give for example {{'c': [0.1, 1.0]}}."
        )
    if not over:
        raise ConfigError(f"over must name at least one parameter, got none: {EXAMPLE}.")
    return [_axis(method, _known(method, name), given) for name, given in over.items()]


def not_both(name: str) -> ConfigError:
    """The error of an option that is swept and given a value."""
    return ConfigError(
        f"an option must be swept or given a value, got {name} as both: leave one out, or add the value to the sweep."
    )


def _known(method: str, name: str) -> Option:
    known = {o.name: o for o in about(method).options}
    if name not in known:
        raise ConfigError(
            f"parameters of a sweep must be options of {method}, got {name!r}{closest(name, known)}: "
            f"see engram list {method}."
        )
    return known[name]


def _axis(method: str, option: Option, given: Any) -> Axis:
    if isinstance(given, str):
        if _is_range(given):
            return _range(method, option, given)
        given = _split(given)
    if not isinstance(given, Iterable):
        raise ConfigError(
            f"over must give {option.name} a list of values or a range, got {given!r}: {EXAMPLE}."
        )
    values = [typed(option, v, f"{method}.{option.name}") for v in given]
    if not values:
        raise ConfigError(f"over must give {option.name} at least one value, got none: {EXAMPLE}.")
    for i, value in enumerate(values):
        if value in values[:i] and type(value) is type(values[values.index(value)]):
            raise ConfigError(
                f"values of {option.name} must differ, got {shown(value)} twice: leave one out."
            )
    return Axis(option.name, tuple(values))


def _is_range(text: str) -> bool:
    return ".." in text and "," not in text


def _split(text: str) -> list[str]:
    """Values between commas that stand in no bracket."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[({") - (character in "])}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    if any(not part.strip() for part in parts):
        raise ConfigError(f"over must give a value between commas, got {text!r}: {EXAMPLE}.")
    return [part.strip() for part in parts]


def _range(method: str, option: Option, text: str) -> Axis:
    head, *marks = text.split(":")
    low_text, _, high_text = (part.strip() for part in head.partition(".."))
    if not low_text or not high_text:
        raise ConfigError(f"a range must have two ends, low..high, got {text!r}: {EXAMPLE}.")
    kinds = choices(option.type)
    if int not in kinds and float not in kinds:
        raise ConfigError(f"a range needs a number, {option.name} is {option.kind}: list values with commas.")
    for mark in marks:
        if mark not in ("log", "int"):
            raise ConfigError(
                f"a range may end in :log or :int, got {text!r}{closest(mark, ['log', 'int'])}: {EXAMPLE}."
            )
    low, high = (typed(option, end, f"{method}.{option.name}") for end in (low_text, high_text))
    whole = "int" in marks or float not in kinds
    for end in (low, high):
        if isinstance(end, bool) or not isinstance(end, (int, float)) or not math.isfinite(end):
            raise ConfigError(f"the ends of a range must be finite numbers, got {text!r}: {EXAMPLE}.")
    if whole and (low != int(low) or high != int(high)):
        raise ConfigError(
            f"the ends of a range of whole numbers must be whole, got {text!r}: leave :int out."
        )
    if not low < high:
        raise ConfigError(f"a range must hold more than one value, low below high, got {text!r}: {EXAMPLE}.")
    if "log" in marks and low <= 0:
        raise ConfigError(f"a range on a log scale must start above 0, got {text!r}: leave :log out.")
    return Axis(option.name, (), low, high, "log" in marks, whole)


def grid(axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """The product of all values, the last parameter fastest.

    Raises:
        ConfigError: a range among them, or more trials than anybody means.
    """
    for axis in axes:
        if not axis.values:
            raise ConfigError(
                f"a grid needs values, got a range for {axis.name}: list values with commas, or give --engine optuna."
            )
    n = math.prod(len(axis.values) for axis in axes)
    if n > MOST:
        raise ConfigError(
            f"a grid must have at most {MOST} trials, got {n}: use --engine optuna, or fewer values."
        )
    names = [axis.name for axis in axes]
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*(a.values for a in axes))]


def shown(value: Any) -> str:
    """A value as it is written on the command line; the same value always gives the same text."""
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(shown(v) for v in value) + "]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e6:
        return str(int(value))
    return repr(value) if isinstance(value, float) else str(value)


def trial_name(options: Mapping[str, Any]) -> str:
    """``c=0.1`` or ``c=0.1,xi=0.001``: what a trial is called."""
    return ",".join(f"{k}={shown(v)}" for k, v in options.items())
