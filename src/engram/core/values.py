"""Values of options: from text or JSON to the option's type, within its range; one sentence for every bad value."""

from __future__ import annotations

import math
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal

from engram.core.options import Option, closest, is_union, type_words
from engram.errors import ConfigError

#: Of an option's size: single precision, in which all is computed, holds it and what optimisers make of it.
LARGEST = 1e30


def typed(option: Option, given: Any, name: str = "") -> Any:
    """The value of an option from text, as on the command line, or from JSON or YAML.

    Args:
        option: says what the value must be.
        given: text such as ``"3"``, ``"none"`` or ``"[1, 2]"``; or a value, lists standing for tuples.
        name: of the option in the error; its own by default.

    Raises:
        ConfigError: the value is not of the option's type or out of its range, or a number is not finite or larger
            than `LARGEST`.
    """
    try:
        return _read(option.type, given)
    except OverflowError:
        raise ConfigError(
            f"{name or option.name} must lie within -{LARGEST:g} and {LARGEST:g}, got {given!r}: give a number of "
            "smaller size."
        ) from None
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
    """The value of type ``hint`` that ``given`` stands for.

    Raises:
        ValueError: it stands for none.
        OverflowError: for a number beyond `LARGEST`.
    """
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Annotated:
        value = _read(arguments[0], given)
        if value not in arguments[1]:
            raise ValueError
        return value
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
            try:
                value = hint(given)
            except OverflowError:  # a whole number that no float holds
                raise ValueError from None
            if hint is float and LARGEST < abs(value) < math.inf:
                raise OverflowError
            if abs(value) < 2**63 if hint is int else math.isfinite(value):
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


class Checked:
    """A base of dataclasses whose fields are options: their values are checked when one is made; ``ConfigError``."""

    def __post_init__(self) -> None:
        check(self)


@cache
def _hints(config: type) -> dict[str, Any]:
    return typing.get_type_hints(config, include_extras=True)


def check(config: Any) -> None:
    """Each field of a dataclass must have a value that its annotation allows, its range too; numbers must be finite.

    A list stands for a tuple, which the field holds from then on.
    """
    hints = _hints(type(config))  # type: ignore[arg-type]
    for field in fields(config):
        value = getattr(config, field.name)
        found = typed(Option(field.name, hints[field.name], None), value)
        if isinstance(value, list) and found == tuple(value):
            object.__setattr__(config, field.name, found)
        elif found != value:  # it was text
            raise ConfigError(
                f"{field.name} must be {sentence(hints[field.name])}, got {value!r}: give such a value."
            )


def made_of_defaults(cls: Any, what: str) -> Any:
    """An instance of a dataclass with its default options; ``ConfigError`` where that cannot be made."""
    if not (isinstance(cls, type) and is_dataclass(cls)):
        raise ConfigError(f"{what} must be a dataclass, its fields are options, got {cls!r}.")
    if any(f.init and f.default is MISSING and f.default_factory is MISSING for f in fields(cls)):
        raise ConfigError(f"{what} must have a default for every field, got one without: add it.")
    return cls()


def split_variant(text: str) -> tuple[str, dict[str, str]]:
    """``NAME:option=value,option=value`` to the name and the values as text; commas in brackets separate nothing.

    Raises:
        ConfigError: an entry has no ``=``.
    """
    name, colon, rest = text.partition(":")
    given: dict[str, str] = {}
    for item in re.split(r",\s*(?=\w+=)(?![^\[]*\])", rest) if colon else []:
        option, equals, value = item.partition("=")
        if not option or not equals:
            raise ConfigError(
                f"a variant must be written NAME:option=value,option=value, got {text!r}: "
                "for example dgmw:solver=shared."
            )
        given[option] = value
    return name, given
