"""Seconds of processor time to a fixed accuracy on one thread, method by method: docs/leaderboard.md.

    python benchmarks/leaderboard.py --out DIR [--boards mnist splitmnist permuted] [--methods si ...] [--minutes 10]

Each board is a stream and an average accuracy on test images after the last task; each method climbs a ladder of
schedules, the same for all of its kind and fixed beforehand, from the shortest up, until it is there. Every rung is
a command in a process of its own, and its seconds are those of the whole command: start, features, training,
measuring, page. First rungs come first, so that what is stopped (``--minutes``) has a little of everything; what
DIR holds is not run again, and ``leaderboard.md`` is written anew from it each time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Board:
    """A stream, an accuracy in %, and who tries."""

    title: str
    accuracy: float
    words: tuple[str, ...]
    ladders: dict[str, tuple[str, ...]]  # options of a run, from the shortest up; "{}" stands for the method


def epochs(*given: int, more: str = "") -> tuple[str, ...]:
    """A rung for each number of epochs."""
    return tuple(f"--{{}}.epochs {n} {more}".strip() for n in given)


SCATTERED = tuple(f"--features scattering --scattering.J 3 --scattering.L {n}" for n in (2, 3, 4))
SPLIT = epochs(1, 3, 10)
PERMUTED = epochs(2, 5, 20)
PERMUTING = (
    "--data",
    "mnist",
    "--scenario",
    "domain",
    "--domain",
    "permuted",
    "--tasks",
    "10",
    "--network",
    "mlp",
)

BOARDS = {
    "mnist": Board(
        "MNIST, ten tasks of one class, no task label, no stored sample",
        97.0,
        ("--data", "mnist", "--tasks", "10"),
        {
            **dict.fromkeys(("slda", "ridge", "fecam", "fetril", "ncm"), SCATTERED),
            **dict.fromkeys(("finetune", "lwf", "ewc", "si"), epochs(1, more="--network mlp")),
            "dgmw": ("--recipe dgmw-mnist-quick",),
        },
    ),
    "splitmnist": Board(
        "Split MNIST with task labels, five tasks of two classes",
        98.0,
        ("--recipe", "si-splitmnist"),
        {
            **dict.fromkeys(("finetune", "frozen", "si", "ewc", "ewc-online", "mas", "rwalk", "lwf"), SPLIT),
            **dict.fromkeys(
                ("l2sp", "imm-mean", "imm-mode", "averaging", "rescl", "hat", "piggyback"), SPLIT
            ),
            **dict.fromkeys(("pnn", "scratch", "vcl", "er", "der++", "icarl", "joint"), SPLIT),
            "packnet": ("--packnet.epochs 1 --packnet.retrain_epochs 1", "--packnet.epochs 7"),
            "pc": ("--pc.epochs 1 --pc.compress_epochs 1", "--pc.epochs 5"),
            "den": ("--den.epochs 1 --den.head_epochs 1", "--den.epochs 4"),
            **dict.fromkeys(("slda", "ridge", "fecam", "ncm", "fetril", "fearnet", "dgdmn"), ("",)),
        },
    ),
    "permuted": Board(
        "Permuted MNIST, ten tasks, no task label, a perceptron of 2 x 400 units, batches of 256",
        96.0,
        (*PERMUTING, "--mlp.hidden", "[400,400]"),
        {
            **dict.fromkeys(
                (
                    *("finetune", "si", "ewc", "ewc-online", "mas", "rwalk", "lwf", "l2sp", "imm-mean"),
                    *("imm-mode", "averaging", "vcl", "er", "der++", "joint"),
                ),
                tuple(f"{rung} --{{}}.batch_size 256" for rung in PERMUTED),
            ),
            "pc": tuple(f"--pc.epochs {n} --pc.compress_epochs {n} --pc.batch_size 256" for n in (1, 3, 10)),
            **dict.fromkeys(("slda", "ridge", "fecam", "ncm"), ("",)),
        },
    ),
}
LONG = ("dgmw",)  # runs of more than ten minutes: only where they are named


def run(words: list[str], folder: Path) -> dict[str, Any]:
    """A command's processor seconds, and the accuracies that its result tells, in %."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as cache:  # features of an earlier run are computed again
        done = subprocess.run(
            [sys.executable, "-m", "engram", *words, "--out", str(folder), "--quiet", "--overwrite"],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "ENGRAM_CACHE": cache},
        )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    command = shlex.join(["engram", *words])
    if done.returncode:
        return {
            "command": command,
            "seconds": seconds,
            "error": (done.stderr.strip().splitlines() or ["?"])[-1],
        }
    (entry,) = (json.loads(path.read_text()) for path in folder.rglob("seed-*/seed.json"))
    return {
        "command": command,
        "seconds": seconds,
        "accuracy": 100 * entry["final_average_accuracy"],
        "training": entry["seconds"],
        "stored": entry["stored_real_samples"],
    }


def commit() -> str:
    """Of this checkout."""
    here = Path(__file__).parent
    words = ["git", "-C", str(here), "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True).stdout.strip() or "unknown"


def table(board: Board, found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Those that reach the accuracy, the fastest first; then those that do not, with the best of their rungs."""
    reached, missed, failed = [], [], []
    for name, rungs in found.items():
        told = [r for r in rungs if "accuracy" in r]
        if not told:
            failed.append(f"`{name}`: {rungs[-1]['error']}")
        elif told[-1]["accuracy"] >= board.accuracy:
            reached.append((told[-1]["seconds"], name, told[-1]))
        else:
            best = max(told, key=lambda r: r["accuracy"])
            missed.append((-best["accuracy"], name, best))
    lines = [f"## {board.title}: {board.accuracy:g} %", ""]
    lines += [
        "| method | s of processor | accuracy | stored samples | command | commit |",
        "|---|---|---|---|---|---|",
    ]
    for _, name, r in sorted(reached, key=lambda row: row[0]):
        lines.append(
            f"| `{name}` | **{r['seconds']:.0f}** | {r['accuracy']:.1f} | {r['stored']} "
            f"| `{r['command']}` | {r['commit']} |"
        )
    for _, name, r in sorted(missed, key=lambda row: row[0]):
        more = " and shorter ones" if len(found[name]) > 1 else ""
        lines.append(
            f"| `{name}` | not reached in {r['seconds']:.0f}{more} | {r['accuracy']:.1f} "
            f"| {r['stored']} | `{r['command']}` | {r['commit']} |"
        )
    return [*lines, "", *(f"Not run: {line}" for line in failed), ""]


def main() -> None:
    """Climb, record, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--boards", nargs="+", default=list(BOARDS), choices=list(BOARDS))
    parser.add_argument("--methods", nargs="+", help="of the boards; by default all but those of hours")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no run begins later")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    record = args.out / "leaderboard.json"
    found: dict[str, dict[str, list[dict[str, Any]]]] = (
        json.loads(record.read_text()) if record.exists() else {}
    )
    began = time.monotonic()
    longest = max(len(ladder) for key in args.boards for ladder in BOARDS[key].ladders.values())
    for height in range(longest):
        for key in args.boards:
            board = BOARDS[key]
            for name, ladder in board.ladders.items():
                rungs = found.setdefault(key, {}).setdefault(name, [])
                wanted = name in args.methods if args.methods else name not in LONG
                there = any(r.get("accuracy", 0.0) >= board.accuracy for r in rungs)
                if not wanted or there or len(rungs) > height or len(ladder) <= height:
                    continue
                if time.monotonic() - began > 60 * args.minutes:
                    continue
                rung = shlex.split(ladder[height].format(name, name))
                words = ["run", name, *board.words, *rung, "--seeds", "0", "--jobs", "1"]
                rungs.append({**run(words, args.out / key / f"{name}-{height}"), "commit": commit()})
                record.write_text(json.dumps(found, indent=1) + "\n")
                r = rungs[-1]
                told = r.get("error") or f"{r['accuracy']:.2f} %"
                print(f"{key:12} {name:12} {r['seconds']:7.1f} s  {told}", flush=True)
    lines = [
        line for key, of in found.items() for line in table(BOARDS[key], {n: r for n, r in of.items() if r})
    ]
    (args.out / "leaderboard.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
