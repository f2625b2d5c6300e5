"""Inputs of one kind, read one after another in a process of their own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from engram.errors import EngramError
from fuzz.kinds import KINDS, Kind, Silent

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["fuzz.kinds", "optuna"])
SECONDS = 30.0


class Said(NamedTuple):
    """What came of one input: read, refused, silent or traceback; why; MiB above the idle process."""

    outcome: str
    why: str = ""
    memory: float = 0.0


def attempts(kind: Kind, seed: int, numbers: Sequence[int]) -> Iterator[Said]:
    """Read the inputs of one kind with these numbers, in this process."""
    idle = _memory("VmRSS")
    for number in numbers:
        _forget_peak()
        said = Said("read")
        try:
            with contextlib.redirect_stderr(None):
                kind.attempt(random.Random(f"{type(kind).__name__} {seed} {number}"))
        except EngramError as error:
            lines = str(error).splitlines()
            said = Said("refused") if len(lines) == 1 else Said("traceback", f"{len(lines)} lines: {error}")
        except Silent as error:
            said = Said("silent", str(error))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            said = Said("traceback", traceback.format_exc())
        yield said._replace(memory=_memory("VmHWM") - idle)


def _memory(key: str) -> float:
    """MiB of this process; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(key)), 0.0)


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def work(name: str, seed: int, numbers: Sequence[int], told: Connection) -> None:
    """The whole of a process: says what came of each input."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ENGRAM_CACHE"] = str(Path(folder) / "cache")
        warnings.simplefilter("ignore")
        kind = KINDS[name](Path(folder) / name)
        told.send(None)
        for said in attempts(kind, seed, numbers):
            told.send(said)


def attack(name: str, seed: int, n: int) -> list[tuple[int, Said]]:
    """Read n inputs of one kind in processes of their own; a hang ends its process."""
    found: list[tuple[int, Said]] = []
    while len(found) < n:
        here, there = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=work, args=(name, seed, range(len(found), n), there))
        process.start()
        there.close()
        try:
            here.recv()  # the good input is made; EOFError where it could not
            with contextlib.suppress(EOFError):
                while len(found) < n and here.poll(SECONDS):
                    found.append((len(found), here.recv()))
                if len(found) < n:
                    found.append((len(found), Said("hang", f"more than {SECONDS:g} s")))
                continue
            found.append((len(found), Said("traceback", "its process died")))
        finally:
            process.kill()
            process.join()
            here.close()
    return found
