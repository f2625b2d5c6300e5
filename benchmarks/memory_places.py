"""Two writers, a reader beside a writer, and a disk that is full: a memory in real processes and on a real tmpfs.

    python benchmarks/memory_places.py [--rounds 20]

A child process reads a memory in a loop while another one learns and undoes; a third one, started while that holds the
memory, must be told who it is. Then a memory is copied to tmpfs mounts with less and less room (which needs root) and
learns: it must end with one line, and answer as before. Exit code 1 where anything else is found.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

from memory_kill import CONTEXT, TRAINED, answers, learn, memory

from engram.core.files import in_use
from engram.errors import EngramError
from engram.memory.memory import Memory


def read(root: Path, told: Connection) -> None:
    """Read until told to stop; tell how often, and which classes were there."""
    seen: Counter[str] = Counter()
    while not told.poll():
        try:
            seen[" ".join(answers(root)[0])] += 1
        except Exception as error:  # what must not be
            seen[f"FAILED {error}"] += 1
    told.send(seen)


def write(root: Path, rounds: int) -> None:
    """Learn and undo."""
    for _ in range(rounds):
        learn(root)
        Memory.open(root).undo()


def reader_and_writer(root: Path, rounds: int) -> Counter[str]:
    """What a reader saw while a writer worked."""
    here, there = CONTEXT.Pipe()
    reader = CONTEXT.Process(target=read, args=(root, there))
    reader.start()
    writer = CONTEXT.Process(target=write, args=(root, rounds))
    writer.start()
    writer.join()
    here.send("stop")
    seen: Counter[str] = here.recv()
    reader.join()
    if writer.exitcode:
        seen["FAILED writer"] += 1
    return seen


def two_writers(root: Path) -> str:
    """What the second one is told while this process holds the memory."""
    with in_use(root, "wait for it"):
        words = ["learn", "digits:0-1", "--into", str(root)]
        done = subprocess.run(
            [sys.executable, "-m", "engram", *words], capture_output=True, text=True, check=False
        )
    return f"exit code {done.returncode}: {done.stderr.strip()}"


def full(base: Path, room: int, place: Path) -> str:
    """How a learn ends on a tmpfs with so many bytes to spare beside the memory."""
    size = sum(max(4096, -(-p.stat().st_size // 4096) * 4096) for p in base.rglob("*")) + room
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)], check=True)
    try:
        root = Path(shutil.copytree(base, place / "memory"))
        before = answers(root)
        try:
            learn(root)
            return "learned" if answers(root) != before else "FAILED: nothing was learned"
        except EngramError as error:
            told = "one line" if "\n" not in str(error) and "make room" in str(error) else f"FAILED: {error}"
        return f"{told}, as before" if answers(root) == before else "FAILED: answers otherwise"
    finally:
        subprocess.run(["umount", str(place)], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        base = memory(Path(place) / "base", TRAINED)
        found = [two_writers(base)]
        began = time.perf_counter()
        seen = reader_and_writer(base, asked.rounds)
        found.append(
            f"{asked.rounds} times learned and undone in {time.perf_counter() - began:.0f} s; read: {dict(seen)}"
        )
        (Path(place) / "disk").mkdir()
        for room in (0, 8, 16, 32, 64, 96, 128, 256, 512, 1024):
            found.append(f"{room} KiB to spare: {full(base, room << 10, Path(place) / 'disk')}")
    print("\n".join(found))
    return int(any("FAILED" in one for one in found) or "exit code 2" not in found[0])


if __name__ == "__main__":
    sys.exit(main())
