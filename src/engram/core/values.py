"""Values of options: from text or JSON to the option's type, and checks of ranges; one sentence for every bad value."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Literal

from engram.core.options import Option, closest, is_union, type_words
from engram.errors import ConfigError


def typed(option: Option, given: Any, name: str = "") -> Any:
    """The value of an option from text, as on the command line, or from JSON or YAML.

    Args:
        option: says what the value must be.
        given: text such as ``"3"``, ``"none"`` or ``"[1, 2]"``; or a value, lists standing for tuples.
        name: of the option in the error; its own by default.

    Raises:
        ConfigError: the value is not of the option's type, or a number is not finite.
    """
    try:
        return _read(option.type, given)
    except ValueError:
        near = closest(given, option.kind.split(" | ")) if isinstance(given, str) else ""
        raise ConfigError(
            f"{name or option.name} must be {sentence(option.type)}, got {given!r}{near}: give such a value."
        ) from None


def typed_all(owner: str, options: Iterable[Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of several options of a method or network by name, as `typed`.

    Raises:
        ConfigError: an option that ``owner`` does not have, or a value of another type.
    """
    known = {o.name: o for o in options}
    for name in given:
        if name not in known:
            raise ConfigError(
                f"options of {owner} must be among {', '.join(sorted(known))}, got {name!r}{closest(name, known)}: "
                "see engram list."
            )
    return {name: typed(known[name], value, f"{owner}.{name}") for name, value in given.items()}


def _read(hint: Any, given: Any) -> Any:
    """The value of type ``hint`` that ``given`` stands for; ``ValueError`` if it stands for none."""
    arguments = typing.get_args(hint)
    if is_union(hint):
        # "none" is a word where text is allowed; text comes last, since it takes everything.
        if type(None) in arguments and (
            given in (None, "null") or (given == "none" and str not in arguments)
        ):
            return None
        for one in sorted(arguments, key=lambda h: h is str):
            try:
                return _read(one, given)
            except ValueError:
                continue
        raise ValueError
    if typing.get_origin(hint) is Literal:
        for value in arguments:
            if (given == value and type(given) is type(value)) or given == str(value):
                return value
        raise ValueError
    if typing.get_origin(hint) in (tuple, list):
        return _read_list(hint, arguments, given)
    if hint is bool and isinstance(given, str) and given.lower() in ("true", "false"):
        return given.lower() == "true"
    if hint in (int, float):
        if isinstance(given, (str, int, hint)) and not isinstance(given, bool):
            value = hint(given)
            if math.isfinite(value):
                return value
    elif hint is Any or not isinstance(hint, type) or isinstance(given, hint):
        return given
    raise ValueError


def _read_list(hint: Any, arguments: tuple[Any, ...], given: Any) -> Any:
    if isinstance(given, str):
        inside = re.fullmatch(r"[\[(](.*?),?[\])]", given.strip())
        if inside is None:
            raise ValueError
        given = [part.strip() for part in inside[1].split(",")] if inside[1].strip() else []
    if not isinstance(given, (list, tuple)):
        raise ValueError
    each = arguments[:1] * len(given) if len(arguments) == 1 or arguments[1] is ... else arguments
    return typing.get_origin(hint)(_read(h, g) for h, g in zip(each, given, strict=True))


def sentence(hint: Any) -> str:
    """The words of a type with an article: ``an integer or none``."""
    words = type_words(hint)
    return re.sub(r"\b(integer|number|list)\b", lambda m: f"{'an' if m[1][0] == 'i' else 'a'} {m[1]}", words)


@cache
def _hints(config: type) -> dict[str, Any]:
    return typing.get_type_hints(config)


def check_types(config: Any) -> None:
    """Each field of a dataclass must have a value that its annotation allows; numbers must be finite."""
    hints = _hints(type(config))  # type: ignore[arg-type]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if typed(Option(field.name, hints[field.name], None), value) != value:  # it was text
            raise ConfigError(
                f"{field.name} must be {sentence(hints[field.name])}, got {value!r}: give such a value."
            )


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
