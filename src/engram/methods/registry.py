"""Methods by name. A method is one line here; its module says the rest, and is imported when the method is used."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from engram.core.index import About, index
from engram.core.options import closest, options_of
from engram.core.values import typed_all
from engram.errors import ConfigError

if TYPE_CHECKING:
    from engram.core.contract import Context, Method


@dataclass(frozen=True)
class Entry:
    """What a method's module says of it.

    Args:
        make: the class, or another way to make the method from (config, context).
        config: the default options under this name.
        summary: one line.
        fixed: options that the name fixes.
        small: by variant, options with which a run takes a blink and which leave no default that decides what is
            computed, written as in ``NAME:option=value``; later ones win. The contract suite runs them all.
        skipped: by variant ("" is all) and check of the contract suite, why the method need not pass it.
    """

    make: Callable[[Any, Context], Method]
    config: Any
    summary: str
    fixed: tuple[str, ...] = ()
    small: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def about(self) -> About:
        """The entry in words."""
        tradeoff = getattr(self.make, "tradeoff", None)
        return About(
            self.summary,
            options_of(self.config, skip=self.fixed),
            tuple(sorted(getattr(self.make, "scenarios", ()))),
            str(getattr(self.make, "reads", "task")),
            tradeoff.option if tradeoff is not None else None,
        )


#: By name, the module whose ``ENTRIES`` hold the method; or the entry itself, of a method of one's own.
METHODS: dict[str, str | Entry] = {
    "dgmw": "engram.methods.dgm",
    "dgma": "engram.methods.dgm",
    "finetune": "engram.methods.finetune",
    "joint": "engram.methods.joint",
    "scratch": "engram.methods.scratch",
    "si": "engram.methods.si",
    "ewc": "engram.methods.ewc",
    "ewc-online": "engram.methods.ewc_online",
    "rwalk": "engram.methods.rwalk",
    "mas": "engram.methods.mas",
    "lwf": "engram.methods.lwf",
    "rescl": "engram.methods.rescl",
    "l2sp": "engram.methods.l2sp",
    "imm-mean": "engram.methods.imm",
    "imm-mode": "engram.methods.imm",
    "averaging": "engram.methods.imm",
    "frozen": "engram.methods.frozen",
    "hat": "engram.methods.hat",
}


@dataclass(frozen=True)
class MethodSpec:
    """A method to run: its name, how to make it from (config, context), and its options."""

    name: str
    make: Callable[[Any, Context], Method]
    config: Any

    def describe(self) -> dict[str, Any]:
        """Name and options as JSON."""
        return {"name": self.name, "options": asdict(self.config)}


def check_name(name: str) -> None:
    """``ConfigError`` with the known names unless there is a method of this name."""
    if name not in METHODS:
        raise ConfigError(
            f"method must be one of {', '.join(sorted(METHODS))}, got {name!r}{closest(name, METHODS)}: "
            "see engram list."
        )


def entry(name: str) -> Entry:
    """The entry registered under ``name``; its module is imported. ``ConfigError`` as `check_name`."""
    check_name(name)
    found = METHODS[name]
    if isinstance(found, Entry):
        return found
    entries: dict[str, Entry] = importlib.import_module(found).ENTRIES
    return entries[name]


def about(name: str) -> About:
    """The method in words, without importing its module; ``ConfigError`` as `check_name`."""
    check_name(name)
    found = METHODS[name]
    return found.about() if isinstance(found, Entry) else index("methods")[name]


def method(name: str, options: Mapping[str, Any] | None = None, **more: Any) -> MethodSpec:
    """A registered method with some options changed.

    Args:
        name: of the method, see `METHODS`.
        options, more: values by option; text and JSON are turned to the option's type.

    Raises:
        ConfigError: unknown method, unknown option, or a value out of range.
    """
    found = entry(name)
    values = typed_all(name, options_of(found.config, skip=found.fixed), {**(options or {}), **more})
    return MethodSpec(name, found.make, replace(found.config, **values))
