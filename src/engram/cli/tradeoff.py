"""``engram tradeoff METHOD [METHOD ...] --source A --target B [options]``."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.cli.argv import config_first, value_of, yaml_of
from engram.core.options import split_variant
from engram.errors import ConfigError
from engram.studies.tradeoff_plan import RECIPE, Plan, parse_grids

if TYPE_CHECKING:
    from engram.cli.parser import Parser
    from engram.studies.tradeoff import TradeoffOutcome

USAGE = "engram tradeoff METHOD [METHOD ...] --source A --target B [options]"
HELP = f"""\
usage: {USAGE}

Trade-off curves between a source and a target task over each method's own option, compared by two measures: the
maximum achievable average accuracy, and the source accuracy at a required target accuracy.

Name methods to see all options: engram tradeoff lwf ewc --help
Methods: see engram list. Without --recipe the recipe {RECIPE} is used.
"""


def main(rest: list[str]) -> int:
    """Run the command; returns the exit status."""
    names: list[str] = []
    while rest and not rest[0].startswith("-"):
        names.append(rest.pop(0))
    if not names:
        if any(a in ("-h", "--help") for a in rest):
            print(HELP, end="")
            return 0
        raise ConfigError(f"a method must be named first, got none: {USAGE}, see engram list.")

    from engram.cli.main import network_of, terminable
    from engram.cli.parser import DECIDED, MUTED, build, section
    from engram.cli.progress import Progress
    from engram.core.options import options_of
    from engram.methods.registry import check_name
    from engram.studies.comparison import chosen_recipe, variant
    from engram.studies.settings import DataSettings
    from engram.studies.sweep_plan import found_device
    from engram.studies.tradeoff import execute, settings_of, with_finetune

    for flag in (f"--{name.replace('_', '-')}" for name in DECIDED):
        if any(a == flag or a.startswith(f"{flag}=") for a in rest):
            raise ConfigError(
                f"{flag} must be left out, a trade-off is between two tasks with task labels: "
                "give --source and --target."
            )
    os.environ |= {k: v for k, v in MUTED.items() if k not in os.environ}
    named, beside = with_finetune(names)
    bases = list(dict.fromkeys(split_variant(name)[0] for name in named))
    for name in bases:
        check_name(name)
    asked = value_of(rest, "--recipe") or yaml_of(value_of(rest, "--config")).get("recipe")
    recipe = chosen_recipe(asked or RECIPE, "")
    parser = build("tradeoff", bases, recipe)
    values = dict(parser.parse_args(config_first(rest)).as_dict())
    grids = parse_grids(values["over"] or [])
    _left_open(parser, values, bases, set(grids))
    fields = {**(recipe.data if recipe else {})}
    fields |= {o.name: values[o.name] for o in options_of(DataSettings()) if o.name in values}
    plan = Plan(
        tuple(variant(text, values[section(text.partition(":")[0])]) for text in named),
        settings_of(values["source"], values["target"], fields),
        network_of(parser, values),
        grids,
        values["points"],
        values["widen"],
        tuple(values["required"]),
        beside,
        tuple(values["seeds"]),
        found_device(values["device"]),
        values["jobs"],
        values["resume"],
        values["overwrite"],
        recipe.name if recipe else None,
    )
    source, target = (Path(one).name for one in plan.data.sets)
    out = Path(values["out"] or Path("runs") / f"tradeoff-{source}-{target}".replace(":", "-"))
    quiet = bool(values["quiet"])
    said = f"recipe {recipe.name}{'' if asked else ' (default)'}: {recipe.summary}\n" if recipe else ""
    said += (
        f"{100 * plan.data.valid_fraction:.3g} % of the training samples are held out as validation samples"
    )
    said += "\nfinetune is run beside: the required target accuracies come from it" if beside else ""
    with Progress(quiet=quiet, headline=said, tensorboard=values["tensorboard"]) as progress, terminable():
        outcome = execute(plan, out, listener=progress)
    return _finish(outcome, ["tradeoff", *names, *rest], quiet)


def _left_open(parser: Parser, values: dict[str, Any], bases: list[str], by_hand: set[str]) -> None:
    """Refuse a value for an option that a curve varies: it would have no effect."""
    from engram.cli.parser import section
    from engram.methods.registry import about

    for name in bases:
        option = about(name).tradeoff
        if option is None or name in by_hand:
            continue
        key = f"{section(name)}.{option}"
        if values[section(name)][option] != parser.known[key].default:
            raise ConfigError(
                f"{parser.flags[key]} must be left out, the curve of {name} varies it, got "
                f"{values[section(name)][option]!r}: give its values with --over {name}.{option}=v1,v2,v3."
            )


def _finish(outcome: TradeoffOutcome, argv: list[str], quiet: bool) -> int:
    words = [a for a in argv if a not in ("--resume", "--overwrite")]
    again = shlex.join(["engram", *words, "--resume"])
    if outcome.interrupted:
        points = [p for m in outcome.tradeoff["methods"] for p in m["points"]]
        left = sum(p["status"] == "unfinished" for p in points)
        print(
            f"engram: stopped, {left} of {len(points)} points not finished; checkpoints stay. Go on with: {again}",
            file=sys.stderr,
        )
        return outcome.exit_code
    if not quiet and outcome.kept:
        print(
            f"{len(outcome.kept)} points had already finished, their results stay (--overwrite runs them again)"
        )
    print_tradeoff(outcome.out)
    if not quiet:
        print(f"Report: {outcome.report}")
    for p in outcome.problems:
        how = "" if p.expected else f"; its checkpoints stay. Go on with: {again}"
        print(f"engram: {p.label}, seed {p.seed}: {p.message}{how}", file=sys.stderr)
    return outcome.exit_code


def print_tradeoff(folder: Path) -> None:
    """The table of both measures, and what to know about it."""
    from engram.cli.main import console
    from engram.report.figures_tradeoff import measures_table
    from engram.report.table import terminal
    from engram.studies.tradeoff_file import read_tradeoff

    screen = console()
    screen.print(terminal(measures_table(read_tradeoff(folder)), width=screen.width))
