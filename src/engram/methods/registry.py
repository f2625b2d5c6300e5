"""Methods by name. A method is one line here; its module says the rest, and is imported when the method is used."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from typing import TYPE_CHECKING, Any

from engram.core import sources
from engram.core.index import About, index
from engram.core.options import closest, options_of
from engram.core.origin import described
from engram.core.values import made_of_defaults, split_variant, typed_all
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
            refines=bool(getattr(self.make, "refines", False)),
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
    "ncm": "engram.methods.ncm",
    "slda": "engram.methods.slda",
    "ridge": "engram.methods.ridge",
    "fecam": "engram.methods.fecam",
    "fetril": "engram.methods.fetril",
    "packnet": "engram.methods.packnet",
    "piggyback": "engram.methods.piggyback",
    "pnn": "engram.methods.pnn",
    "er": "engram.methods.er",
    "der++": "engram.methods.der",
    "icarl": "engram.methods.icarl",
    "mergan-jtr": "engram.methods.mergan",
    "mergan-ra": "engram.methods.mergan",
    "ewc-gan": "engram.methods.ewc_gan",
    "vcl": "engram.methods.vcl",
    "dgr": "engram.methods.dgr",
    "pc": "engram.methods.pc",
    "den": "engram.methods.den",
    "fearnet": "engram.methods.fearnet",
    "dgdmn": "engram.methods.dgdmn",
}


@dataclass(frozen=True)
class MethodSpec:
    """A method to run: name, how to make it from (config, context), options, and its file if it is one's own."""

    name: str
    make: Callable[[Any, Context], Method]
    config: Any
    file: str = ""

    def describe(self) -> dict[str, Any]:
        """Name and options as JSON."""
        return {"name": self.name, "options": asdict(self.config)}

    def entry(self) -> Entry:
        """The method under its name, with these options as defaults."""
        summary = (self.make.__doc__ or "a method of one's own").strip().splitlines()[0]
        return Entry(self.make, self.config, summary, file=self.file)


def spec_of(given: MethodSpec | type[Method] | str, where: str = "") -> MethodSpec:
    """A method by name, ``NAME:option=value,...``, or class, which has its default options; ``ConfigError``."""
    if isinstance(given, str):
        return method(*split_variant(given))
    if isinstance(given, MethodSpec):
        return given
    if not isinstance(given, type):
        raise ConfigError(f"a method must be a name, engram.method(...) or a class, got {given!r}.")
    config = made_of_defaults(getattr(given, "Config", None), f"Config of {given.__qualname__}{where}")
    return MethodSpec(given.__name__.lower(), given, config)


def register(name: str, own: Entry) -> None:
    """Know a method of one's own by its name, instead of an earlier one of its file, or of none.

    Raises:
        ConfigError: the name is taken.
    """
    taken = METHODS.get(name)
    if taken is not None and (isinstance(taken, str) or taken.file != own.file):
        where = f" in {own.file}" if own.file else ""
        raise ConfigError(f"a method of one's own must have a name of its own, got {name}{where}: rename it.")
    METHODS[name] = own


def registered(given: MethodSpec | type[Method]) -> MethodSpec:
    """A spec, or a class with its default options, whose name this process knows from now on; errors as `register`."""
    spec = spec_of(given)
    if not spec.file and (described(spec.make) is not None or spec.name not in METHODS):
        register(spec.name, spec.entry())
    return spec


def own_sources() -> dict[str, Any]:
    """What code the methods of one's own are, by name."""
    return {name: described(m.make) for name, m in METHODS.items() if isinstance(m, Entry)}


def in_hand(name: str) -> bool:
    """Whether a method is known by an object of this process alone, which no other process can load."""
    found = METHODS.get(name)
    return isinstance(found, Entry) and not found.file


def add_file(path: str) -> list[str]:
    """Register the methods that a Python file defines, and return their names.

    A file says what it offers with ``ENTRIES``, as our own modules do. Without them each `Method` it defines is called
    by its class name in lower case and has its default options, and each `MethodSpec` counts under its own name.

    Raises:
        ConfigError: the file cannot be loaded, holds no method, or a name is taken.
    """
    from engram.core.contract import Method  # torch: the file needs it anyway

    module = sources.load(path)
    found: dict[str, Entry] = dict(vars(module).get("ENTRIES", {}))
    for value in vars(module).values() if not found else ():
        own = isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
        if own or isinstance(value, MethodSpec):
            spec = spec_of(value, f" in {path}")
            found[spec.name] = spec.entry()
    if not found:
        raise ConfigError(
            f"a file of methods must define one, a subclass of engram's Method, {path} does not."
        )
    for name, entry in found.items():
        register(name, replace(entry, file=str(module.__file__)))
    return list(found)


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


def docstring(name: str) -> str:
    """What a method's file says of it: paper, departures, cost; read without importing it. Errors as `check_name`."""
    check_name(name)
    found = METHODS[name]
    if isinstance(found, str):
        file = resources.files(found.rpartition(".")[0]) / f"{found.rpartition('.')[2]}.py"
        return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return inspect.getdoc(sys.modules[found.make.__module__]) or inspect.getdoc(found.make) or ""


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
