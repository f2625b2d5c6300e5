"""Kill a memory's writers at random and see that it is as before or as after, never otherwise.

    python benchmarks/memory_kill.py --kills 200 [--seed 0]

`learn` (of a trained method and of one in closed form), `undo` and `forget` run as child processes on a copy of a small
memory and are killed with SIGKILL after a random time. After each kill every state must be whole (`verify`), the
memory must answer as before or as after, bit by bit, and a killed `learn` must end, called again, as one that was not.
Prints one line an operation; exit code 1 where anything else is found.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from engram.learning import checkpoint
from engram.memory.memory import Memory, verify

# Children are forked from a process that has loaded torch.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["engram.memory.memory", "engram.features.pixels"])
ASKED = np.random.default_rng(9).integers(0, 255, (20, 8, 8)).astype(np.uint8)
TRAINED = {"method": "finetune", "network": "mlp", "method_options": {"epochs": 6}}
CLOSED = {"method": "slda", "features": "pixels", "method_options": {"scatter": "classes"}}


def images(name: str) -> np.ndarray:
    """Images of a class."""
    rng = np.random.default_rng(ord(name))
    return (rng.integers(0, 80, (30, 8, 8)) + 150 * (np.arange(8) == ord(name) % 8)[:, None]).astype(np.uint8)


def learn(root: Path) -> None:
    Memory.open(root).learn({"d": images("d"), "e": images("e")})


def undo(root: Path) -> None:
    Memory.open(root).undo()


def forget(root: Path) -> None:
    Memory.open(root).forget("b")


#: What is killed, by name: the settings of the memory, and the operation.
OPERATIONS: Mapping[str, tuple[dict[str, Any], Callable[[Path], None]]] = {
    "learn, trained": (TRAINED, learn),
    "learn, closed form": (CLOSED, learn),
    "undo": (TRAINED, undo),
    "forget": (CLOSED, forget),
}


def memory(root: Path, settings: Mapping[str, Any]) -> Path:
    """A memory of three classes in two states."""
    known = Memory.create(root, **settings)
    known.learn({"a": images("a"), "b": images("b")})
    known.learn({"c": images("c")})
    return root


def answers(root: Path) -> tuple[list[str], bytes]:
    """What a memory answers."""
    known = Memory.open(root)
    return known.classes_.tolist(), known.predict_proba(ASKED).tobytes()


def _child(name: str, root: Path, told: Connection) -> None:
    checkpoint.LEAST_SECONDS, checkpoint.SHARE = 0.0, float("inf")  # every epoch, so that kills meet them
    told.send("begun")
    OPERATIONS[name][1](root)


def killed(name: str, root: Path, after: float) -> bool:
    """Do an operation in a child and kill it after so many seconds; whether it was still at work."""
    here, there = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_child, args=(name, root, there))
    process.start()
    there.close()
    here.recv()
    process.join(after)
    at_work = process.is_alive()
    process.kill()
    process.join()
    here.close()
    if not at_work and process.exitcode:
        raise RuntimeError(f"{name} failed before it was killed")
    return at_work


def fault(root: Path, before: object, after: object) -> str:
    """What is wrong with a memory whose writer was killed; empty where nothing is."""
    bad = [state.fault for state in verify(root) if state.fault]
    if bad:
        return bad[0]
    now = answers(root)
    return "" if now in (before, after) else f"answers neither as before nor as after: {now[0]}"


def rounds(name: str, n: int, rng: random.Random, place: Path) -> tuple[Counter[str], list[str]]:
    """Kill an operation ``n`` times: how each was found, and what was wrong."""
    settings, operation = OPERATIONS[name]
    base = memory(place / "base", settings)
    straight = Path(shutil.copytree(base, place / "straight"))
    killed(name, straight, 600.0)  # what forked children load at first is not timed
    shutil.rmtree(straight)
    shutil.copytree(base, straight)
    began = time.perf_counter()
    killed(name, straight, 600.0)
    seconds, before, after = time.perf_counter() - began, answers(base), answers(straight)
    found: Counter[str] = Counter()
    wrong = []
    for _ in range(n):
        root = Path(shutil.copytree(base, place / "killed"))
        at_work = killed(name, root, rng.uniform(0, seconds))
        problem = fault(root, before, after)
        state = "after" if not problem and answers(root) == after else "before"
        begun = Memory.open(root).unfinished() is not None
        found["killed at work" if at_work else "done"] += 1
        found[f"as {state}"] += 1
        found["unfinished, went on"] += begun
        if not problem and operation is learn:
            operation(root)
            problem = "" if answers(root) == after else "called again, it ends otherwise"
        if problem:
            wrong.append(problem)
        shutil.rmtree(root)
    return found, wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng, failed = random.Random(asked.seed), 0
    for number, name in enumerate(OPERATIONS):
        n = asked.kills // len(OPERATIONS) + (number < asked.kills % len(OPERATIONS))
        with tempfile.TemporaryDirectory() as place:
            found, wrong = rounds(name, n, rng, Path(place))
        failed += len(wrong)
        told = ", ".join(f"{k} {v}" for k, v in sorted(found.items()) if v)
        print(f"{name}: {n} kills; {told}; wrong {len(wrong)} {wrong[:3] or ''}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
