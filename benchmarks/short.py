"""What runs cost beside training: docs/benchmarks.md.

    python benchmarks/short.py [--parts one fifteen sweep ray] [--runs 200] [--out DIR] [--minutes 10]

One short run, thrice; fifteen jobs of the digits (five methods, three seeds, two at a time); a sweep of ``--runs``
short runs, on two cores and on a local Ray cluster. Each is a command in a process of its own, bound to two cores
where the system can. Wall clock and processor time of the command, seconds of training as results tell them, and the
rest. A command that takes longer than ``--minutes`` is stopped; the same call with the same DIR goes on with it, and
times add up, the second start included.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PARTS = ("one", "fifteen", "sweep", "ray")
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


def measured(what: str, words: list[str], out: Path, jobs: int, minutes: float) -> None:
    """Run a command, or what is left of it, and print a line."""
    so_far = out.with_name(f"{out.name}.json")
    wall, processor = json.loads(so_far.read_text()) if so_far.exists() else (0.0, 0.0)
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    more = ["--resume"] if out.exists() else []
    process = subprocess.Popen(
        [sys.executable, "-m", "engram", *words, "--jobs", str(jobs), "--out", str(out), "--quiet", *more],
        stdout=subprocess.DEVNULL,
        env={"RAY_worker_niceness": "0", **os.environ},  # Ray's workers give way to all others otherwise
    )
    try:
        code = process.wait(60 * minutes)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait()
        code = None
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall += time.perf_counter() - began
    processor += after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    out.parent.mkdir(parents=True, exist_ok=True)
    so_far.write_text(json.dumps([wall, processor]))
    if code:
        raise SystemExit(f"{what}: engram ended with {code}.")
    entries = [json.loads(path.read_text()) for path in sorted(out.rglob("seed-*/seed.json"))]
    entries = [e for e in entries if e.get("status") == "done"]  # a common start has no status
    training, other, kept = (
        sum(e[key] or 0.0 for e in entries) for key in ("seconds", "seconds_other", "seconds_checkpoints")
    )
    print(
        f"{what:28} {len(entries):4} runs, wall {wall:7.2f} s, processor {processor:7.2f} s, training {training:7.2f} "
        f"s, other {other:6.2f} s; wall less training / {jobs}: {wall - training / jobs:6.2f} s, "
        f"{100 * (1 - training / jobs / wall):4.1f} %; checkpoints {100 * kept / max(training, 1e-9):.1f} % of training"
        + ("" if code == 0 else "; NOT DONE: the same call goes on"),
        flush=True,
    )


def main() -> None:
    """The parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="+", default=["one", "fifteen"], choices=PARTS)
    parser.add_argument("--runs", type=int, default=200, help="of the sweeps; a multiple of 5")
    parser.add_argument("--out", type=Path, help="keeps the results")
    parser.add_argument("--minutes", type=float, default=60.0, help="a command is stopped then")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    values = ",".join(f"{0.0005 * (i + 1):.4f}" for i in range(max(args.runs // 5, 1)))
    sweep = [*MANY, "--seeds", *(str(i) for i in range(5)), "--over", f"lr={values}"]
    with tempfile.TemporaryDirectory() as folder:
        out = args.out or Path(folder)
        if "one" in args.parts:
            for i in range(3):
                measured("one short run", ONE, out / f"one-{i}", 1, args.minutes)
        if "fifteen" in args.parts:
            measured("fifteen jobs of the digits", FIFTEEN, out / "fifteen", 2, args.minutes)
        if "sweep" in args.parts:
            measured("sweep in processes", sweep, out / "sweep", 2, args.minutes)
        if "ray" in args.parts:
            measured("sweep on a Ray cluster", [*sweep, "--engine", "ray"], out / "ray", 2, args.minutes)


if __name__ == "__main__":
    main()
