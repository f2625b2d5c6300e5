"""Processor time of a task and peak memory against the number of tasks: docs/benchmarks.md.

    python benchmarks/scaling.py --out DIR [--tasks 100] [--methods si ...] [--data mnist] [--classes] [--per-class 20]

Permuted images (scenario domain) or, with ``--classes``, new classes in every task (scenario class, or task where a
method knows no other); a perceptron of 2 x 64 units, 2 epochs of batches of 64. Each method learns in a fork
of its own, so that peak memory is its own above that of an idle one. Methods that refuse the scenario are named, with
their reason. Writes ``scaling.json``, a table ``scaling.md`` and ``scaling.png``; what DIR holds is not measured again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
import warnings
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from matplotlib.figure import Figure

from engram.errors import EngramError
from engram.learning.learner import Learner
from engram.methods.registry import METHODS, about, entry, method
from engram.networks import Mlp
from engram.streams import Stream, load
from engram.streams.builders import class_incremental, permuted

WHY = {
    "ewc": "a penalty for each earlier task, in every step",
    "joint": "trains on all data so far",
    "pnn": "a column a task, with adapters from all before it",
    "fecam": "a covariance a class",
    "slda": "sums and factor of d x d entries, all there after ten tasks",
    "ncm": "a mean a class",
    "packnet": "an owner for each weight; an output layer a task",
    "piggyback": "a mask and an output layer a task",
    "den": "units are added and searched through",
    "scratch": "a network a task",
    "fetril": "features moved to the mean of every old class",
    "ridge": "its normal equations have a column a class",
    "icarl": "herding and outputs of all classes",
    "er": "the reservoir fills up to its bound",
    "der++": "the reservoir fills up to its bound, answers have an entry a class",
    "lwf": "a softmax for each old head",
    **dict.fromkeys(
        ("averaging", "hat", "imm-mean", "imm-mode", "l2sp", "pc", "rescl", "vcl"), "an output layer a task"
    ),
    "fearnet": "its sleep goes over pseudo-samples of all classes",
    "dgdmn": "dreams of all classes",
    "dgmw": "replay of all classes, a step of the critic's class head for each task",
    "dgma": "replay of all classes, a step of the critic's class head for each task",
    "dgr": "replay of all classes",
    "mergan-jtr": "replay of all classes",
    "mergan-ra": "replay of all classes",
}
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
        stream.train(i)  # pages of the images, which the fork shares, count from the beginning
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


def growth(rows: list[dict[str, float]], key: str) -> tuple[float, float]:
    """Means over the tenth of the tasks after the first, and over the last tenth."""
    ten = max(len(rows) // 10, 1)
    return mean(r[key] for r in rows[1 : ten + 1]), mean(r[key] for r in rows[-ten:])


def grows(rows: list[dict[str, float]]) -> bool:
    """Whether a task costs half as much again in the end, or memory more than 20 MiB more."""
    first, last = growth(rows, "seconds")
    return last > 1.5 * first or rows[-1]["peak_mib"] - rows[0]["peak_mib"] > 20


def draw(found: dict[str, Any], path: Path) -> None:
    """Seconds a task, and peak memory beyond that of the first: those that grow in colours, the others grey."""
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    growing = [name for name, rows in found.items() if grows(rows)]
    styles = [{"color": f"C{i % 10}", "linestyle": ("-", "--", ":")[i // 10]} for i in range(len(growing))]
    for name, rows in found.items():
        grey = {"color": "0.75", "zorder": 1}
        style = styles[growing.index(name)] | {"label": name} if name in growing else grey
        seconds = [r["seconds"] for r in rows]
        smooth = [median(seconds[max(i - 2, 0) : i + 3]) for i in range(len(seconds))]
        tasks = range(1, len(rows) + 1)
        left.plot(tasks, smooth, linewidth=1.2, **style)
        right.plot(tasks, [r["peak_mib"] - rows[0]["peak_mib"] for r in rows], linewidth=1.2, **style)
    left.set(xlabel="task", ylabel="processor seconds of a task (median of five)", yscale="log")
    right.set(xlabel="task", ylabel="peak memory beyond the first task's, MiB")
    right.set_yscale("symlog", linthresh=10)
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center", fontsize=8, title="grow")
    figure.savefig(path, dpi=110)


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
    kept = args.out / "scaling.json"
    known = json.loads(kept.read_text()) if kept.exists() else {"found": {}, "refused": {}}
    found, refused = known["found"], known["refused"]
    for name in args.methods:
        if name in found or name in refused:
            continue
        rows = in_a_fork(name, stream, args.limit)
        (refused if isinstance(rows, str) else found)[name] = rows
        print(name, rows if isinstance(rows, str) else f"{sum(r['seconds'] for r in rows):.2f} s", flush=True)
        kept.write_text(json.dumps(known) + "\n")
    ten = max(args.tasks // 10, 1)
    lines = [
        f"| method | s of tasks 2 to {ten + 1} | of the last {ten} | times | peak MiB | KiB kept | why it grows |"
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for name, rows in found.items():
        first, last = growth(rows, "seconds")
        peak, held = ([rows[0][k], rows[-1][k]] for k in ("peak_mib", "kept_kib"))
        lines.append(
            f"| `{name}` | {first:.4f} | {last:.4f} | {last / first:.2f} | {peak[0]:.0f}, {peak[1]:.0f} "
            f"| {held[0]:.0f}, {held[1]:.0f} | {WHY.get(name, '') if grows(rows) else ''} |"
        )
    (args.out / "scaling.md").write_text("\n".join(lines) + "\n")
    draw(found, args.out / "scaling.png")


if __name__ == "__main__":
    main()
