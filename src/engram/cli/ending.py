"""How a command ends: its table, its page, a line for everything that went wrong, and how to go on."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.cli.command_line import KINDS
from engram.core.options import options_of
from engram.studies.settings import DataSettings

if TYPE_CHECKING:
    from engram.studies.comparison import Outcome
    from engram.studies.sweep import SweepOutcome
    from engram.studies.tradeoff import TradeoffOutcome


def in_our_words(message: str) -> str:
    """A message of the library with the names of the command line: ``--image-size`` for ``image_size=``."""
    settings = (DataSettings(), *(kind() for kind in KINDS.values()))
    plain = {o.name for one in settings for o in options_of(one)}
    flags = {"n_tasks": "--tasks", **{name: f"--{name.replace('_', '-')}" for name in plain if "_" in name}}
    # Not within a path, a quotation or a longer name such as data.stream_seed.
    names = "|".join(flags)
    message = re.sub(rf"(?<![\w./'\"-])({names})(?![\w./'\":-])=?", lambda m: flags[m[1]], message)
    return re.sub(rf"^({'|'.join(plain)}|\w[\w-]*\.\w+)(?= must )", r"--\1", message)


def of_runs(outcome: Outcome, argv: Sequence[str], quiet: bool) -> int:
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


def of_sweep(outcome: SweepOutcome, argv: Sequence[str], quiet: bool) -> int:
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
        print(f"engram: {p.label}, seed {p.seed}: {in_our_words(p.message)}{how}", file=sys.stderr)
    return outcome.exit_code


def of_tradeoff(outcome: TradeoffOutcome, argv: Sequence[str], quiet: bool) -> int:
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
        print(f"engram: {p.label}, seed {p.seed}: {in_our_words(p.message)}{how}", file=sys.stderr)
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


def print_sweep(folder: Path) -> None:
    """The table of a sweep, and the choice in a line."""
    from engram.report.figures_sweep import chosen_words, sweep_table
    from engram.report.table import terminal
    from engram.studies.sweep_file import read_sweep

    sweep = read_sweep(folder)
    screen = console()
    screen.print(terminal(sweep_table(sweep), width=screen.width))
    print(chosen_words(sweep))


def print_tradeoff(folder: Path) -> None:
    """The table of both measures, and what to know about it."""
    from engram.report.figures_tradeoff import measures_table
    from engram.report.table import terminal
    from engram.studies.tradeoff_file import read_tradeoff

    screen = console()
    screen.print(terminal(measures_table(read_tradeoff(folder)), width=screen.width))
