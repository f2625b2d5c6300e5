"""Processor time of a task and peak memory against the number of tasks: docs/benchmarks.md.

    python benchmarks/scaling.py --out DIR [--tasks 100] [--methods si ...] [--data mnist] [--classes] [--per-class 20]

Permuted images (scenario domain) or, with ``--classes``, new classes in every task (scenario class, or task where a
method knows no other); a perceptron of 2 x 64 units, 2 epochs of batches of 64. Each method learns in a fork
of its own, so that peak memory is its own above that of an idle one. Methods that refuse the scenario are named, with
their reason. Writes ``scaling.json``, a table ``scaling.md`` and ``scaling.png``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
import warnings
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from matplotlib.figure import Figure

from engram.errors import EngramError
from engram.learning.learner import Learner
from engram.methods.registry import METHODS, about, entry, method
from engram.networks import Mlp
from engram.streams import Stream, load
from engram.streams.builders import class_incremental, permuted

CONTEXT = multiprocessing.get_context("fork")


def learn(name: str, stream: Stream) -> list[dict[str, float]]:
    """Processor seconds, peak MiB so far and KiB kept after each task."""
    known = {o.name for o in about(name).options}
    given = {k: v for k, v in {"epochs": 2, "batch_size": 64}.items() if k in known}
    shared = stream.label_space == "shared"
    scenario = "domain" if shared else "class" if "class" in entry(name).make.scenarios else "task"
    learner = Learner(
        method(name, given),
        Mlp((64, 64)),
        image_shape=stream.image_shape,
        scenario=scenario,  # type: ignore[arg-type]
        n_tasks=stream.n_tasks,
        n_classes=stream.n_classes,
    )
    rows, seen = [], []
    for i in range(stream.n_tasks):
        data = stream.train(i)
        if learner.method.reads == "all":
            seen.append(data)
            data = type(data)(torch.cat([s.x for s in seen]), torch.cat([s.y for s in seen]))
        began = time.process_time()
        own = stream.tasks[i].classes
        first = 0 if shared or learner.method.reads == "all" else min(own)
        learner.learn(data, stream.class_names[first : max(own) + 1])
        rows.append(
            {
                "seconds": time.process_time() - began,
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "kept_kib": sum(learner.method.storage_bytes().values()) / 1024,
            }
        )
    return rows


def in_a_fork(name: str, stream: Stream, limit: float) -> list[dict[str, float]] | str:
    """What `learn` says, or why it does not."""
    here, there = CONTEXT.Pipe(duplex=False)

    def work() -> None:
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        try:
            there.send(learn(name, stream))
        except EngramError as error:
            there.send(str(error))

    process = CONTEXT.Process(target=work)
    process.start()
    there.close()
    try:
        return here.recv() if here.poll(limit) else f"not done in {limit:.0f} s"
    except EOFError:
        return "its process died"
    finally:
        process.kill()
        process.join()


def draw(found: dict[str, Any], path: Path) -> None:
    """Seconds a task and peak memory, a line a method."""
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    for axes, key, label in zip(
        figure.subplots(1, 2),
        ("seconds", "peak_mib"),
        ("processor seconds of a task", "peak memory, MiB"),
        strict=True,
    ):
        for name, rows in found.items():
            axes.plot(range(1, len(rows) + 1), [r[key] for r in rows], label=name, linewidth=1)
        axes.set(xlabel="task", ylabel=label, yscale="log")
    figure.legend(loc="outside right center", fontsize=7)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure, draw, and tell."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--methods", nargs="+", default=sorted(METHODS))
    parser.add_argument("--data", default="mnist")
    parser.add_argument(
        "--classes", action="store_true", help="tasks of other classes, in place of permuted images"
    )
    parser.add_argument("--per-class", type=int, default=20)
    parser.add_argument("--limit", type=float, default=120.0, help="seconds that a method may take")
    args = parser.parse_args()
    few = {"seed": 0, "max_per_class": args.per_class}
    make = class_incremental if args.classes else permuted
    stream = make(load(args.data), n_tasks=args.tasks, **few)
    args.out.mkdir(parents=True, exist_ok=True)
    found, refused = {}, {}
    for name in args.methods:
        rows = in_a_fork(name, stream, args.limit)
        if isinstance(rows, str):
            refused[name] = rows
        else:
            found[name] = rows
        print(name, rows if isinstance(rows, str) else f"{sum(r['seconds'] for r in rows):.2f} s", flush=True)
        (args.out / "scaling.json").write_text(json.dumps({"found": found, "refused": refused}) + "\n")
    ten = max(args.tasks // 10, 1)
    lines = [f"| method | s of tasks 2 to {ten + 1} | of the last {ten} | times | peak MiB | KiB kept |"]
    lines.append("|---|---|---|---|---|---|")
    for name, rows in found.items():
        first, last = (mean(r["seconds"] for r in part) for part in (rows[1 : ten + 1], rows[-ten:]))
        peak, kept = ([rows[0][k], rows[-1][k]] for k in ("peak_mib", "kept_kib"))
        lines.append(
            f"| `{name}` | {first:.4f} | {last:.4f} | {last / first:.2f} | {peak[0]:.0f}, {peak[1]:.0f} "
            f"| {kept[0]:.0f}, {kept[1]:.0f} |"
        )
    (args.out / "scaling.md").write_text("\n".join(lines) + "\n")
    draw(found, args.out / "scaling.png")


if __name__ == "__main__":
    main()
