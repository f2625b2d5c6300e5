"""Figures of generative methods: samples, growth of the network, use of the masks, gate values.

The kinds of figure follow Figs. 3, 5 and 6 of Ostapenko, Puscas, Klein, Jaehnichen, Nabi: Learning to
Remember: A Synaptic Plasticity Driven Framework for Continual Learning, CVPR 2019, arXiv:1904.03137.
Departures: the shares of Fig. 3a carry a 95 % interval over seeds; gates (Fig. 3b) are shown layer by layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from engram.protocols.entry import done_seeds
from engram.protocols.metrics import Summary
from engram.report.plasticity import gate_trajectories, generator_sizes, newly_shares, reserved_weights
from engram.report.style import (
    GRID,
    HATCHES,
    MUTED,
    colour,
    keep,
    line_style,
    new_figure,
    place_legend,
    styled,
    task_axis,
    width,
)
from engram.report.words import counts_words, seeds_words, setting_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "gate_values",
    "mask_use",
    "network_growth",
    "sample_grid",
    "samples_over_tasks",
]

Result = Mapping[str, Any]


@styled
def sample_grid(result: Result, images: np.ndarray, labels: np.ndarray, *, seed: int) -> Figure:
    """Generated samples after the last task, one row per class.

    Args:
        result: the result they belong to.
        images: uint8 [C, n, channels, H, W]; 3 channels are red, green, blue, otherwise the first is shown.
        labels: int [C], the class of each row.
        seed: the seed that generated them.
    """
    n_classes, n, channels, height, across = images.shape
    n = min(n, 10)
    pad = max(1, height // 14)
    shown = 3 if channels == 3 else 1
    canvas = np.full((n_classes * (height + pad) - pad, n * (across + pad) - pad, shown), 255, dtype=np.uint8)
    for row in range(n_classes):
        for column in range(n):
            y, x = row * (height + pad), column * (across + pad)
            canvas[y : y + height, x : x + across] = images[row, column, :shown].transpose(1, 2, 0)
    names = [str(c) for c in result["data"].get("class_names") or []]
    note = f"{setting_words([result])}; seed {seed}. Row: class asked for; samples are not selected."
    ratio = canvas.shape[0] / canvas.shape[1]
    title = f"{result['label']}: generated samples"
    names = [names[c][:12] if 0 <= c < len(names) else str(c) for c in labels]
    room = width() - 0.2 - 0.09 * max(map(len, names))
    figure = new_figure(min(9.0, 0.2 + room * ratio), title, note)
    axes = figure.add_subplot()
    pixels = canvas if shown == 3 else canvas[:, :, 0]
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="none")
    step = -(-n_classes // 36)
    rows = range(0, n_classes, step)
    axes.set_yticks([row * (height + pad) + height / 2 for row in rows], [names[row] for row in rows])
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


@styled
def samples_over_tasks(result: Result, sheets: Sequence[np.ndarray], *, seed: int) -> Figure:
    """The first image of each class after each task, a row a task, made from the same noise: what drifts is forgotten.

    Args:
        result: the result they belong to.
        sheets: after each task uint8 [C, n, channels, H, W] of the classes known then; in the order of tasks. Of more
            than 20 classes, 20 are shown, evenly spaced.
        seed: the seed that generated them.
    """
    most, (_, _, channels, height, across) = max(map(len, sheets)), sheets[0].shape
    shown = 3 if channels == 3 else 1
    classes = np.linspace(0, most - 1, min(most, 20)).astype(int)
    canvas = np.full((len(sheets) * (height + 2), len(classes) * (across + 2), shown), 255, dtype=np.uint8)
    for row, sheet in enumerate(sheets):
        for column, of in enumerate(classes[classes < len(sheet)]):
            y, x = row * (height + 2), column * (across + 2)
            canvas[y : y + height, x : x + across] = sheet[of][0, :shown].transpose(1, 2, 0)
    which = "a class" if len(classes) == most else f"one of {len(classes)} of {most} classes"
    note = f"{setting_words([result])}; seed {seed}. A row after each task, a column {which}; not selected."
    ratio = canvas.shape[0] / canvas.shape[1]
    figure = new_figure(
        min(9.0, (width() - 0.5) * ratio), f"{result['label']}: samples after each task", note
    )
    axes = figure.add_subplot()
    axes.imshow(
        canvas if shown == 3 else canvas[:, :, 0], cmap="gray", vmin=0, vmax=255, interpolation="nearest"
    )
    axes.set_yticks(
        [(height + 2) * (i + 0.5) for i in range(len(sheets))], [str(i + 1) for i in range(len(sheets))]
    )
    axes.set_ylabel("task")
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


@styled
def network_growth(results: Sequence[Result]) -> Figure:
    """Weights of the growing network while learning task t against the linear worst case size_1 * t.

    Args:
        results: results with `has_growth`. The first task has size_1. Where masks cover weights, a thin
            line shows what this task and the earlier ones have reserved by its end.
    """
    note = f"{setting_words(results)}; {counts_words(results)} (band)."
    figure = new_figure(3.4, "Network size, and its linear worst case", note)
    axes = figure.add_subplot()
    for index, result in enumerate(results):
        sizes = generator_sizes(result) / 1e3
        x = np.arange(1, sizes.shape[1] + 1)
        style = line_style(index)
        label = f"{result['label']} (n={len(sizes)})"
        axes.plot(x, sizes.mean(axis=0), label=f"{label}", zorder=3, **style)
        bands = [Summary.of(column).ci95 for column in sizes.T]
        lows, highs = ([None if b is None else b[i] for b in bands] for i in (0, 1))
        keep(axes, label, x.tolist(), sizes.mean(axis=0).tolist(), lows, highs)
        if all(b is not None for b in bands):
            low, high = np.array(bands, dtype=np.float64).T
            axes.fill_between(x, low, high, color=style["color"], alpha=0.16, linewidth=0)
        worst = sizes[:, 0].mean() * x
        axes.plot(x, worst, color=style["color"], linewidth=1, linestyle=":", label="… size_1 · t")
        reserved = reserved_weights(result) / 1e3
        if len(reserved):
            axes.plot(x, reserved.mean(axis=0), color=style["color"], linewidth=1, label="… reserved")
            keep(axes, f"{label}, reserved", x.tolist(), reserved.mean(axis=0).tolist())
    task_axis(axes, max(len(r["tasks"]) for r in results), "task")
    axes.set_ylabel("weights [thousands]")
    axes.set_ylim(bottom=0)
    place_legend(figure)
    return figure


@styled
def mask_use(result: Result) -> Figure:
    """Of all units a task uses, the shares newly reserved by it and reused from earlier ones (Fig. 3a).

    newly_t = sum_l newly_l(t) / sum_l used_l(t), reused_t = 1 - newly_t.

    Args:
        result: a result with `has_mask_use`.
    """
    newly = newly_shares(result)
    summaries = [Summary.of(100 * column) for column in newly.T]
    mean = np.array([s.mean for s in summaries])
    x = np.arange(1, len(mean) + 1)
    note = f"{setting_words([result])}; {seeds_words(len(newly))}{' (error bars)' if len(newly) > 1 else ''}."
    figure = new_figure(3.4, f"{result['label']}: what a task's mask uses", note)
    axes = figure.add_subplot()
    bar: dict[str, Any] = {"width": 0.62, "edgecolor": "white", "linewidth": 0.8}
    axes.bar(x, mean, label="newly reserved", color=colour(0), **bar)
    reused: dict[str, Any] = {"label": "reused from earlier tasks", "color": colour(4), "hatch": HATCHES[1]}
    axes.bar(x, 100 - mean, bottom=mean, **reused, **bar)
    halves = [s.half_width for s in summaries]
    if all(h is not None for h in halves):
        axes.errorbar(x, mean, yerr=np.array(halves, dtype=np.float64), fmt="none", ecolor="black", capsize=3)
    keep(axes, "newly reserved", x.tolist(), mean.tolist())
    task_axis(axes, len(mean), "task")
    axes.set_xlim(0.4, len(mean) + 0.6)
    axes.set_ylim(0, 100)
    axes.set_ylabel("units used [%]")
    place_legend(figure)
    return figure


@styled
def gate_values(result: Result, task: int = -1) -> Figure:
    """Gates over the epochs of one task of the first finished seed (Fig. 3b): mean, share on, histogram.

    Args:
        result: a result with `has_gates`.
        task: position in the list of tasks, negative from the end.
    """
    seed = done_seeds(result)[0]
    epochs = gate_trajectories(seed, task)
    layers = list(epochs[0])
    number = task % len(seed["tasks"]) + 1
    title = f"{result['label']}: gates of the masks during task {number}"
    note = (
        f"{setting_words([result])}; seed {seed['seed']}. On: 0.5 or more. Below: share of gates per value."
    )
    columns = 2 if width() > 4 else 1
    rows = -(-(len(layers) + 2) // columns)
    figure = new_figure(0.6 + 2.1 * rows, title, note)
    x = range(1, len(epochs) + 1)
    for place, (key, label) in enumerate((("mean", "mean gate value"), ("on", "share of gates on")), 1):
        axes = figure.add_subplot(rows, columns, place)
        for index, layer in enumerate(layers):
            style = {**line_style(index), "markersize": 4, "linewidth": 1.4}
            values = [e[layer][key] for e in epochs]
            axes.plot(x, values, label=layer, **style)
            keep(axes, layer, x, values, panel=label)
        axes.set_title(label)
        axes.set_ylim(-0.02, 1.02)
        axes.grid(axis="y", color=GRID)
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel("epoch")
    place_legend(figure)
    maps = []
    for place, layer in enumerate(layers, 3):
        axes = figure.add_subplot(rows, columns, place)
        hist = np.array([e[layer]["hist"] for e in epochs], dtype=np.float64)
        share = 100 * hist / np.maximum(hist.sum(axis=1, keepdims=True), 1)
        extent = (0.5, len(epochs) + 0.5, 0.0, 1.0)
        scale: dict[str, Any] = {"vmin": 0, "vmax": 100, "interpolation": "none"}
        image = axes.imshow(share.T, origin="lower", aspect="auto", extent=extent, **scale)
        axes.set_title(f"{layer}: gate values")
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel("epoch")
        maps.append(axes)
        for bin, values in enumerate(share.T):
            keep(axes, f"values from {bin / 10:.1f}", x, values.tolist(), panel=layer)
    bar = figure.colorbar(image, ax=maps, location="bottom", fraction=0.06, aspect=40)
    bar.set_label("% of gates", color=MUTED)
    bar.outline.set_visible(False)
    return figure
