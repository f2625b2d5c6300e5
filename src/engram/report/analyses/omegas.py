"""Fig. 5 of the SI paper: do tasks use the same weights? Correlations of omega between tasks, by layer.

F. Zenke, B. Poole, S. Ganguli: "Continual Learning Through Synaptic Intelligence", ICML 2017 (arXiv 1703.04200), Sec.
5.2. The quantity is omega of one task, before it is divided by the displacement, over one weight matrix or kernel.

Departures: the paper does not say whether means are subtracted or biases included; here Pearson's correlation, weights
only. Needs runs of ``si`` with ``keep_omegas``; without consolidation is ``c=0``.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from engram.core.stored import Number, fits
from engram.protocols.entry import done_seeds
from engram.report.style import keep, new_figure, styled, width
from engram.report.words import setting_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["KEY", "correlations", "matrices_figure", "mean_between_tasks"]

Result = Mapping[str, Any]
KEY = "omega_correlations"
FORM = list[dict[str, list[Number | None]]]
MOST_LAYERS = 4


def correlations(result: Result) -> dict[str, np.ndarray]:
    """Matrices [T, T] by weight, mean over the finished seeds that recorded them; empty where none did.

    A weight whose shape changed from task to task, as an output layer that grows, has no matrix.
    """
    found: dict[str, list[np.ndarray]] = {}
    for seed in done_seeds(result):
        rows = [task.get(KEY) or {} for task in seed.get("tasks") or []]
        if not fits(rows, FORM):
            continue
        for name in rows[0] if rows else ():
            matrix = np.full((len(rows), len(rows)), np.nan)
            for i, row in enumerate(rows):
                for j, value in enumerate(row.get(name, [])[: len(rows)]):
                    if value is not None:
                        matrix[i, j] = matrix[j, i] = value
            if len(rows) > 1 and not np.isnan(matrix).any():
                found.setdefault(name, []).append(matrix)
    return {name: np.mean(matrices, axis=0) for name, matrices in found.items()}


def mean_between_tasks(matrix: np.ndarray) -> float:
    """Mean correlation of two different tasks: what the paper's figure shows to be near 0, or to grow."""
    return float(matrix[~np.eye(len(matrix), dtype=bool)].mean())


@styled
def matrices_figure(results: Sequence[Result]) -> Figure:
    """A row for each result, a column for each weight, in the network's order and at most four.

    Args:
        results: those for which `correlations` is not empty.
    """
    every = [correlations(r) for r in results]
    layers = list(dict.fromkeys(name for matrices in every for name in matrices))[:MOST_LAYERS]
    n_seeds = sorted({len(done_seeds(r)) for r in results})
    over = " or ".join(str(n) for n in n_seeds) + (" seed" if n_seeds == [1] else " seeds")
    note = f"{setting_words(results)}; Pearson's correlation of omega, mean over {over}. Axes: tasks."
    panels = [
        (f"{result['label']}, {layer}", matrices[layer])
        for result, matrices in zip(results, every, strict=True)
        for layer in layers
        if layer in matrices
    ]
    columns = 2 if width() > 4 else 1
    rows = -(-len(panels) // columns)
    figure = new_figure(0.7 + 2.7 * rows, "Do tasks use the same weights? Correlation of omega", note)
    for place, (name, matrix) in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, place)
        image = axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="none")
        ticks = range(0, len(matrix), max(1, len(matrix) // 5))
        axes.set_xticks(ticks, [str(t + 1) for t in ticks])
        axes.set_yticks(ticks, [str(t + 1) for t in ticks])
        mean = f"mean between tasks {mean_between_tasks(matrix):.2f}"
        axes.set_title("\n".join([*textwrap.wrap(name, 26), mean]))
        for task, row in enumerate(matrix, 1):
            keep(axes, f"task {task}", range(1, len(row) + 1), row.tolist(), panel=name)
    bar = figure.colorbar(image, ax=figure.axes, location="bottom", fraction=0.05, aspect=40)
    bar.outline.set_visible(False)
    return figure
