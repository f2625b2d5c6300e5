"""The command line: ``engram run``, ``compare``, ``sweep``, ``tradeoff``, ``report`` and ``list``.

Exit status: 0 all fine; 1 a worker died; 2 something the user can act on, said in one line; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.cli.argv import config_first, recipe_of
from engram.core.options import closest
from engram.errors import ConfigError, EngramError

if TYPE_CHECKING:
    from engram.cli.parser import Parser
    from engram.studies.comparison import Outcome
    from engram.studies.settings import NetworkSettings

HELP = """\
usage: engram COMMAND ...

Continual learning that remembers without keeping the old data.

commands:
  run METHOD [options]             learn a stream of tasks with one method
  compare METHOD METHOD [options]  with several methods, side by side; NAME:option=value is a variant
  sweep METHOD --over NAME=v1,v2   with several values of an option, and choose one on validation data
  tradeoff METHOD METHOD [options] source against target accuracy over each method's own option
  report DIR                       draw figures and report.html of a folder of results again
  list [METHOD]                    methods, data, networks and recipes; or the options of a method

  --version                        the version
  engram run METHOD --help         all options

examples:
  engram compare dgmw finetune joint --data digits --tasks 10 --seeds 0 1 2 --out demo
  engram run dgmw --recipe dgmw-mnist --device cuda --out runs/dgmw
  engram compare dgmw dgmw:solver=shared --data digits --out solvers
  engram run dgmw --data digits --dgmw.epochs 50 --out runs/try --resume
  engram sweep si --over c=0.01,0.1,1,10 --data digits --tasks 5 --seeds 0 1 2 --out runs/si
  engram tradeoff lwf ewc frozen --source mnist:0-4 --target mnist:5-9 --out runs/curves
"""
COMMANDS = ("run", "compare", "sweep", "tradeoff", "report", "list")

# What the library calls an argument, where that differs from the command line's option; and where a message
# begins with a name, that is the option's.
FLAG_OF = {
    "n_tasks": "--tasks",
    "data_dir": "--data-dir",
    "cache_dir": "--cache-dir",
    "class_order": "--class-order",
    "stream_seed": "--stream-seed",
    "valid_fraction": "--valid-fraction",
    "max_per_class": "--max-per-class",
    "image_size": "--image-size",
    "image_column": "--image-column",
    "label_column": "--label-column",
    "max_angle": "--max-angle",
}
PLAIN = [
    *("tasks", "groups", "angles", "scenario", "selection", "domain", "data", "network", "seeds"),
    *("device", "jobs", "out", "over", "engine", "trials", "address"),
    *("source", "target", "points", "widen", "required"),
]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status. Prints one line for every error a user can act on."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with _notes():
            return _dispatch(arguments)
    except EngramError as error:
        print(f"engram: {in_our_words(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    except SystemExit as leave:  # the parser has printed what --help or --print-config asked for
        return int(leave.code or 0)
    except KeyboardInterrupt:
        print("engram: stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output left
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1


def in_our_words(message: str) -> str:
    """A message of the library with the names of the command line: ``--image-size`` for ``image_size=``."""
    names = "|".join(FLAG_OF)
    # Not within a path, a quotation or a longer name such as data.stream_seed.
    message = re.sub(rf"(?<![\w./'\"-])({names})(?![\w./'\":-])=?", lambda m: FLAG_OF[m[1]], message)
    return re.sub(rf"^({'|'.join(PLAIN)}|\w[\w-]*\.\w+)(?= must )", r"--\1", message)


@contextlib.contextmanager
def _notes() -> Iterator[None]:
    """Warnings as one line each."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"engram: note: {' '.join(str(message).split())}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = show
        yield


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if argv[0] in ("--version", "-V"):
        from engram import __version__

        print(f"engram {__version__}")
        return 0
    command, rest = argv[0], argv[1:]
    if command not in COMMANDS:
        raise ConfigError(
            f"the command must be one of {', '.join(COMMANDS)}, got {command!r}{closest(command, COMMANDS)}: "
            "see engram --help."
        )
    if command == "report":
        return _report(rest)
    if command == "list":
        return _list(rest)
    if command == "sweep":
        from engram.cli.sweep import main as sweep

        return sweep(rest)
    if command == "tradeoff":
        from engram.cli.tradeoff import main as tradeoff

        return tradeoff(rest)
    return _learn(command, rest)


def _one(command: str, what: str, rest: list[str], *, most: int = 1, least: int = 1) -> list[str]:
    """The positional arguments of a command without options."""
    if any(a.startswith("-") for a in rest) or not least <= len(rest) <= most:
        raise ConfigError(f"usage must be engram {command} {what}, got {shlex.join(rest) or 'nothing'}.")
    return rest


def _report(rest: list[str]) -> int:
    if rest in (["-h"], ["--help"]):
        print("usage: engram report DIR\n\nDraw figures and DIR/report.html of a folder of results again.")
        return 0
    (folder,) = _one("report", "DIR", rest)
    from engram.report import write_report
    from engram.studies.results import SWEEP_FILE, TRADEOFF_FILE, find_results

    page = write_report(folder)
    if (Path(folder) / TRADEOFF_FILE).exists():
        from engram.cli.tradeoff import print_tradeoff

        print_tradeoff(Path(folder))
    elif (Path(folder) / SWEEP_FILE).exists():
        from engram.cli.sweep import print_sweep

        print_sweep(Path(folder))
    else:
        print_table([f.result for f in find_results(folder)])
    print(f"Report: {page}")
    return 0


def _list(rest: list[str]) -> int:
    if rest in (["-h"], ["--help"]):
        print(
            "usage: engram list [METHOD]\n\nMethods, data, networks and recipes; or the options of a method."
        )
        return 0
    from engram.cli.listing import everything, one_method

    names = _one("list", "[METHOD]", rest, least=0)
    screen = console()
    for part in one_method(names[0]) if names else everything():
        screen.print(part)
    return 0


def _learn(command: str, rest: list[str]) -> int:
    """``engram run`` and ``engram compare``."""
    names: list[str] = []
    while rest and not rest[0].startswith("-"):
        names.append(rest.pop(0))
    usage = f"engram {command} METHOD{' METHOD ...' if command == 'compare' else ''} [options]"
    if not names:
        if any(a in ("-h", "--help") for a in rest):
            print(f"usage: {usage}\n\nName a method to see all options: engram {command} dgmw --help")
            print("Methods: see engram list.")
            return 0
        raise ConfigError(f"a method must be named first, got none: {usage}, see engram list.")
    if command == "run" and len(names) > 1:
        raise ConfigError(f"engram run takes one method, got {', '.join(names)}: use engram compare.")

    from engram.cli.parser import MUTED, build, section
    from engram.cli.progress import Progress
    from engram.core.options import options_of, split_variant
    from engram.methods.registry import check_name
    from engram.studies.comparison import execute, variant
    from engram.studies.settings import DataSettings

    os.environ |= {k: v for k, v in MUTED.items() if k not in os.environ}
    bases = list(dict.fromkeys(split_variant(name)[0] for name in names))
    for name in bases:
        check_name(name)
    recipe, why = recipe_of(rest)
    beside = (
        [recipe.beside[n] for n in names if n in recipe.beside] if recipe and command == "compare" else []
    )
    added = [] if "--alone" in rest else [n for n in beside if n not in names]
    names += added
    # --config first, so that the command line wins wherever it stands.
    parser = build(command, bases, recipe)
    values = dict(parser.parse_args(config_first(rest)).as_dict())
    if values["groups"] or values["angles"]:  # they set the number of tasks, a recipe's gives way
        values["tasks"] = None if values["tasks"] == parser.known["tasks"].default else values["tasks"]
    data = DataSettings(**{o.name: values[o.name] for o in options_of(DataSettings())})
    network = network_of(parser, values)
    methods = [variant(text, values[section(text.partition(":")[0])]) for text in names]
    quiet = bool(values["quiet"])
    out = Path(values["out"] or _default_out(command, names, data.data))
    said = f"recipe {recipe.name}{why}: {recipe.summary}" if recipe else ""
    if added:
        said += f"\nbeside them, as in the paper: {', '.join(added)} (--alone leaves it out)"
    with (
        Progress(quiet=quiet, headline=said, tensorboard=values["tensorboard"]) as progress,
        terminable(),
    ):
        outcome = execute(
            methods,
            data,
            network,
            seeds=values["seeds"],
            out=out,
            nested=command == "compare",
            device=values["device"],
            jobs=values["jobs"],
            resume=values["resume"],
            overwrite=values["overwrite"],
            recipe=recipe.name if recipe else None,
            listener=progress,
        )
    return _finish(outcome, [command, *names, *rest], quiet)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """A polite kill stops the workers too, as Ctrl-C does."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def network_of(parser: Parser, values: dict[str, Any]) -> NetworkSettings:
    """The network's settings; options of another network than the chosen one are refused, not ignored."""
    from engram.cli.parser import section
    from engram.networks import NETWORKS, about
    from engram.studies.settings import NetworkSettings

    name = values["network"]
    for other in NETWORKS:
        for option in about(other).options:
            key = f"{section(other)}.{option.name}"
            if other != name and values[section(other)][option.name] != parser.known[key].default:
                raise ConfigError(
                    f"options of a network need --network of that name, got {parser.flags[key]} with network "
                    f"{name or 'left open'}: give --network {other}."
                )
    if name not in NETWORKS:
        return NetworkSettings(name)
    plain = {o.name: o.default for o in about(name).options}
    return NetworkSettings(name, {k: v for k, v in values[section(name)].items() if v != plain[k]})


def _default_out(command: str, names: list[str], data: str) -> str:
    from engram.studies.folders import folder_name

    return str(Path("runs") / folder_name("-".join([*names, Path(data).name])))


def _finish(outcome: Outcome, argv: list[str], quiet: bool) -> int:
    """Table, page, and a line for everything that went wrong."""
    words = [a for a in argv if a not in ("--resume", "--overwrite")]
    again = shlex.join(["engram", *words, "--resume"])
    if outcome.interrupted:
        left = sum(s["status"] != "done" for r in outcome.results for s in r["seeds"])
        seeds = "seed has" if left == 1 else "seeds have"
        print(
            f"engram: stopped, {left} {seeds} not finished; checkpoints stay. Go on with: {again}",
            file=sys.stderr,
        )
        return outcome.exit_code
    if not quiet:
        for label in outcome.kept:
            print(f"{label}: had already finished, its results stay (--overwrite runs it again)")
    print_table(outcome.results)
    if not quiet:
        print(f"Report: {outcome.report}")
    for p in outcome.problems:
        where = f"{p.label}, seed {p.seed}"
        how = "" if p.expected else f"; its checkpoints stay. Go on with: {again}"
        print(f"engram: {where}: {in_our_words(p.message)}{how}", file=sys.stderr)
    return outcome.exit_code


def console() -> Any:
    """Where tables are printed."""
    from rich.console import Console

    terminal = sys.stdout.isatty()
    return Console(
        width=None if terminal or "COLUMNS" in os.environ else 120, soft_wrap=False, highlight=False
    )


def print_table(results: Sequence[dict[str, Any]]) -> None:
    """The headline table of results."""
    from engram.report.table import headline_table, terminal

    screen = console()
    screen.print(terminal(headline_table(results), width=screen.width))
