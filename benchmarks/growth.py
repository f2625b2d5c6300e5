"""Accuracy against the bytes that a method keeps, after each of ten tasks with labels.

    python benchmarks/growth.py --out DIR [--methods packnet ...] [--max-per-class 100] [--epochs 10] [--seeds 0 1 2]

Ten tasks of ten classes each of 32x32 images (``--data``), a perceptron of 2 x 64 units, Adam 1e-3 (hat: sgd 0.05),
batches of 64, other options at their defaults. Writes a file a method and seed, which is not learned again where it is
there already; a table (``growth.md``), ``growth.png`` and ``growth.pdf``. Accuracy is the mean over the tasks learned
so far, on test images; bytes are what must be kept to go on, as in every result: weights, masks and owners in bits,
norms and heads, stored samples, what else.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.figure import Figure

from engram.core.files import write_atomically
from engram.core.values import split_variant
from engram.learning.learner import Learner
from engram.methods.registry import method
from engram.networks import Mlp
from engram.report.style import line_style, new_figure, place_legend, styled, write
from engram.streams import Stream, class_incremental, load

METHODS = (
    "finetune", "scratch", "hat", "packnet", "piggyback", "pnn", "den", "pc",
    "vcl:reparameterisation=local,n_samples=1",
)  # fmt: skip


def learn(given: str, stream: Stream, epochs: int, seed: int) -> list[dict[str, Any]]:
    """Accuracy and bytes after each task."""
    name, options = split_variant(given)
    shared = {"epochs": epochs, "batch_size": 64} | (
        {"optimiser": "adam", "lr": 1e-3} if name != "hat" else {}
    )
    learner = Learner(
        method(name, {**shared, **options}),
        Mlp((64, 64)),
        image_shape=stream.image_shape,
        scenario="task",
        seed=seed,
        n_tasks=stream.n_tasks,
    )
    tasks: list[dict[str, Any]] = []
    for i in range(stream.n_tasks):
        learner.learn(stream.train(i), [str(label) for label in stream.tasks[i].classes])
        right = []
        for j in range(i + 1):
            test = stream.test(j)
            right.append(float((learner.predict(test.x, task=j).argmax(1) == test.y).float().mean()))
        kept = learner.method.storage_bytes()
        tasks.append({"accuracy": sum(right) / len(right), "bytes": sum(kept.values()), "kept": kept})
        print(
            f"{given}: task {i + 1}, accuracy {100 * tasks[-1]['accuracy']:.1f} %, {tasks[-1]['bytes']:,} bytes"
        )
    return tasks


def found(given: str, seed: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """What :func:`learn` finds, from its file where there is one."""
    path = options.out / f"{split_variant(given)[0]}-{seed}.json"
    asked = {
        "method": given,
        "seed": seed,
        **{k: getattr(options, k) for k in ("data", "max_per_class", "epochs")},
    }
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["settings"] != asked:
            sys.exit(f"{path} must hold {asked}, it holds {kept['settings']}: give another --out.")
        return list(kept["tasks"])
    data = load(options.data, data_dir=options.data_dir or os.environ.get("ENGRAM_DATA"))
    stream = class_incremental(data, n_tasks=10, seed=seed, max_per_class=options.max_per_class)
    tasks = learn(given, stream, options.epochs, seed)
    text = json.dumps({"settings": asked, "tasks": tasks}, indent=1) + "\n"
    write_atomically(path, text.encode())
    return tasks


def table(rows: dict[str, list[list[dict[str, Any]]]]) -> str:
    """KiB and accuracy after the first, fifth and tenth task: means and standard deviations over seeds."""
    lines = [
        "| method | KiB after task 1 | 5 | 10 | accuracy % after task 1 | 5 | 10 |",
        "|---|---|---|---|---|---|---|",
    ]
    for given, seeds in rows.items():
        cells = [f"{mean(tasks[i]['bytes'] for tasks in seeds) / 1024:,.0f}" for i in (0, 4, 9)]
        for i in (0, 4, 9):
            each = [100 * tasks[i]["accuracy"] for tasks in seeds]
            cells.append(f"{mean(each):.1f}" + (f" ± {stdev(each):.1f}" if len(each) > 1 else ""))
        lines.append(f"| `{given}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


@styled
def drawn(rows: dict[str, list[list[dict[str, Any]]]], title: str) -> Figure:
    """One line a method, a point after each task, the last one larger; means over seeds."""
    n = len(next(iter(rows.values())))
    told = f"mean of {n} seeds" if n > 1 else "one seed"
    figure = new_figure(4.5, title, f"{told}; a point after each task, the last one larger")
    axes = figure.subplots()
    for i, (name, seeds) in enumerate(rows.items()):
        tasks = list(zip(*seeds, strict=True))
        x = [mean(row["bytes"] for row in task) / 1024 for task in tasks]
        y = [100 * mean(row["accuracy"] for row in task) for task in tasks]
        (line,) = axes.plot(x, y, label=name.split(":")[0], **line_style(i))
        axes.plot(x[-1], y[-1], color=line.get_color(), marker=line.get_marker(), markersize=9)
    axes.set(xscale="log", xlabel="KiB kept", ylabel="mean accuracy of the tasks learned, %")
    ticks = [2**k for k in range(40) if axes.get_xlim()[0] <= 2**k <= axes.get_xlim()[1]]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    place_legend(figure)
    return figure


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=METHODS, metavar="NAME[:option=value,...]")
    parser.add_argument("--data", default="tiny_imagenet_100_32px")
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--max-per-class", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    rows = {name: [found(name, seed, given) for seed in given.seeds] for name in given.methods}
    (given.out / "growth.md").write_text(table(rows), encoding="utf-8")
    title = f"Ten tasks of {given.data}, {given.max_per_class} samples a class"
    print(write(drawn(rows, title), given.out / "growth"))


if __name__ == "__main__":
    main()
