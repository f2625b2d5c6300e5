"""Commands that look after a memory on disk: ``inspect``, ``verify``, ``undo``, ``forget`` and ``export``.

What is imported inside functions loads torch or rich, and is not needed for help and errors.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from engram.cli import ending
from engram.cli.command_line import flag_of
from engram.cli.learning import learn
from engram.cli.memory_words import USAGES, options, read, split
from engram.cli.predicting import predict
from engram.core.files import write_atomically
from engram.errors import ConfigError, EngramError, printable


@dataclass(frozen=True)
class Inspect:
    """Options of `engram inspect`.

    Args:
        html: write a page to this file too.
    """

    html: str | None = None


@dataclass(frozen=True)
class Undo:
    """Options of `engram undo`.

    Args:
        to: number of the state to go to, one of those that are kept, also a later one that was undone.
    """

    to: int | None = None


def main(command: str, words: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    run: Callable[[Sequence[str]], int] = {
        "learn": learn,
        "predict": predict,
        "inspect": inspect,
        "verify": verify,
        "undo": undo,
        "forget": forget,
        "export": export,
    }[command]
    return run(words)


def _one_memory(
    command: str, words: Sequence[str], kind: Any = None, n: int = 1
) -> tuple[list[str], Any] | None:
    """The ``n`` words and the options of a command on a memory; None where help was printed."""
    names, flags = split(words)
    values = read(command, flags, {"options": options(kind)} if kind else {})
    if values is None:
        return None
    if len(names) != n:
        raise ConfigError(
            f"usage must be engram {command} {USAGES[command]}, got {shlex.join(words) or 'nothing'}."
        )
    return names, kind and replace(kind, **{k: values.get(flag_of(k), v) for k, v in asdict(kind).items()})


def inspect(words: Sequence[str]) -> int:
    """``engram inspect``."""
    asked = _one_memory("inspect", words, Inspect())
    if asked is None:
        return 0
    (path,), own = asked
    # With torch and rich.
    from engram.cli.listing import table
    from engram.memory.facts import facts_of
    from engram.memory.memory import Memory

    facts = facts_of(Memory.open(path))
    screen = ending.console()
    screen.print(table(f"Memory {printable(path)}", ("what", "is"), list(facts.about.items())))
    for one in facts.tables:
        screen.print(table(one.title, one.columns, one.rows))
    if facts.command:
        print("Over DATA, whose train/ holds the images of all calls, this learns the same, bit for bit:")
        print(facts.command)
    if own.html is not None:
        from engram.report.memory_page import render  # jinja2

        write_atomically(Path(own.html), render(printable(path), facts).encode())
        print(f"Page: {printable(own.html)}")
    return 0


def verify(words: Sequence[str]) -> int:
    """``engram verify``."""
    asked = _one_memory("verify", words)
    if asked is None:
        return 0
    ((path,), _) = asked
    # As above.
    from engram.cli.listing import table
    from engram.memory.facts import state_table
    from engram.memory.memory import verify as look

    states = look(path)
    found = state_table(states)
    ending.console().print(table(found.title, found.columns, found.rows))
    faults = [one.fault for one in states if one.fault]
    if faults:
        raise EngramError(f"all states must be whole, {len(faults)} of {len(states)} are not ({faults[0]}).")
    return 0


def undo(words: Sequence[str]) -> int:
    """``engram undo``."""
    asked = _one_memory("undo", words, Undo())
    if asked is None:
        return 0
    (path,), own = asked
    from engram.memory.memory import Memory  # with torch

    print(f"{printable(path)}: {Memory.at(path).undo(own.to)}")
    return 0


def forget(words: Sequence[str]) -> int:
    """``engram forget``: where somebody sits at a terminal they are asked first."""
    asked = _one_memory("forget", words, n=2)
    if asked is None:
        return 0
    ((path, name), _) = asked
    from engram.memory.memory import Memory  # with torch

    memory = Memory.open(path)
    if sys.stdin.isatty() and name in memory.classes_:
        n = sum(call["classes"].get(name, {"images": 0})["images"] for call in memory.calls)
        print(
            f"{printable(name)}, learned from {n} images, and all earlier states go: engram undo brings nothing back."
        )
        print("Forget it? [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            print("Nothing was changed.")
            return 1
    memory.forget(name)
    left = f"{len(memory.classes_)} classes are known; state {memory.generation} is the only one"
    print(f"{printable(path)}: {printable(name)} is forgotten, {left}")
    return 0


def export(words: Sequence[str]) -> int:
    """``engram export``."""
    asked = _one_memory("export", words, n=2)
    if asked is None:
        return 0
    ((path, out), _) = asked
    from engram.memory.export import export as write  # with torch

    done = write(path, out)
    facts = done.facts
    shape = ", ".join(map(str, facts["input"]["shape"]))
    print(
        f"{printable(str(done.path))}: {facts['input']['name']} {facts['input']['type']} [{shape}] to probabilities of "
        f"{len(facts['classes'])} classes, {done.path.stat().st_size / 1024:,.0f} KiB"
    )
    print(f"Images: {facts['rule']}")
    if done.difference is None:
        print("Not compared with the memory: onnxruntime is not installed.")
    else:
        print(
            f"Compared with the memory on made-up images: probabilities differ by at most {done.difference:.1g}."
        )
    return 0
