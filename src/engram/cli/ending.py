"""How a command is watched and how it ends: the table, the page, and a line for everything that went wrong."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram import features, networks
from engram.cli.command_line import KINDS
from engram.core.options import options_of
from engram.errors import printable
from engram.methods import registry
from engram.studies.settings import DataSettings

if TYPE_CHECKING:
    from engram.studies.study import Outcome

MOST_NAMED = 3


def in_our_words(message: str) -> str:
    """A message of the library with the names of the command line: ``--image-size`` for ``image_size=``."""
    settings = (DataSettings(), *(kind() for kind in KINDS.values()))
    plain = {o.name for one in settings for o in options_of(one)}
    flags = {"n_tasks": "--tasks", **{name: f"--{name.replace('_', '-')}" for name in plain if "_" in name}}
    # Not within a path, a quotation or a longer name such as data.stream_seed.
    names = "|".join(flags)
    message = re.sub(rf"(?<![\w./'\"-])({names})(?![\w./'\":-])=?", lambda m: flags[m[1]], message)
    owners = "|".join(map(re.escape, (*registry.METHODS, *networks.NETWORKS, *features.FEATURES)))
    return re.sub(rf"^({'|'.join(plain)}|({owners})\.(?!py\b)\w+)(?= must )", r"--\1", message)


def finish(outcome: Outcome, argv: Sequence[str], quiet: bool, accept_edited: bool = False) -> int:
    """Say what came of a study; the exit status."""
    words = [a for a in argv if a not in ("--resume", "--overwrite")]
    again = " ".join(map(_quoted, ["engram", *words, "--resume"]))
    if outcome.interrupted:
        pruned = {t["name"] for t in outcome.found.get("trials", ()) if t["status"] == "pruned"}
        going = [r for r in outcome.results if r["label"] not in pruned]
        left = sum(s["status"] == "unfinished" for r in going for s in r["seeds"])
        seeds = "seed has" if left == 1 else "seeds have"
        stay = "checkpoints stay" if outcome.begun else "none has a checkpoint yet"
        print(f"engram: stopped, {left} {seeds} not finished; {stay}. Go on with: {again}", file=sys.stderr)
        return outcome.exit_code
    if outcome.kept and not quiet:
        named = (
            ", ".join(outcome.kept) if len(outcome.kept) <= MOST_NAMED else f"{len(outcome.kept)} variants"
        )
        print(f"{named}: had already finished, results stay (--overwrite runs again)")
    labels = [r["label"] for r in outcome.results]
    print_tables(outcome.out, labels, accept_edited=accept_edited)
    if not quiet and outcome.report is not None:
        print(f"Report: {printable(str(outcome.report))}")
    for p in outcome.problems:
        stay = "its checkpoints stay" if p.begun else "it has no checkpoint yet"
        how = f"; {stay}. Go on with: {again}" if p.again else ""
        message = printable(in_our_words(p.message.rstrip(".") if how else p.message))
        print(f"engram: {p.label}, seed {p.seed}: {message}{how}", file=sys.stderr)
    for line in outcome.unwritten:
        print(f"engram: {line}", file=sys.stderr)
    return outcome.exit_code


def _quoted(word: str) -> str:
    """A word as a shell takes it, printable."""
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + printable(re.sub(r"(['\\])", r"\\\1", word)) + "'"


def print_tables(folder: Path, labels: Sequence[str] | None = None, *, accept_edited: bool = False) -> None:
    """The table of what a folder holds; of a comparison only the methods named, if any are."""
    # Numbers and rich cost a moment; a command that ends in an error does without.
    from engram.report.exports import main_table
    from engram.report.figures_sweep import chosen_words
    from engram.report.table import terminal
    from engram.studies.results import read

    study = read(folder, accept_edited=accept_edited)
    screen = console()
    if study.kind in ("run", "comparison") and labels is not None:
        study = replace(study, results=[f for f in study.results if f.result["label"] in labels])
    table = main_table(study)
    screen.print(terminal(table, width=screen.width))
    if study.kind == "sweep":
        print(chosen_words(study.found))


def console() -> Any:
    """Where tables are printed."""
    from rich.console import Console  # slow to import

    def left() -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    terminal = sys.stdout.isatty()
    screen = Console(
        width=None if terminal or "COLUMNS" in os.environ else 120, soft_wrap=False, highlight=False
    )
    screen.on_broken_pipe = left  # type: ignore[method-assign] # rich would end the process
    return screen


@contextlib.contextmanager
def watched(said: str, *, quiet: bool = False, track: Sequence[str] = ()) -> Iterator[Any]:
    """What is going on is shown; a polite kill stops the workers too, as Ctrl-C does."""
    from engram.studies.progress import Progress  # with rich, which help does without

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if in_main else None
    try:
        with Progress(quiet=quiet, headline=said, track=track) as progress:
            yield progress
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, before)
