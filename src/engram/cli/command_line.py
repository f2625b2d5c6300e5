"""A command line becomes typed settings: defaults, then a recipe, then ``--config`` files, then the words given.

Options are the fields of dataclasses: those below, those of :class:`engram.studies.settings.DataSettings`, and those of
methods and networks, which are read without torch.
"""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NoReturn

from engram import features, networks
from engram.core.options import (
    Compile,
    Option,
    Precision,
    choices,
    closest,
    is_union,
    options_of,
    shown,
    type_words,
)
from engram.core.values import split_variant, typed, typed_all
from engram.core.yaml_files import as_yaml, read_options
from engram.errors import ConfigError
from engram.methods import registry
from engram.recipes import Recipe, chosen_recipe
from engram.studies.settings import (
    FINETUNE,
    POINTS,
    RECIPE,
    VALID_FRACTION,
    WIDEN,
    DataSettings,
    FeatureSettings,
    NetworkSettings,
    plain,
    section,
)


@dataclass(frozen=True)
class Run:
    """Options of every command beside those of data, networks and methods.

    Args:
        config: YAML file with any of these options; the command line wins.
        recipe: named settings to start from, see engram list; none for plain defaults.
        network: network by name (engram list) or FILE.py:NAME; none for the one that fits the images.
        features: fixed features that methods see instead of images: pixels, fourier, scattering, first-task,
            timm:NAME or FILE.py:NAME; none for the images.
        weights: safetensors file with the weights of FILE.py:NAME or timm:NAME.
        trained_on: what the weights of --weights were trained on, for the tables.
        method_file: Python file with methods of your own, which may then be named. Repeat for more.
        seeds: seeds to run, such as 0 1 2: tables give their mean and its interval.
        out: folder for results; by default runs/ and the names of methods and data.
        device: where to compute: cpu, or cuda; auto is cuda where there is an accelerator.
        compile: make graphs of training steps: inductor compiles them, in seconds at each task; cudagraphs launches an
            accelerator's kernels together.
        precision: what losses are computed with: float32; tf32 on an accelerator, or bf16, where the device has it.
        jobs: processes side by side, one a method and seed; by default one a core, 1 on cuda.
        resume: continue what --out holds; finished seeds are not repeated.
        overwrite: replace what --out holds of these methods.
        accept_edited: take files of --out that were edited as they are; what follows from them is computed anew.
        track: experiment trackers that get losses and accuracies: tensorboard, mlflow or wandb, each an extra.
        tensorboard: write losses and accuracies for TensorBoard too, as --track tensorboard.
        quiet: print nothing but the table.
        print_config: print the settings as a file for --config, and do nothing else.
    """

    config: tuple[str, ...] = ()
    recipe: str | None = None
    network: str | None = None
    features: str | None = None
    weights: str | None = None
    trained_on: str | None = None
    method_file: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    out: str | None = None
    device: str = "cpu"
    compile: Compile = "eager"
    precision: Precision = "float32"
    jobs: int | None = None
    resume: bool = False
    overwrite: bool = False
    accept_edited: bool = False
    track: tuple[str, ...] = ()
    tensorboard: bool = False
    quiet: bool = False
    print_config: bool = False


@dataclass(frozen=True)
class Compare(Run):
    """Options of `engram compare`.

    Args:
        alone: leave out the variants that a recipe shows beside its methods.
    """

    alone: bool = False


@dataclass(frozen=True)
class Sweep(Run):
    """Options of `engram sweep`.

    Args:
        over: values to try: NAME=v1,v2,... tries these values; NAME=low..high[:log|:int] is a range for optuna.
            Repeat for a product.
        engine: how values are tried: grid; optuna (TPE, median pruning); ray: the grid on a Ray cluster.
        trials: number of trials of optuna, those before --resume included.
        sweep_seed: seed of optuna's sampler.
        choose_on: the validation data that choose: first_tasks:K, valid_current or valid_all; by default first_tasks:3.
        address: HOST:PORT of a Ray cluster, or auto; by default one is started here.
    """

    device: str = "auto"
    over: tuple[str, ...] = ()
    engine: Literal["grid", "optuna", "ray"] = "grid"
    trials: int | None = None
    sweep_seed: int = 0
    choose_on: str | None = None
    address: str | None = None


@dataclass(frozen=True)
class Tradeoff(Run):
    """Options of `engram tradeoff`.

    Args:
        source: data of the first task, such as mnist:0-4; by default the recipe's.
        target: data of the second task, such as mnist_m:5-9; by default the recipe's.
        points: values of a logarithmic grid over four decades.
        widen: most decades added to a grid at an end that is not saturated; 0 for none.
        over: METHOD.option=v1,v2,... gives the values of a curve, at least three. Repeat for other methods.
        required: further required target accuracies in percent, such as 97.5 98.
    """

    device: str = "auto"
    recipe: str | None = RECIPE
    seeds: tuple[int, ...] = (0, 1, 2)
    source: str | None = None
    target: str | None = None
    points: int = POINTS
    widen: int = WIDEN
    over: tuple[str, ...] = ()
    required: tuple[float, ...] = ()


KINDS: dict[str, type[Run]] = {"run": Run, "compare": Compare, "sweep": Sweep, "tradeoff": Tradeoff}
USAGES = {
    "run": "METHOD [options]",
    "compare": "METHOD METHOD ... [options]",
    "sweep": "METHOD --over NAME=v1,v2,... [options]",
    "tradeoff": "METHOD [METHOD ...] --source A --target B [options]",
}
ABOUT = {
    "run": "Learn a stream of tasks with one method.",
    "compare": "Learn a stream of tasks with several methods, side by side; NAME:option=value is a variant.",
    "sweep": "Learn with several values of an option, and choose one on validation data.",
    "tradeoff": "Trade-off curves between a source and a target task over each method's own option, compared by two "
    "measures:\nthe maximum achievable average accuracy, and the source accuracy at a required target accuracy. "
    f"The default\nrecipe is {RECIPE}.",
}
WIDE, NARROW, INDENT = (
    116,
    50,
    26,
)  # letters of a line of help at most and at least, and before an option's words
# Options whose words add up where they are given more than once.
REPEATED = ("config", "method_file", "over")
# What most people set, and other options of commands and data that are shown with --help-all only.
USUAL = {
    *(
        "data",
        "data_dir",
        "scenario",
        "tasks",
        "recipe",
        "network",
        "features",
        "seeds",
        "out",
        "device",
        "resume",
    ),
    *(
        "overwrite",
        "over",
        "engine",
        "trials",
        "choose_on",
        "source",
        "target",
        "epochs",
        "steps_per_epoch",
        "batch_size",
    ),
    *(
        "lr",
        "lr_d",
        "lr_g",
        "gan_epochs",
        "gan_steps",
        "gan_lr",
        "solver",
        "memory_budget",
        "memory_per_class",
    ),
}
# Of the data options, what a trade-off decides: two data sets with task labels, measured after the last epoch.
DECIDED = ("data", "scenario", "tasks", "groups", "class_order", "selection", "domain", "max_angle", "angles")


@dataclass(frozen=True)
class Asked:
    """What a command line asks for.

    Args:
        names: the methods, variants as written.
        added: those of them that were not named: a recipe's variants, or fine-tuning in a trade-off.
        options: of the command.
        data: fields of DataSettings.
        network: its name and options.
        features: their name and options.
        of_features: options by name of features, for variants that name their own.
        methods: all options by method, variants left out.
        given: flags that words give.
        in_files: flags that files give.
        recipe: where settings come from.
        changed: what is learned otherwise than its default, as words.
    """

    names: tuple[str, ...]
    added: tuple[str, ...]
    options: Run
    data: Mapping[str, Any]
    network: NetworkSettings
    features: FeatureSettings
    of_features: Mapping[str, Mapping[str, Any]]
    methods: Mapping[str, Mapping[str, Any]]
    given: frozenset[str]
    in_files: frozenset[str]
    recipe: Recipe | None
    changed: tuple[str, ...]

    @property
    def recipe_words(self) -> str:
        """The recipe in a line, for the start of a run; empty without one."""
        if self.recipe is None:
            return ""
        default = "" if "--recipe" in self.given | self.in_files else " (default)"
        changed = f"; here with {', '.join(self.changed)}" if self.changed else ""
        return f"recipe {self.recipe.name}{default}: {self.recipe.summary}{changed}\n"

    def as_file(self) -> str:
        """Everything as a file for ``--config``."""
        options = {k: v for k, v in asdict(self.options).items() if k not in ("config", "print_config")}
        options["recipe"] = self.recipe.name if self.recipe else "none"
        sections = {section(name): values for name, values in self.methods.items()}
        for chosen in (self.network, self.features):
            if chosen.options:
                sections[section(str(chosen.name))] = chosen.options
        return as_yaml(plain({**options, **self.data, **sections}))


def read(command: str, words: Sequence[str]) -> Asked | None:
    """What a command line asks for; None where it asked for help or its settings, which have been printed.

    Raises:
        ConfigError: an unknown method, option, recipe or network, a value of another type, an unreadable file.
    """
    first = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    names, flags = list(words[:first]), words[first:]
    kind = KINDS[command]()
    deciding, _ = OptionParser(
        command,
        (),
        {"": _deciding(kind)},
    ).parse_known_args(flags)
    everything = hasattr(deciding, "--help-all")
    wants_help = everything or hasattr(deciding, "--help")
    if wants_help and not names:
        print(fitted(_short_help(command)), end="")
        return None
    _check_number(command, names)
    in_files: dict[str, Any] = {}
    source: dict[str, str] = {}  # the file that has the last word
    for path in getattr(deciding, "--config", ()):
        found = _flat(read_options(path))
        in_files |= found
        source |= dict.fromkeys(found, path)
    raw = {**in_files, **vars(deciding)}

    def early(name: str, default: str | None) -> Any:
        flag = flag_of(name)
        return value_of(Option(name, str | None, None), flag, raw[flag]) if flag in raw else default

    own = Option("method_file", tuple[str, ...], ())
    for path in value_of(own, "--method-file", raw.get("--method-file", ())):
        registry.add_file(path)
    data = "" if command == "tradeoff" else early("data", DataSettings.data)
    recipe = chosen_recipe(early("recipe", kind.recipe), data, early("features", None))
    network = early("network", recipe.network if recipe else None)
    if network is not None:
        networks.check_name(network)
    seen = early("features", recipe.features if recipe else None)
    seen = None if seen == "none" else seen
    if seen is not None:
        features.check_name(seen)
    added = _added(command, names, recipe, alone="--alone" in raw)
    bases = list(dict.fromkeys(split_variant(name)[0] for name in [*names, *added]))
    groups = options_by_title(kind, bases, recipe)
    parser = OptionParser(command, bases, groups, (f"network {network}", f"features {seen}"))
    if wants_help:
        print(parser.format_help() if everything else parser.usual_help(), end="")
        return None
    parsed, unknown = parser.parse_known_args(flags)
    given = vars(parsed)
    raw = {**in_files, **given, **{word.partition("=")[0]: None for word in unknown}}
    for flag in given:
        source.pop(flag, None)

    def taken(option: Option, flag: str) -> Any:
        if flag not in raw:
            return option.default
        try:
            return value_of(option, flag, raw.pop(flag))
        except ConfigError as error:
            raise ConfigError(f"{source[flag]}: {error}" if flag in source else str(error)) from error

    values = {
        title: {o.name: taken(o, flag) for flag, o in options.items()} for title, options in groups.items()
    }
    for flag in raw:
        refuse_unknown(flag, source.get(flag, ""), groups, parser.prog)
    _refuse_others([*given, *in_files], source, "network", networks.NETWORKS, [network])
    used = [seen]
    for text in names:
        base, changed = split_variant(text)
        of_variant = changed.pop("features", "none")
        used.append(None if of_variant == "none" else features.parse(of_variant)[0])
        typed_all(base, registry.about(base).options, changed)  # said here, before torch is loaded
    _refuse_others([*given, *in_files], source, "features", features.FEATURES, used)
    settings = values["data"]
    if (settings.get("groups") or settings.get("angles")) and "--tasks" not in {*given, *in_files}:
        settings["tasks"] = None  # they set the number of tasks, a recipe's gives way
    what = replace(kind, **{**values["what to run"], "features": seen})
    features.check_given(seen, {}, what.weights, what.trained_on)
    asked = Asked(
        names=(*names, *added),
        added=tuple(added),
        options=what,
        data=settings,
        network=NetworkSettings(network, values.get(f"network {network}", {})),
        of_features={name: values[f"features {name}"] for name in features.FEATURES},
        features=FeatureSettings(seen, values.get(f"features {seen}", {}), what.weights, what.trained_on),
        methods={name: values[f"method {name}"] for name in bases},
        given=frozenset(given),
        in_files=frozenset(in_files),
        recipe=recipe,
        changed=tuple(
            f"{flag} {shown(values[title][o.name])}"
            for title, options in groups.items()
            for flag, o in options.items()
            if flag in {*given, *in_files} and values[title][o.name] != o.default
            if title != "what to run" or flag in ("--network", "--features")
            if flag not in ("--data-dir", "--cache-dir")
        ),
    )
    if asked.options.print_config:
        print(asked.as_file(), end="")
        return None
    return asked


def _check_number(command: str, names: Sequence[str]) -> None:
    """``ConfigError`` unless there is a method, and only one where a command takes one."""
    if not names:
        raise ConfigError(
            f"a method must be named first, before any option, got none: engram {command} {USAGES[command]}, "
            "see engram list."
        )
    if command in ("run", "sweep") and len(names) > 1:
        raise ConfigError(f"engram {command} takes one method, got {', '.join(names)}: use engram compare.")


def _added(command: str, names: Sequence[str], recipe: Recipe | None, *, alone: bool) -> list[str]:
    """What is run beside the methods named: a recipe's variants, as in the paper; fine-tuning in a trade-off."""
    if command == "tradeoff":
        return [] if FINETUNE in names else [FINETUNE]
    if command != "compare" or recipe is None or alone:
        return []
    beside = [recipe.beside[name] for name in names if name in recipe.beside]
    return [name for name in beside if name not in names]


def options_by_title(
    kind: Run, methods: Sequence[str], recipe: Recipe | None
) -> dict[str, dict[str, Option]]:
    """Options by title and flag, with the recipe's values as defaults."""

    def owned(name: str, options: Iterable[Option], defaults: Mapping[str, Any]) -> dict[str, Option]:
        values = typed_all(name, options, defaults)
        return {f"--{name}.{o.name}": replace(o, default=values.get(o.name, o.default)) for o in options}

    plain = (
        DataSettings(valid_fraction=VALID_FRACTION) if isinstance(kind, (Sweep, Tradeoff)) else DataSettings()
    )
    data = options_of(plain, skip=DECIDED if isinstance(kind, Tradeoff) else ())
    given = recipe.data if recipe else {}
    own = ("network", "features")
    chosen = {"recipe": recipe.name, **{k: getattr(recipe, k) for k in own}} if recipe else {}
    groups = {
        "what to run": {
            flag_of(o.name): replace(o, default=chosen.get(o.name, o.default)) for o in options_of(kind)
        },
        "data": {flag_of(o.name): replace(o, default=given.get(o.name, o.default)) for o in data},
    }
    for name in networks.NETWORKS:
        defaults = recipe.network_options if recipe and recipe.network == name else {}
        groups[f"network {name}"] = owned(name, networks.about(name).options, defaults)
    for name in features.FEATURES:
        defaults = recipe.feature_options if recipe and recipe.features == name else {}
        groups[f"features {name}"] = owned(name, features.about(name).options, defaults)
    for name in methods:
        defaults = recipe.methods.get(name, {}) if recipe else {}
        groups[f"method {name}"] = owned(name, registry.about(name).options, defaults)
    return groups


# Words and files --------------------------------------------------------------------------------------------------
def flag_of(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _deciding(kind: Run) -> dict[str, Option]:
    """The options that decide which others there are."""
    known = {o.name: o for o in options_of(kind)} | {"data": Option("data", str | None, None)}
    names = ("config", "recipe", "network", "features", "method_file", "data", "alone")
    return {flag_of(name): known[name] for name in names if name in known}


def width() -> int:
    """Letters of a line of help: what the terminal, or COLUMNS, leaves of `WIDE`."""
    return max(NARROW, min(WIDE, shutil.get_terminal_size((WIDE, 24)).columns))


def fitted(text: str) -> str:
    """A text for a screen: lines that are too long for it go on below, at the place of their second column."""
    wide, lines = width(), []
    for line in text.splitlines():
        head = re.sub(r"^( *(?:\S.*?  +(?=\S))?).*", r"\1", line)
        more = textwrap.wrap(
            line[len(head) :],
            wide,
            initial_indent=head,
            subsequent_indent=" " * min(len(head), wide // 2),
            break_on_hyphens=False,
        )
        lines += [line] if len(line) <= wide else more
    return "\n".join(lines) + "\n"


class Parser(argparse.ArgumentParser):
    """A parser of words for commands that train nothing; help is a text, an error a `ConfigError`.

    Args:
        prog: the command, such as ``engram report``.
        text: what ``--help`` prints.
    """

    def __init__(self, prog: str, text: str) -> None:
        super().__init__(prog=prog, allow_abbrev=False, add_help=False)
        self.text = text
        self.add_argument("-h", "--help", action="store_true")

    def parse(self, words: Sequence[str]) -> argparse.Namespace | None:
        """What the words ask for; None where it is help, which has been printed."""
        if {"-h", "--help"} & {*words}:
            print(fitted(self.text), end="")
            return None
        return self.parse_args(words)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message.removeprefix('argument ')}: see {self.prog} --help.")


class OptionParser(argparse.ArgumentParser):
    """The words given by flag: text, or lists of it; an error is a `ConfigError`.

    Args:
        command, methods: what is asked for.
        groups: options by title and flag.
        used: titles of the network and the features in use; help leaves the options of others out.
        usage: the words that follow the command.
        about: what it does; by default what the methods are.
    """

    def __init__(
        self,
        command: str,
        methods: Sequence[str],
        groups: Mapping[str, Mapping[str, Option]],
        used: Sequence[str] = (),
        usage: str = "[options]",
        about: str | None = None,
    ) -> None:
        prog = " ".join(["engram", command, *methods])
        said = "\n".join(f"{name}: {registry.about(name).summary}" for name in methods)
        super().__init__(
            prog=prog,
            usage=f"{prog} {usage}",
            description=said if about is None else about,
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
            add_help=False,
        )
        self.add_argument("-h", "--help", dest="--help", action="store_true")
        self.add_argument("--help-all", dest="--help-all", action="store_true")
        for options in groups.values():
            for flag, option in options.items():
                self.add_argument(flag, dest=flag, **self._takes(option))
        self.shown = {
            title: list(options.items())
            for title, options in groups.items()
            if not title.startswith(("network ", "features ")) or title in used
        }

    def format_help(self) -> str:
        """Every option of the command, of its data, and of methods, network and features in use."""
        return self._page(self.shown, "")

    def usual_help(self) -> str:
        """What most people set, a method's own options as its paper has them, and the network's; not the rest."""
        usual: dict[str, list[tuple[str, Option]]] = {"what most people set": []}
        for title, options in self.shown.items():
            for flag, option in options:
                if option.name in USUAL and not title.startswith(("network ", "features ")):
                    usual["what most people set"].append((flag, option))
                elif title not in ("what to run", "data") and not option.further:
                    name = title.removeprefix("method ")
                    of_paper = f"{name}, as in its paper" if title.startswith("method ") else title
                    usual.setdefault(of_paper, []).append((flag, option))
        left = sum(map(len, self.shown.values())) - sum(map(len, usual.values()))
        return self._page(
            usual, f"{left} more options, departures from papers among them: {self.prog} --help-all. "
        )

    def _page(self, groups: Mapping[str, Sequence[tuple[str, Option]]], more: str) -> str:
        lines = [f"usage: {self.usage}", "", fitted(self.description or "")]
        for title, options in groups.items():
            lines += [
                f"{title}:",
                *(line for flag, option in options for line in self._lines(flag, option)),
                "",
            ]
        names = f"Networks: {', '.join(networks.NETWORKS)}; features: {', '.join(features.FEATURES)}."
        return "\n".join([*lines, *textwrap.wrap(f"{more}{names} See engram list.", width())]) + "\n"

    @staticmethod
    def _lines(flag: str, option: Option) -> list[str]:
        """An option: its flag, and beside it what it is, its type in words and its default."""
        named = all(word in option.help for word in re.split(r" \| | or ", option.kind))
        facts = [] if named or option.kind.startswith(("text", "true", "list of integers")) else [option.kind]
        facts += [] if option.default is None else [f"default {shown(option.default)}"]
        what = re.sub(r"(?<!\.)\.$", "", option.help).replace("``", "") + (
            f" ({'; '.join(facts)})" if facts else ""
        )
        first = f"  {flag}".ljust(INDENT)
        if not first.endswith(" "):
            first += " "
        return textwrap.wrap(
            what, width(), initial_indent=first, subsequent_indent=" " * INDENT, break_on_hyphens=False
        )

    @staticmethod
    def _takes(option: Option) -> dict[str, Any]:
        """How many words an option takes, and what they are called."""
        kinds = choices(option.type)
        if any(typing.get_origin(one) is tuple for one in kinds):
            each = [typing.get_args(one)[0] if typing.get_origin(one) is tuple else one for one in kinds]
            again = {"action": "extend"} if option.name in REPEATED else {}
            return {"nargs": "+", "metavar": " | ".join(map(type_words, each)), **again}
        only = {"nargs": "?", "const": "true"} if option.type is bool else {}
        return {"metavar": option.kind, **only}

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message.removeprefix('argument ')}: see {self.prog} --help.")


def value_of(option: Option, flag: str, given: Any) -> Any:
    """The value of an option from the words after its flag, or from a file; of numbers commas may part them."""
    lists = [one for one in choices(option.type) if typing.get_origin(one) is tuple]
    if lists and all({*choices(typing.get_args(one)[0])} <= {int, float} for one in lists):
        words = [given] if isinstance(given, str) else given
        if isinstance(words, list) and any(isinstance(w, str) and re.search(r"^[^\[(].*,", w) for w in words):
            given = [part for word in words for part in str(word).split(",")]
    if isinstance(given, list) and len(given) == 1:
        one = str(given[0])
        if one.startswith(("[", "(")) or is_union(option.type):  # a list in one word; random, or none
            given = given[0]
    return typed(option, given, flag)


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a file by flag: those of methods and networks stand in sections."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{flag_of(str(key))}.{name}": one for name, one in value.items()}
        else:
            found[flag_of(str(key))] = value
    return found


def refuse_unknown(flag: str, file: str, groups: Mapping[str, Mapping[str, Option]], command: str) -> None:
    """``ConfigError`` for an option that there is not, given by a word or in a ``file``."""
    if not flag.startswith("-"):
        raise ConfigError(f"words must follow an option that takes them, got {flag!r}: see {command} --help.")
    if flag[2:].replace("-", "_") in DECIDED:
        raise ConfigError(
            f"{flag} must be left out, a trade-off is between two tasks with task labels: "
            "give --source and --target."
        )
    dashes = 2 if file else 0  # files name options without them
    known = [one[dashes:] for options in groups.values() for one in options]
    raise ConfigError(
        f"options must be among those of {command}, got {flag[dashes:]!r}"
        f"{f' in {file}' if file else ''}{closest(flag[dashes:], known)}: see {command} --help."
    )


def _refuse_others(
    flags: Iterable[str],
    files: Mapping[str, str],
    kind: str,
    known: Iterable[str],
    chosen: Sequence[str | None],
) -> None:
    """``ConfigError`` for an option of a network or of features that are not used; ``files`` say where flags stand."""
    for flag in flags:
        owner = flag[2:].partition(".")[0]
        if owner in known and owner not in chosen:
            where = f" in {files[flag]}" if flag in files else ""
            raise ConfigError(
                f"options of {kind} NAME need --{kind} of that name, got {flag}{where} with {kind} "
                f"{chosen[0] or 'left open'}: give --{kind} {owner}."
            )


def _short_help(command: str) -> str:
    return (
        f"usage: engram {command} {USAGES[command]}\n\n{ABOUT[command]}\n"
        f"Name a method to see options: engram {command} si --help, or --help-all for all of them.\n"
        "Methods: see engram list."
    )
