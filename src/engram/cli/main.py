"""The command line: ``engram run`` and its sisters, ``learn``, ``predict``, ``report`` and ``list``.

Exit status: 0 all fine; 1 a worker died; 2 something the user can act on, said in one line; 130 interrupted.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import engram
from engram.cli import cache, commands, ending
from engram.cli.command_line import Parser, fitted
from engram.cli.memory_words import USAGES
from engram.core.files import os_errors
from engram.core.options import closest
from engram.errors import ConfigError, EngramError, printable
from engram.methods import registry
from engram.report import write_report

HELP = """\
usage: engram COMMAND ...

Continual learning that remembers without keeping the old data.

commands:
  run METHOD [options]             learn a stream of tasks with one method
  compare METHOD METHOD [options]  with several methods, side by side; NAME:option=value is a variant
  sweep METHOD --over NAME=v1,v2   with several values of an option, and choose one on validation data
  tradeoff METHOD METHOD [options] source against target accuracy over each method's own option
  reproduce TARGET | --list        a table or figure of a paper: published beside measured, with verdicts
  learn DATA --into MEMORY         learn new classes into a memory on disk, without the images of before
  predict MEMORY IMAGE ...         name what images show
  inspect | verify | undo MEMORY   what it knows and keeps; whether that is whole; one state back
  forget MEMORY CLASS              remove a class exactly, where the method can
  export MEMORY FILE.onnx          one file that answers without engram (or FILE.pt2)
  report DIR [--format csv]        the page, a table for a paper or a spreadsheet, of a folder of results
  cache [--clear]                  what is kept of data sets, so that they are decoded once; remove it
  list [METHOD]                    methods, data, networks and recipes; or the options of a method

  --version                        the version
  engram run METHOD --help         all options

examples:
  engram compare dgmw finetune joint --data digits --tasks 10 --seeds 0 1 2 --out demo
  engram run dgmw --recipe dgmw-mnist --device cuda --out runs/dgmw
  engram compare dgmw dgmw:solver=shared --data digits --out solvers
  engram run dgmw --data digits --dgmw.epochs 50 --out runs/try --resume
  engram sweep si --over c=0.01,0.1,1,10 --data digits --tasks 5 --seeds 0 1 2 --out runs/si
  engram learn photos/ --into memory && engram predict memory new.jpg
  engram tradeoff lwf ewc frozen --source mnist:0-4 --target mnist:5-9 --out runs/curves
"""
LEARNING = ("run", "compare", "sweep", "tradeoff")
COMMANDS = (*LEARNING, *USAGES, "reproduce", "report", "list", "cache")


SPELLED = "engram.spelled"
ASCII = {"±": "+-", "–": "-", "…": "..."}


def _spelled(error: UnicodeError) -> tuple[str, int]:
    """Characters that the encoding of standard output lacks, in ASCII."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join(
        ASCII.get(c) or printable(c).encode("ascii", "backslashreplace").decode() for c in lacking
    ), error.end


codecs.register_error(SPELLED, _spelled)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status. Prints one line for every error a user can act on."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed: whoever started us wants to hear nothing
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - as long as the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=SPELLED)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # names of files need not be text
    try:
        with _notes(), os_errors():
            code = _dispatch(arguments)
            sys.stdout.flush()
            return code
    except EngramError as error:
        print(f"engram: {ending.in_our_words(' '.join(str(error).split()))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("engram: stopped.", file=sys.stderr)
        return 130
    except SystemExit as error:
        print(
            f"engram: code of your own must not end the process, it did (exit status {error.code}).",
            file=sys.stderr,
        )
        return 1
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EBADF):
            raise
        # Else the end of the process fails to write what is left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        learns = (
            arguments[:1]
            and arguments[0] in (*LEARNING, "learn", "reproduce")
            and not {"-h", "--help"} & {*arguments}
        )
        if error.errno == errno.EPIPE and not learns:  # the reader has seen enough
            return 0
        message = f"standard output must be writable to the end, it is not: {error.strerror}."
        print(f"engram: {message}", file=sys.stderr)
        return 2


@contextlib.contextmanager
def _notes() -> Iterator[None]:
    """Warnings as one line each."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"engram: note: {printable(' '.join(str(message).split()))}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = show
        yield


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(fitted(HELP), end="")
        return 0
    if argv[0] in ("--version", "-V"):
        print(f"engram {engram.__version__}")
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
    if command == "reproduce":
        from engram.cli import reproduce  # with the tables of papers, which no other command needs

        return reproduce.main(rest)
    if command == "cache":
        return cache.main(rest)
    if command in USAGES:
        from engram.cli import memory  # with what a memory on disk is, as above

        return memory.main(command, rest)
    return commands.main(command, rest)


REPORT = """\
usage: engram report DIR [--format FORMAT ...] [--style FILE] [--paired METHOD METHOD] [--accept-edited]

Draw DIR/report.html and the figures of a folder of results again, and print its table. DIR/figures gets each figure as
SVG, PDF and PNG, its numbers as CSV, and captions.md.

  --format FORMAT ...       what to write: html (page and figures), csv (results.csv: a row a method, seed and pair of
                            tasks), latex (table.tex, with package booktabs), markdown (table.md), json
                            (results-all.json: everything measured). Default: html.
  --style FILE              a matplotlib style file (such as figure.figsize: 3.3, 2.2) for the files in DIR/figures
  --paired METHOD METHOD    also print the difference of two methods over the seeds that both have finished, with
                            its interval and what that takes for granted
  --accept-edited           take files that were edited as they are: what follows from them is computed anew, and
                            tables and page say so
"""


def _report(rest: list[str]) -> int:
    # Numbers come with these, which help and errors of other commands do without.
    from engram.report import exports
    from engram.studies import tidy
    from engram.studies.results import read

    parser = Parser("engram report", REPORT)
    parser.add_argument("folder", metavar="DIR")
    parser.add_argument("--format", nargs="+", choices=("html", *exports.FORMATS), default=["html"])
    parser.add_argument("--style")
    parser.add_argument("--paired", nargs=2)
    parser.add_argument("--accept-edited", action="store_true")
    asked = parser.parse(rest)
    if asked is None:
        return 0
    if asked.style and "html" not in asked.format:
        raise ConfigError(
            "--style is of the figures that --format html draws, which is not asked for: add html."
        )
    accept = {"accept_edited": asked.accept_edited}
    results = [f.result for f in read(asked.folder, **accept).results]
    pair = tidy.paired(results, *asked.paired) if asked.paired else None  # refused before anything is drawn
    formats = dict.fromkeys(asked.format)
    written = [
        write_report(asked.folder, sheet=asked.style, **accept)
        if one == "html"
        else exports.export(asked.folder, one, **accept)
        for one in formats
    ]
    ending.print_tables(Path(asked.folder), **accept)
    if pair is not None:
        print(f"{pair} {tidy.ASSUMPTIONS}" if pair.difference.n > 1 else pair)
    for path in written:
        print(f"{'Report' if path.suffix == '.html' else 'Written'}: {printable(str(path))}")
    return 0


LIST = """\
usage: engram list [METHOD] [--method-file FILE ...]

Methods, data, networks and recipes; or the options of a method. Files of methods of your own are read first.
"""


def _list(rest: list[str]) -> int:
    parser = Parser("engram list", LIST)
    parser.add_argument("method", nargs="?")
    parser.add_argument("--method-file", nargs="+", action="extend", default=[])
    asked = parser.parse(rest)
    if asked is None:
        return 0
    for path in asked.method_file:
        registry.add_file(path)
    from engram.cli.listing import everything, one_method  # with rich, which help does without

    screen = ending.console()
    for part in one_method(asked.method) if asked.method else everything():
        screen.print(part)
    return 0
