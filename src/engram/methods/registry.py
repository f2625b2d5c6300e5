"""Methods by name. A method is one line here; its module says the rest, and is imported when the method is used."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from engram.core import sources
from engram.core.index import About, index
from engram.core.options import closest, made_of_defaults, options_of
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
        file: of a method of one's own, where it was loaded from.
    """

    make: Callable[[Any, Context], Method]
    config: Any
    summary: str
    fixed: tuple[str, ...] = ()
    small: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[tuple[str, str], str] = field(default_factory=dict)
    file: str = ""

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
    """A method to run: name, how to make it from (config, context), options, and its file if it is one's own."""

    name: str
    make: Callable[[Any, Context], Method]
    config: Any
    file: str = ""

    def describe(self) -> dict[str, Any]:
        """Name and options as JSON, with the file's checksum for a method of one's own."""
        own = {"source": sources.load(self.file).describe()} if self.file else {}
        return {"name": self.name, "options": asdict(self.config), **own}


def add_file(path: str) -> list[str]:
    """Register the methods that a Python file defines, and return their names.

    A file says what it offers with ``ENTRIES``, as our own modules do. Without them each `Method` it defines is called
    by its class name in lower case and has its default options, and each `MethodSpec` counts under its own name.

    Raises:
        ConfigError: the file cannot be loaded, holds no method, or a name is taken.
    """
    from engram.core.contract import Method  # torch: the file needs it anyway

    source = sources.load(path)
    offered = vars(source.module)
    found: dict[str, Entry] = dict(offered.get("ENTRIES", {}))
    for value in offered.values() if not found else ():
        if isinstance(value, MethodSpec):
            found[value.name] = Entry(value.make, value.config, _first_line(value.make))
        elif (
            isinstance(value, type)
            and issubclass(value, Method)
            and value.__module__ == source.module.__name__
        ):
            config = made_of_defaults(getattr(value, "Config", None), f"Config of {value.__name__} in {path}")
            found[value.__name__.lower()] = Entry(value, config, _first_line(value))
    if not found:
        raise ConfigError(
            f"a file of methods must define one, a subclass of engram's Method, {path} does not."
        )
    for name, entry in found.items():
        taken = METHODS.get(name)
        if taken is not None and (isinstance(taken, str) or taken.file != str(source.path)):
            raise ConfigError(
                f"a method of one's own must have a name of its own, got {name} in {path}: rename it."
            )
        METHODS[name] = replace(entry, file=str(source.path))
    return list(found)


def _first_line(thing: Any) -> str:
    return (thing.__doc__ or "a method of one's own").strip().splitlines()[0]


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
    return MethodSpec(name, found.make, replace(found.config, **values), found.file)
