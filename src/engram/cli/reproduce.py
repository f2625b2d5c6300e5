"""``engram reproduce``: a table or figure of a paper, published beside measured, with verdicts."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from engram.cli import ending
from engram.cli.command_line import Parser
from engram.errors import ConfigError, printable
from engram.recipes.published import TABLES
from engram.recipes.targets import BUDGETS, TARGETS, Target, plan, target

__all__ = ["main"]

RECORD = "reproductions"

HELP = f"""\
usage: engram reproduce TARGET [--budget quick|full] [options]
       engram reproduce --list

Run what is missing of a table or figure of a paper, go on with what was begun, and print what is published beside
what was measured, each with a verdict computed from results: reached; short by so much; not comparable, and why; not
run. DIR gets table.md, reproduction.json, figures/, results/, and a study a part of the target.

targets: {", ".join(TARGETS)}

  --list                 the targets: what each costs, its data, what stands in for data that cannot be had, and which
                         of its runs there are
  --budget quick|full    quick: a stated smaller setting, within hours on two cores; full: the paper's. Default: quick.
  --out DIR              default: runs/reproduce-TARGET-BUDGET; the same command goes on with what is there
  --results DIR ...      folders with results that were made elsewhere, by any command; those of the same settings
                         count as run here. Default: {RECORD}, where that folder is there; it is read beside them too
  --no-run               train nothing: verdicts on what there is
  --seeds N ...          of every row, instead of the target's
  --data-dir DIR         folder with data sets as sub-folders; by default $ENGRAM_DATA
  --device DEVICE        cpu, cuda, or auto. Default: cpu.
  --jobs N               processes side by side
  --accept-edited        take files that were edited as they are; what follows from them is computed anew
  --quiet                no progress
"""


def main(words: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    parser = Parser("engram reproduce", HELP)
    parser.add_argument("target", nargs="?")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--budget", default="quick")
    parser.add_argument("--out")
    parser.add_argument("--results", nargs="+", default=[])
    parser.add_argument("--no-run", action="store_true")
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--data-dir")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--accept-edited", action="store_true")
    parser.add_argument("--quiet", action="store_true")
    asked = parser.parse(list(words))
    if asked is None:
        return 0
    folders = [*([RECORD] if Path(RECORD).is_dir() and RECORD not in asked.results else []), *asked.results]
    if asked.list:
        return _list(TARGETS.values() if asked.target is None else [target(asked.target)], folders, asked)
    if asked.target is None:
        raise ConfigError(
            f"a target must be named, got none: {', '.join(TARGETS)}; see engram reproduce --list."
        )
    plan(target(asked.target), asked.budget)
    # Numbers and figures come with these, which help and errors do without.
    from engram.api import reproduce
    from engram.report.table import terminal

    with ending.watched(f"{asked.target}: {target(asked.target).what}", quiet=asked.quiet) as progress:
        made = reproduce(
            asked.target,
            budget=asked.budget,
            out=asked.out,
            results=folders,
            seeds=asked.seeds,
            run=not asked.no_run,
            data_dir=asked.data_dir,
            device=asked.device,
            jobs=asked.jobs,
            accept_edited=asked.accept_edited,
            listener=progress,
        )
    screen = ending.console()
    for table in made.conclusion.tables:
        screen.print(terminal(table, width=screen.width))
    if target(asked.target).note:
        screen.print(target(asked.target).note)
    print(f"Written: {made.out / 'table.md'}, {len(made.figures)} figures, {made.out / 'reproduction.json'}")
    interrupted = any(o.interrupted for o in made.outcomes)
    if made.undrawn and (interrupted or RECORD not in folders):
        print(f"Not drawn: {', '.join(made.undrawn)}. No run that has ended holds what they show.")
    elif made.undrawn:
        print(
            f"Not drawn: {', '.join(made.undrawn)}. No result here holds what they show: files under {RECORD}/ are "
            "kept without images and, but for a few gates, without what each epoch measured. Started where there is no "
            "such folder, the command makes runs that hold it."
        )
    _tell_empty(made.empty)
    for outcome in made.outcomes:
        for p in outcome.problems:
            print(f"engram: {p.label}, seed {p.seed}: {p.message}", file=sys.stderr)
        for line in outcome.unwritten:
            print(f"engram: {line}", file=sys.stderr)
    if interrupted:
        again = shlex.join(["engram", "reproduce", *words])
        print(f"engram: stopped; what was begun stays. Go on with: {again}", file=sys.stderr)
    return made.exit_code


def _tell_empty(folders: Sequence[Path]) -> None:
    for folder in folders:
        print(f"note: no result of engram lies in {printable(str(folder))}", file=sys.stderr)


def _list(targets: Iterable[Target], folders: Sequence[str], asked: argparse.Namespace) -> int:
    """Targets with cost, data, and how many of their runs are in these folders."""
    # As above.
    from engram.cli.listing import table
    from engram.studies.reproduction import found, gather, seeds_of

    gathered = gather(map(Path, folders), accept_edited=asked.accept_edited)
    _tell_empty(gathered.empty)
    rows = []
    for one in targets:
        for budget in BUDGETS:
            if budget not in one.plans:
                continue
            of = one.plans[budget]
            have = want = 0
            for part in of.parts:
                there = found(part, part.seeds, gathered)
                want += len(part.rows) * len(part.seeds)
                have += sum(len(seeds_of(there, row)) for row in part.rows)
            figures = sum(
                len(v) for p in of.parts if p.published for v in TABLES[p.published].values.values()
            )
            runs = f"{have} of {want}" if want else "seconds"
            rows.append((one.name, budget, one.what, of.cost, of.data, runs, str(figures or "none")))
    columns = ("target", "budget", "what", "cost", "data", "runs there", "published figures")
    ending.console().print(table("Targets (engram reproduce TARGET)", columns, rows))
    return 0
