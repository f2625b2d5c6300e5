"""Figures of a report; each is a pure function of results of schema 1 and returns a matplotlib Figure.

A figure's label says of what it is, its gid over how many seeds with which spread; only finished seeds are drawn. How
to change the look: `engram.report.style.restyled`. Figures of generative methods (samples, growth, masks, gates) are in
`engram.report.figures_generative` and re-exported here.

Departures: none (no paper). Cost: about 0.2 s a figure.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from engram.protocols.entry import done_seeds
from engram.report.figures_generative import (
    gate_values,
    mask_use,
    network_growth,
    sample_grid,
    samples_over_tasks,
)
from engram.report.style import (
    HATCHES,
    MUTED,
    ON_LIGHT,
    colour,
    keep,
    line_style,
    new_figure,
    percentages,
    place_legend,
    styled,
    task_axis,
    width,
)
from engram.report.words import counts_words, setting_words, task_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "accuracy_curves",
    "accuracy_matrix",
    "confusion_matrix",
    "forgetting_curves",
    "gate_values",
    "image_bytes",
    "loss_curves",
    "loss_names",
    "mask_use",
    "memory_account",
    "memory_curves",
    "network_growth",
    "sample_grid",
    "samples_over_tasks",
    "storage_bars",
    "top5_curves",
]

Result = Mapping[str, Any]
LONGEST_NAME = 12  # letters of a class beside a heat map


@styled
def accuracy_curves(results: Sequence[Result]) -> Figure:
    """Average accuracy A_t [%] after each task, one line per result, with 95 % bands.

    Args:
        results: one or more results; those without a finished seed are left out.
    """
    figure = _curves(results, "average_accuracy", "Average accuracy on the tasks learned so far")
    axes = figure.axes[0]
    axes.set_ylabel("average accuracy [%]")
    percentages(axes)
    place_legend(figure)
    return figure


@styled
def top5_curves(results: Sequence[Result]) -> Figure:
    """Average top-5 accuracy [%] after each task, as `accuracy_curves`, of results that have it."""
    figure = _curves(
        results, "top5", "The class is among the five best answers: average over the tasks so far"
    )
    axes = figure.axes[0]
    axes.set_ylabel("top-5 accuracy [%]")
    percentages(axes)
    place_legend(figure)
    return figure


@styled
def forgetting_curves(results: Sequence[Result]) -> Figure:
    """Average forgetting F_t [percentage points] after each task from the second, with 95 % bands.

    Args:
        results: one or more results; those without a finished seed are left out.
    """
    figure = _curves(results, "forgetting", "Forgetting of earlier tasks (lower is better)")
    axes = figure.axes[0]
    axes.set_ylabel("forgetting [points]")
    axes.axhline(0, color=MUTED, linewidth=0.8)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -100), min(max(high, 5), 100))
    for line in axes.lines:
        line.set_clip_on(False)  # markers at 100 are drawn whole
    place_legend(figure)
    return figure


def _curves(results: Sequence[Result], key: str, title: str) -> Figure:
    note = f"{setting_words(results)}; {counts_words(results)} (band)."
    figure = new_figure(3.4, title, note)
    axes = figure.add_subplot()
    n_tasks = max(len(r["tasks"]) for r in results)
    for index, result in enumerate(results):
        series = result["summary"].get(key)
        if series is None:
            continue
        x = np.arange(1, len(series["mean"]) + 1)
        mean = 100 * _floats(series["mean"])
        label = f"{result['label']} (n={series['n']})"
        axes.plot(x, mean, label=label, zorder=3, **line_style(index))
        band = 100 * np.array([(math.nan, math.nan) if c is None else c for c in series["ci95"]])
        if series["n"] > 1:
            axes.fill_between(x, band[:, 0], band[:, 1], color=colour(index), alpha=0.16, linewidth=0)
        keep(axes, label, x.tolist(), mean.tolist(), band[:, 0].tolist(), band[:, 1].tolist())
    task_axis(axes, n_tasks)
    return figure


def _floats(values: Sequence[float | None]) -> np.ndarray:
    return np.array([math.nan if v is None else v for v in values], dtype=np.float64)


def _stack(seeds: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    return np.stack([np.stack([_floats(row) for row in s[key]]) for s in seeds])


@styled
def accuracy_matrix(result: Result) -> Figure:
    """Mean accuracy matrix [%] over the finished seeds: row = after learning task i, column = on task j.

    Args:
        result: a result with at least one finished seed.
    """
    seeds = done_seeds(result)
    mean = 100 * _stack(seeds, "accuracy_matrix").mean(axis=0)
    n = len(mean)
    note = f"{setting_words([result])}; {_over(len(seeds))}. Empty: not measured."
    names = task_names(result)
    axes = _heat(
        f"{result['label']}: accuracy of each task [%]", note, mean, names, [str(i + 1) for i in range(n)]
    )
    axes.set_xlabel("measured on task")
    axes.set_ylabel("after learning task")
    return axes.figure  # type: ignore[return-value]  # no figure of ours is part of another


@styled
def confusion_matrix(result: Result) -> Figure:
    """Share [%] of each true class (row) predicted as each class (column) after the last task.

    Args:
        result: a result of which at least one finished seed has confusion counts; they are summed over seeds.
    """
    seeds = [s for s in done_seeds(result) if s.get("confusion")]
    counts = _stack(seeds, "confusion").sum(axis=0)
    totals = counts.sum(axis=1, keepdims=True)
    share = np.where(totals > 0, 100 * counts / np.maximum(totals, 1), np.nan)
    n = len(share)
    names = [str(c) for c in result["data"].get("class_names") or []]
    names = names if len(names) == n else [str(c) for c in range(n)]
    note = f"{setting_words([result])}; counts summed over {_plural(len(seeds), 'seed')}. Row: true class."
    axes = _heat(f"{result['label']}: predictions after the last task [%]", note, share, names, names)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    return axes.figure  # type: ignore[return-value]  # as above


def _heat(title: str, note: str, values: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> Axes:
    """Heat map of percentages; numbers are written into the cells while they fit, else a bar explains the colours."""
    n = len(values)
    shown = [name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…" for name in rows]
    left, below = (0.09 * max(map(len, names)) + 0.35 for names in (shown, columns))
    cell = min(0.5, (width() - left - 0.15) / n)  # inches
    numbers = cell >= 0.36
    side = n * cell if numbers else width() - left - 0.9
    figure = new_figure(max(side + below, 2.2), title, note)
    axes = figure.add_subplot()
    image = axes.imshow(values, vmin=0, vmax=100, interpolation="none")
    step = max(1, math.ceil(0.24 * n / side))
    ticks = list(range(0, n, step))
    turn: dict[str, Any] = {"rotation": 90} if max(map(len, columns)) > 2 else {}
    axes.set_xticks(ticks, [columns[i] for i in ticks], **turn)
    axes.set_yticks(ticks, [shown[i] for i in ticks])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if numbers:
        for i, j in np.argwhere(~np.isnan(values)):
            shade = "#ffffff" if values[i, j] > 60 else ON_LIGHT
            axes.text(j, i, f"{values[i, j]:.0f}", ha="center", va="center", color=shade)
    else:
        bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0)
    for name, row in zip(rows, values, strict=True):
        keep(axes, name, columns, row.tolist())
    return axes


def _plural(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"


def _over(n: int) -> str:
    return "1 seed" if n == 1 else f"mean over {n} seeds"


@styled
def memory_curves(results: Sequence[Result]) -> Figure:
    """All that is kept [KiB] after each task, one line per result, against the bytes of the training images so far.

    Args:
        results: those for which `memory_account` is not empty.
    """
    # Matplotlib is loaded when something is drawn.
    from matplotlib.ticker import StrMethodFormatter

    note = f"{setting_words(results)}; mean over the finished seeds. 1 KiB = 1024 bytes."
    figure = new_figure(3.4, "What is kept after each task", note)
    axes = figure.add_subplot()
    for index, result in enumerate(results):
        kept = np.sum(list(memory_account(result).values()), axis=0)
        x = np.arange(1, len(kept) + 1)
        axes.plot(x, kept / 1024, label=str(result["label"]), **line_style(index))
        keep(axes, str(result["label"]), x.tolist(), (kept / 1024).tolist())
    images = image_bytes(results[0]) / 1024
    axes.plot(np.arange(1, len(images) + 1), images, color=MUTED, linestyle=":", label="training images")
    task_axis(axes, len(images))
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.set_ylabel("KiB")
    place_legend(figure)
    return figure


def memory_account(result: Result) -> dict[str, np.ndarray]:
    """Bytes kept after each task [T] by kind, mean over the finished seeds; empty where they were not recorded."""
    logs = [[t.get("storage_bytes") or {} for t in s["tasks"]] for s in done_seeds(result)]
    if not logs or not all(len(tasks) == len(result["tasks"]) and all(tasks) for tasks in logs):
        return {}
    kinds = dict.fromkeys(k for tasks in logs for t in tasks for k in t)
    return {k: np.mean([[t.get(k, 0) for t in tasks] for tasks in logs], axis=0) for k in kinds}


def image_bytes(result: Result) -> np.ndarray:
    """Bytes of the training images of all tasks so far [T]: a byte a pixel and channel, 4 an entry of a vector."""
    shape = result["data"].get("image_shape") or [0]
    each = math.prod(shape) * (1 if len(shape) == 3 else 4)
    return np.cumsum([each * t.get("n_train", 0) for t in result["tasks"]])


@styled
def storage_bars(results: Sequence[Result]) -> Figure:
    """Storage [KiB] at the end of training by kind, one stacked bar per result, total written at its end.

    Args:
        results: one or more results; those without recorded storage are left out.
    """
    # Matplotlib is loaded when something is drawn.
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    shown = [r for r in results if r["summary"]["storage_total_bytes"] is not None]
    kinds = list(dict.fromkeys(k for r in shown for k in r["summary"]["storage_bytes"]))
    kinds = [k for k in kinds if any(_kib(r, k) > 0 for r in shown)]
    note = f"{setting_words(results)}; mean over the finished seeds. 1 KiB = 1024 bytes."
    figure = new_figure(1.3 + 0.62 * len(shown), "Storage kept after the last task", note)
    axes = figure.add_subplot()
    y = np.arange(len(shown))
    names = [f"{r['label']} (n={r['summary']['n']})" for r in shown]
    left = np.zeros(len(shown))
    for index, kind in enumerate(kinds):
        kib = np.array([_kib(r, kind) for r in shown])
        axes.barh(
            y, kib, left=left, height=0.4, label=kind.replace("_", " "),
            color=colour(index), hatch=HATCHES[index % len(HATCHES)], edgecolor="white", linewidth=0.8,
        )  # fmt: skip
        keep(axes, kind.replace("_", " "), names, kib.tolist())
        left += kib
    for position, name, total in zip(y, names, left, strict=True):
        axes.text(0, position - 0.26, f"{name}: {total:,.0f} KiB", va="bottom")
    axes.set_yticks([])
    axes.set_ylim(len(shown) - 0.7, -0.75)
    axes.set_xlim(0, max(left.max(initial=0.0), 1e-9))
    axes.set_xlabel("KiB")
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    place_legend(figure)
    return figure


def _kib(result: Result, kind: str) -> float:
    entry = result["summary"]["storage_bytes"].get(kind)
    return 0.0 if entry is None or entry["mean"] is None else float(entry["mean"]) / 1024


def loss_names(result: Result) -> list[tuple[str, str]]:
    """(phase, loss) pairs that the finished seeds recorded, in order of appearance."""
    return list(
        dict.fromkeys(
            (phase["phase"], name)
            for seed in done_seeds(result)
            for task in seed.get("tasks") or []
            for phase in task.get("phases") or []
            for epoch in phase.get("epochs") or []
            for name in epoch.get("losses") or {}
        )
    )


@styled
def loss_curves(result: Result) -> Figure:
    """Every loss term over the epochs of all tasks, one panel per (phase, loss): thin a seed, thick the mean.

    Args:
        result: a result whose finished seeds recorded losses (see `loss_names`).
    """
    names = loss_names(result)
    columns = min(2 if width() > 4 else 1, len(names))
    rows = -(-len(names) // columns)
    seeds = done_seeds(result)
    lines_words = f"thin: {_plural(len(seeds), 'seed')}, thick: their mean, vertical lines: next task"
    note = f"{setting_words([result])}; {lines_words}; epochs of all tasks in a row."
    figure = new_figure(0.5 + 1.8 * rows, f"{result['label']}: losses", note)
    for index, (phase, name) in enumerate(names):
        axes = figure.add_subplot(rows, columns, index + 1)
        lines, starts = [], [0]
        for seed in seeds:
            per_task = [_losses(task, phase, name) for task in seed.get("tasks") or []]
            lines.append(np.concatenate([*per_task, np.zeros(0)]))
            starts = list(np.cumsum([0, *(len(v) for v in per_task)]))
            axes.plot(lines[-1], color=colour(0), alpha=0.3, linewidth=0.7)
            series, x = f"seed {seed['seed']}", range(1, len(lines[-1]) + 1)
            keep(axes, series, x, lines[-1].tolist(), panel=f"{phase}: {name}")
        if len({len(v) for v in lines}) == 1:
            axes.plot(np.mean(lines, axis=0), color=colour(0), linewidth=1.5)
        for start in starts[1:-1]:
            axes.axvline(start - 0.5, color=MUTED, linewidth=0.5, linestyle=":")
        axes.set_title("\n".join(textwrap.wrap(f"{phase}: {name}", 24)))
        axes.grid(axis="y")
        axes.locator_params(nbins=4)
        if index >= len(names) - columns:
            axes.set_xlabel("epoch")
    return figure


def _losses(task: Mapping[str, Any], phase: str, name: str) -> np.ndarray:
    return _floats(
        [
            epoch["losses"].get(name)
            for p in task.get("phases") or []
            if p["phase"] == phase
            for epoch in p.get("epochs") or []
        ]
    )
