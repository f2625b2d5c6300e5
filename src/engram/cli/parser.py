"""The command line's options, made from settings, networks and methods, and errors in one line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import jsonargparse

from engram.core.options import Option, closest, options_of
from engram.core.values import sentence
from engram.errors import ConfigError
from engram.studies.settings import VALID_FRACTION, DataSettings

if TYPE_CHECKING:
    from engram.recipes import Recipe

MUTED = {"JSONARGPARSE_DEPRECATION_WARNINGS": "off"}


class Parser(jsonargparse.ArgumentParser):
    """A parser whose every error is a one-line ``ConfigError``."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(
            prog=prog,
            usage=f"{prog} [options]",
            description=description,
            allow_abbrev=False,
            print_config="--print-config",
        )
        self.known: dict[str, Option] = {}
        self.flags: dict[str, str] = {}
        self.help_command = f"{prog} --help"

    def note(self, key: str, option: Option) -> str:
        """Remember an option under its key in files, and return its flag."""
        flag = f"--{key}" if "." in key else f"--{key.replace('_', '-')}"
        self.known[section(key)] = option
        self.flags[section(key)] = flag
        return flag

    def option(self, group: Any, key: str, option: Option) -> None:
        """One typed option ``--key`` with its default and its line of help."""
        flag = self.note(key, option)
        text = option.help.replace("%", "%%").replace("``", "")
        group.add_argument(flag, type=option.type, default=option.default, help=text)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise ``ConfigError``: what must hold, what was given, what to do."""
        raise ConfigError(self.one_line(str(message))) from ex

    def one_line(self, message: str) -> str:
        """A message of the parser in the house style."""
        see = f"see {self.help_command}."
        key = re.match(r'Parser key "([\w.]+)"', message)
        value = re.search(r"(?:Got value|Given value): (.*)", message)
        if key and value and key[1] in self.known:
            flag = self.flags[key[1]]
            given = value[1].rstrip(".")
            kind = self.known[key[1]].kind
            literals = [w for w in re.split(r" \| | or ", kind) if w != "none"]
            return f"{flag} must be {sentence(self.known[key[1]].type)}, got {given!r}{closest(given, literals)}: {see}"
        unknown = re.match(r"unrecognized arguments: (.*)", message) or re.match(
            r"Option '(.*)' is not accepted", message
        )
        if unknown:
            given = next(
                (word for word in unknown[1].split() if word.startswith("--")), unknown[1].split()[0]
            )
            given = given.split("=")[0]
            flags = list(self.flags.values())
            if not given.startswith("-") and message.startswith("Option"):
                flags = [flag[2:] for flag in flags] + list(self.known)
            return f"options must be among those of {self.prog}, got {given!r}{closest(given, flags)}: {see}"
        flat = re.sub(r"\s+", " ", message).strip().rstrip(".")
        return f"options must be readable, got an error: {flat}: {see}"


def section(name: str) -> str:
    """The name of a method's or network's options in files and namespaces, where no hyphen may be."""
    return name.replace("-", "_")


def _plain_options(run: bool) -> list[Option]:
    """Options of `engram run` and `engram compare` beside those of data, networks and methods."""
    each = "one process a seed" if run else "one process a method and seed"
    return [
        Option("seeds", list[int], [0], "Seeds, such as 0 1 2."),
        Option(
            "out", str | None, None, "Folder for results; by default runs/ and the names of methods and data."
        ),
        Option("device", str, "cpu", "cpu or cuda."),
        Option(
            "jobs", int | None, None, f"Processes side by side, {each}; by default one a core, 1 on cuda."
        ),
        Option("recipe", str | None, None, "Settings by name, see engram list; none for plain defaults."),
    ]


def _tradeoff_options() -> list[Option]:
    """Options of `engram tradeoff` beside those of `engram compare`."""
    from engram.studies.tradeoff_plan import POINTS, WIDEN

    grid = "METHOD.option=v1,v2,... gives the values of a curve, at least three. Repeat for other methods."
    return [
        Option(
            "source", str | None, None, "Data of the first task, such as mnist:0-4; by default the recipe's."
        ),
        Option(
            "target",
            str | None,
            None,
            "Data of the second task, such as mnist_m:5-9; by default the recipe's.",
        ),
        Option("points", int, POINTS, "Values of a logarithmic grid over four decades."),
        Option(
            "widen", int, WIDEN, "Most decades added to a grid at an end that is not saturated; 0 for none."
        ),
        Option("over", list[str], [], grid),
        Option(
            "required", list[float], [], "Further required target accuracies in percent, such as 97.5 98."
        ),
    ]


def _sweep_options() -> list[Option]:
    """Options of `engram sweep` beside those of `engram run`."""
    from engram.studies.sweep_plan import Engine

    space = "NAME=v1,v2,... tries these values; NAME=low..high[:log|:int] is a range for optuna. Repeat for a product."
    return [
        Option("over", list[str], [], space),
        Option(
            "engine", Engine, "grid", "grid; optuna (TPE, median pruning); ray: the grid on a Ray cluster."
        ),
        Option("trials", int | None, None, "Number of trials of optuna, those before --resume included."),
        Option("sweep_seed", int, 0, "Seed of optuna's sampler."),
        Option(
            "choose_on",
            str | None,
            None,
            "Validation data that choose: first_tasks:K, valid_current or valid_all; by default first_tasks:3.",
        ),
        Option(
            "address",
            str | None,
            None,
            "HOST:PORT of a Ray cluster, or auto; by default one is started here.",
        ),
    ]


# Of the data options, what a trade-off decides: two data sets with task labels, measured after the last epoch.
DECIDED = ("data", "scenario", "tasks", "groups", "class_order", "selection", "domain", "max_angle", "angles")

FLAGS = {
    "resume": "Continue what --out holds; finished seeds are not repeated.",
    "overwrite": "Replace what --out holds of these methods.",
    "alone": "Leave out the variants that a recipe shows beside its methods (engram compare).",
    "tensorboard": "Write losses and accuracies for TensorBoard too.",
    "quiet": "Print nothing but the table.",
}


def build(command: str, methods: Sequence[str], recipe: Recipe | None) -> Parser:
    """The parser of ``engram run METHOD``, ``compare METHOD ...``, ``sweep METHOD`` or ``tradeoff METHOD ...``.

    Args:
        command: run, compare, sweep or tradeoff.
        methods: base names, each once; their options are included.
        recipe: gives defaults.
    """
    from engram import networks as registered
    from engram.methods.registry import about

    p = Parser(
        f"engram {command} {' '.join(methods)}", "; ".join(f"{m}: {about(m).summary}" for m in methods)
    )
    p.add_argument(
        "--config", action="config", help="YAML file with any of these options; the command line wins."
    )
    general = p.add_argument_group("what to run")
    for option in _plain_options(command == "run"):
        if option.name == "seeds":
            p.note("seeds", option)
            some = [0, 1, 2] if command == "tradeoff" else [0]
            general.add_argument("--seeds", nargs="+", type=int, default=some, help=option.help)
        elif option.name == "device" and command in ("sweep", "tradeoff"):
            text = "cpu or cuda; auto is cuda where there is an accelerator."
            p.option(general, "device", Option("device", str, "auto", text))
        elif option.name == "recipe" and command == "tradeoff":
            text = "Settings by name, see engram list; by default tradeoff-small, none for plain defaults."
            p.option(general, "recipe", Option("recipe", str | None, None, text))
        else:
            p.option(general, option.name, option)
    more = {"sweep": _sweep_options, "tradeoff": _tradeoff_options}.get(command)
    for option in more() if more else []:
        if option.name == "over":
            p.note("over", option)
            metavar = "NAME=VALUES" if command == "sweep" else "METHOD.NAME=VALUES"
            general.add_argument("--over", action="append", metavar=metavar, help=option.help)
        elif option.name == "required":
            p.note("required", option)
            general.add_argument("--required", nargs="+", type=float, default=[], help=option.help)
        else:
            p.option(general, option.name, option)
    for name, text in FLAGS.items():
        if name == "alone" and command == "tradeoff":
            continue
        p.note(name, Option(name, bool, False, text))
        general.add_argument(f"--{name}", action="store_true", help=text)
    data = p.add_argument_group("data")
    given: Mapping[str, Any] = {"valid_fraction": VALID_FRACTION} if more else {}
    given = {**given, **(recipe.data if recipe else {})}
    for option in options_of(DataSettings(), skip=DECIDED if command == "tradeoff" else ()):
        p.option(data, option.name, _default(option, given))
    networks = p.add_argument_group("network")
    text = (
        "dcgan (32x32), dcgan8 (8x8), cifar-cnn (32x32), preact-resnet (32x32), plain-cnn (32x32) or mlp; "
        "by default the one that fits the images."
    )
    p.option(networks, "network", Option("network", str | None, recipe.network if recipe else None, text))
    for name in registered.NETWORKS:
        given = recipe.network_options if recipe and recipe.network == name else {}
        for option in registered.about(name).options:
            p.option(networks, f"{name}.{option.name}", _default(option, given))
    for name in methods:
        group = p.add_argument_group(f"options of {name}")
        given = recipe.methods.get(name, {}) if recipe else {}
        for option in about(name).options:
            p.option(group, f"{name}.{option.name}", _default(option, given))
    return p


def _default(option: Option, given: Mapping[str, Any]) -> Option:
    if option.name not in given:
        return option
    return Option(option.name, option.type, given[option.name], option.help)
