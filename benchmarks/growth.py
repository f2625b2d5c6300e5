"""Accuracy against the bytes that a method keeps, after each of ten tasks with labels.

    python benchmarks/growth.py --out DIR [--methods packnet hat ...] [--max-per-class 100] [--epochs 10] [--seed 0]

Ten tasks of ten classes each of 32x32 images (``--data``), a perceptron of 2 x 64 units, Adam 1e-3 (hat: sgd 0.05),
batches of 64, other options at their defaults. Writes ``growth.json``, ``growth.png`` and ``growth.pdf``. Accuracy is
the mean over the tasks learned so far, on test images; bytes are what must be kept to go on, as in every result:
weights, masks and owners in bits, norms and heads, stored samples, what else.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from engram.core.values import split_variant
from engram.learning.learner import Learner
from engram.methods.registry import method
from engram.networks import Mlp
from engram.report.style import line_style, new_figure, place_legend, save, styled
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
    found: list[dict[str, Any]] = []
    for i in range(stream.n_tasks):
        learner.learn(stream.train(i), [str(label) for label in stream.tasks[i].classes])
        right = []
        for j in range(i + 1):
            test = stream.test(j)
            right.append(float((learner.predict(test.x, task=j).argmax(1) == test.y).float().mean()))
        kept = learner.method.storage_bytes()
        found.append({"accuracy": sum(right) / len(right), "bytes": sum(kept.values()), "kept": kept})
        print(
            f"{given}: task {i + 1}, accuracy {100 * found[-1]['accuracy']:.1f} %, {found[-1]['bytes']:,} bytes"
        )
    return found


@styled
def drawn(rows: dict[str, list[dict[str, Any]]], title: str) -> Figure:
    """One line a method, a point after each task, the last one larger."""
    figure = new_figure(7.0, 4.5, title, "one seed; a point after each task, the last one larger")
    axes = figure.subplots()
    for i, (name, found) in enumerate(rows.items()):
        x, y = [row["bytes"] / 1024 for row in found], [100 * row["accuracy"] for row in found]
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
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    data = load(given.data, data_dir=given.data_dir or os.environ.get("ENGRAM_DATA"))
    stream = class_incremental(data, n_tasks=10, seed=given.seed, max_per_class=given.max_per_class)
    rows = {name: learn(name, stream, given.epochs, given.seed) for name in given.methods}
    given.out.mkdir(parents=True, exist_ok=True)
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(given).items() if k != "out"}
    content = json.dumps({"settings": settings, "methods": rows}, indent=1)
    (given.out / "growth.json").write_text(content + "\n", encoding="utf-8")
    print(
        save(
            drawn(rows, f"Ten tasks of {given.data}, {given.max_per_class} samples a class"),
            given.out / "growth",
        )
    )


if __name__ == "__main__":
    main()
