"""A method's file and its options: documented, with defaults, and checked."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import sys
import types
import typing
from typing import Any

from engram.checks.bench import Bench, check
from engram.checks.failure import CheckFailure, require
from engram.core.contract import Method
from engram.errors import ConfigError
from engram.methods import registry


@check
def docstring_names_source_departures_cost(bench: Bench) -> None:
    """The module's docstring names the paper (or source), its departures and its cost."""
    module = sys.modules[type(bench.build()).__module__]
    text = inspect.getdoc(module) or ""
    missing = [
        what
        for what, pattern in (
            ("a source with its year", r"\b(19|20)\d\d\b"),
            ("'Departures'", r"\bDepartures\b"),
            ("'Cost'", r"\bCost\b"),
        )
        if not re.search(pattern, text)
    ]
    require(
        not missing,
        f"the docstring of {module.__name__} names its paper or source, its departures and its cost",
        f"no {', no '.join(missing)}",
        "add a line for each, 'none' where there is none",
    )


@check
def builds_from_defaults(bench: Bench) -> None:
    """The options have defaults, and a method can be built from them and from the tested ones."""
    try:
        default = type(bench.spec.config)()
    except TypeError as error:
        raise CheckFailure(
            f"every option has a default; found: {error}; give {type(bench.spec.config).__name__} defaults."
        ) from error
    configs = [default, bench.spec.config]
    if bench.spec.name in registry.METHODS:
        configs.append(registry.entry(bench.spec.name).config)
    for config in configs:
        try:
            made = bench.build(config)
        except ConfigError as error:
            raise CheckFailure(
                f"a method can be built from its default options; found: {error} change the defaults."
            ) from error
        require(
            isinstance(made, Method),
            "the factory makes a Method",
            type(made).__name__,
            "derive from engram.core.contract.Method",
        )


def _numeric(hint: Any) -> bool:
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return any(o in (int, float) for o in options)


@check
def bad_values_give_one_line(bench: Bench) -> None:
    """Negative and not-a-number values are refused by a one-line ConfigError that names the option."""
    config = bench.spec.config
    hints = typing.get_type_hints(type(config))
    for name in (f.name for f in dataclasses.fields(config)):
        if not _numeric(hints[name]):
            continue
        bad: list[float] = [math.nan]
        if name not in bench.allow_negative:
            bad.append(-1)
        for value in bad:
            must = f"option {name} = {value!r} is refused with a one-line ConfigError that names it"
            try:
                bench.build(dataclasses.replace(config, **{name: value}))
            except ConfigError as error:
                text = str(error)
                require(
                    "\n" not in text and name in text,
                    must,
                    repr(text),
                    "say what must hold, what was given, what to do",
                )
            except Exception as error:
                raise CheckFailure(
                    f"{must}; found: {type(error).__name__}: {error}; check it with engram.core.values."
                ) from error
            else:
                raise CheckFailure(f"{must}; found: it was accepted; check it with engram.core.values.")
