"""``engram sweep METHOD --over NAME=v1,v2,... [options]``."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from engram.cli.argv import config_first, recipe_of
from engram.errors import ConfigError

if TYPE_CHECKING:
    from engram.studies.sweep import SweepOutcome

USAGE = "engram sweep METHOD --over NAME=v1,v2,... [options]"


def main(rest: list[str]) -> int:
    """Run the command; returns the exit status."""
    names: list[str] = []
    while rest and not rest[0].startswith("-"):
        names.append(rest.pop(0))
    if not names and any(a in ("-h", "--help") for a in rest):
        print(f"usage: {USAGE}\n\nName a method to see all options: engram sweep si --help")
        return 0
    if len(names) != 1:
        raise ConfigError(f"engram sweep takes one method, got {', '.join(names) or 'none'}: {USAGE}.")

    from engram.cli.main import network_of, terminable
    from engram.cli.parser import MUTED, build, section
    from engram.cli.progress import Progress
    from engram.core.options import options_of
    from engram.methods.registry import check_name
    from engram.studies.axes import not_both, parse_over
    from engram.studies.settings import DataSettings
    from engram.studies.sweep import execute
    from engram.studies.sweep_plan import Plan, found_device

    os.environ |= {k: v for k, v in MUTED.items() if k not in os.environ}
    (name,) = names
    check_name(name)
    recipe, why = recipe_of(rest)
    parser = build("sweep", [name], recipe)
    values = dict(parser.parse_args(config_first(rest)).as_dict())
    if values["groups"] or values["angles"]:
        values["tasks"] = None if values["tasks"] == parser.known["tasks"].default else values["tasks"]
    data = DataSettings(**{o.name: values[o.name] for o in options_of(DataSettings())})
    axes = tuple(parse_over(name, values["over"] or []))
    for axis in axes:
        flag = f"--{section(name)}.{axis.name}"
        if any(word.split("=")[0].replace("-", "_") == flag.replace("-", "_") for word in rest):
            raise not_both(axis.name)
    plan = Plan(
        name,
        values[section(name)],
        axes,
        data,
        network_of(parser, values),
        tuple(values["seeds"]),
        values["engine"],
        values["trials"],
        values["sweep_seed"],
        values["choose_on"],
        values["address"],
        found_device(values["device"]),
        values["jobs"],
        values["resume"],
        values["overwrite"],
        recipe.name if recipe else None,
    )
    out = Path(values["out"] or Path("runs") / f"sweep-{name}-{Path(data.data).name}")
    quiet = bool(values["quiet"])
    said = f"recipe {recipe.name}{why}: {recipe.summary}\n" if recipe else ""
    said += f"{100 * data.valid_fraction:.3g} % of the training samples are held out as validation samples"
    said += "; on the accelerator found here" if (values["device"], plan.device) == ("auto", "cuda") else ""
    with Progress(quiet=quiet, headline=said, tensorboard=values["tensorboard"]) as progress, terminable():
        outcome = execute(plan, out, listener=progress)
    return _finish(outcome, ["sweep", name, *rest], quiet)


def _finish(outcome: SweepOutcome, argv: list[str], quiet: bool) -> int:
    words = [a for a in argv if a not in ("--resume", "--overwrite")]
    again = shlex.join(["engram", *words, "--resume"])
    if outcome.interrupted:
        left = sum(t["status"] not in ("done", "pruned") for t in outcome.sweep["trials"])
        print(
            f"engram: stopped, {left} trials not finished; checkpoints stay. Go on with: {again}",
            file=sys.stderr,
        )
        return outcome.exit_code
    if not quiet and outcome.kept:
        print(
            f"{len(outcome.kept)} trials had already finished, their results stay (--overwrite runs them again)"
        )
    print_sweep(outcome.out)
    if not quiet:
        print(f"Report: {outcome.report}")
    for p in outcome.problems:
        how = "" if p.expected else f"; its checkpoints stay. Go on with: {again}"
        print(f"engram: {p.label}, seed {p.seed}: {p.message}{how}", file=sys.stderr)
    return outcome.exit_code


def print_sweep(folder: Path) -> None:
    """The table of a sweep, and the choice in a line."""
    from engram.cli.main import console
    from engram.report.figures_sweep import chosen_words, sweep_table
    from engram.report.table import terminal
    from engram.studies.sweep_file import read_sweep

    sweep = read_sweep(folder)
    screen = console()
    screen.print(terminal(sweep_table(sweep), width=screen.width))
    print(chosen_words(sweep))
