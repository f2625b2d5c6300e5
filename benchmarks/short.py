"""What runs cost beside training: docs/benchmarks.md.

    python benchmarks/short.py [--runs 200] [--out DIR]

One short run, fifteen jobs of the digits (five methods, three seeds, two at a time), and with ``--runs`` a sweep of
that many short runs, on two cores and on a local Ray cluster where Ray is installed. Each is a command in a process of
its own, bound to two cores where the system can. Wall clock, seconds of training as results tell them, and the rest.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ONE = ["run", "finetune", "--data", "digits", "--tasks", "5", "--finetune.epochs", "40"]
FIFTEEN = [
    "compare",
    "dgmw",
    "finetune",
    "joint",
    "si",
    "lwf",
    "--data",
    "digits",
    "--tasks",
    "10",
    "--alone",
]
FIFTEEN += ["--seeds", "0", "1", "2"]
MANY = ["sweep", "finetune", "--data", "digits", "--tasks", "5", "--finetune.epochs", "5", "--device", "cpu"]


def measured(what: str, words: list[str], out: Path, jobs: int) -> None:
    """Run a command and print a line."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "engram", *words, "--jobs", str(jobs), "--out", str(out), "--quiet"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    wall = time.perf_counter() - began
    entries = [json.loads(path.read_text()) for path in sorted(out.rglob("seed-*/seed.json"))]
    entries = [e for e in entries if "seconds" in e]  # a common start has none
    training, other, kept = (
        sum(e[key] or 0.0 for e in entries) for key in ("seconds", "seconds_other", "seconds_checkpoints")
    )
    print(
        f"{what:28} {len(entries):4} runs, wall {wall:7.2f} s, training {training:7.2f} s, other {other:6.2f} s; "
        f"wall less training / {jobs}: {wall - training / jobs:6.2f} s, "
        f"{100 * (1 - training / jobs / wall):4.1f} % of the cores; checkpoints {100 * kept / training:.1f} % of it",
        flush=True,
    )


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=0, help="of the sweep")
    parser.add_argument("--out", type=Path, help="keeps the results")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    with tempfile.TemporaryDirectory() as folder:
        out = args.out or Path(folder)
        for i in range(3):
            measured("one short run", ONE, out / f"one-{i}", 1)
        measured("fifteen jobs of the digits", FIFTEEN, out / "fifteen", 2)
        if args.runs:
            seeds = [str(i) for i in range(5)]
            values = ",".join(f"{0.0005 * (i + 1):.4f}" for i in range(max(args.runs // 5, 1)))
            words = [*MANY, "--seeds", *seeds, "--over", f"lr={values}"]
            measured("sweep in processes", words, out / "grid", 2)
            if importlib.util.find_spec("ray"):
                measured("sweep on a Ray cluster", [*words, "--engine", "ray"], out / "ray", 2)


if __name__ == "__main__":
    main()
