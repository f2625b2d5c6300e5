"""Fig. 3, 4 and 6 of the SI paper as functions of results: accuracies of single tasks, and against their number.

F. Zenke, B. Poole, S. Ganguli: "Continual Learning Through Synaptic Intelligence", ICML 2017 (arXiv 1703.04200).
Accuracies are in % of test images, means over the finished seeds with 95 % Student-t intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engram.protocols.entry import done_seeds
from engram.protocols.metrics import Summary
from engram.recipes.published import CIFAR, PERMUTED_MNIST, STORED, STORED_FIVE
from engram.report.style import (
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
from engram.report.words import counts_words, setting_words, task_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Series",
    "against_tasks",
    "authors_curve",
    "final_accuracies",
    "per_task",
    "task_bars",
    "task_panels",
    "tasks_figure",
]

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Series:
    """Accuracies [%] at places ``x``, with their intervals (None where there is none) and the number of seeds."""

    label: str
    x: tuple[int, ...]
    mean: tuple[float, ...]
    ci95: tuple[tuple[float, float] | None, ...]
    n: int


def _series(label: str, places: Sequence[int], columns: Sequence[Sequence[float]]) -> Series:
    found = [Summary.of([100 * v for v in column]) for column in columns]
    return Series(
        label, tuple(places), tuple(s.mean for s in found), tuple(s.ci95 for s in found), len(columns[0])
    )


def per_task(result: Result) -> list[Series]:
    """Fig. 3: for each task, its accuracy after each task from its own on; last their average over tasks so far.

    Raises:
        ValueError: no seed has finished.
    """
    matrices = _matrices(result)
    n = len(matrices[0])
    label = str(result["label"])
    out = [
        _series(label, range(j + 1, n + 1), [[m[i][j] for m in matrices] for i in range(j, n)])
        for j in range(n)
    ]
    averages = [[sum(m[i][: i + 1]) / (i + 1) for m in matrices] for i in range(n)]
    return [*out, _series(label, range(1, n + 1), averages)]


def against_tasks(result: Result) -> Series:
    """Fig. 4: average accuracy over the tasks seen so far, against their number.

    Joint training counts after the tasks that its option ``at`` names and after the last: in between an earlier network
    answered.

    Raises:
        ValueError: no seed has finished.
    """
    whole = per_task(result)[-1]
    at = (result["config"].get("method") or {}).get("options", {}).get("at")
    if result["method"] != "joint" or not isinstance(at, list):
        return whole
    keep = [i for i, x in enumerate(whole.x) if x in at or x == whole.x[-1]]
    return Series(
        whole.label,
        tuple(whole.x[i] for i in keep),
        tuple(whole.mean[i] for i in keep),
        tuple(whole.ci95[i] for i in keep),
        whole.n,
    )


def final_accuracies(result: Result) -> Series:
    """Fig. 6: accuracy of each task after the last one; the last entry, at T + 1, is their average.

    Raises:
        ValueError: no seed has finished.
    """
    rows = [m[-1] for m in _matrices(result)]
    n = len(rows[0])
    columns = [[row[j] for row in rows] for j in range(n)] + [[sum(row) / n for row in rows]]
    return _series(str(result["label"]), range(1, n + 2), columns)


def authors_curve(results: Sequence[Result], c: float = 0.1) -> Series | None:
    """The authors' stored curve of Fig. 4, where the results are of ten permutations of all of MNIST, else None."""
    first = results[0]
    if first["data"].get("name") != "mnist" or len(first["tasks"]) != 10 or not is_permuted(first):
        return None
    data = first["config"].get("data") or {}
    if data.get("max_per_class") or data.get("image_size") not in (None, 28):
        return None
    values = PERMUTED_MNIST[c]
    return Series(f"SI, c = {c:g}: {STORED}", tuple(range(1, 11)), values, (None,) * 10, 1)


def is_permuted(result: Result) -> bool:
    """Whether a result is of permuted pixels."""
    return str(result["data"].get("stream") or "").startswith("permuted")


def is_sequence(result: Result) -> bool:
    """Whether a result is of one data set after another."""
    return str(result["data"].get("stream") or "").startswith("sequence")


def _matrices(result: Result) -> list[list[list[float]]]:
    matrices = [s["accuracy_matrix"] for s in done_seeds(result)]
    if not matrices:
        raise ValueError(f"no seed of {result['label']} has finished")
    return matrices


# Figures --------------------------------------------------------------------------------------------------


def _draw(axes: Axes, series: Series, index: int, panel: str = "") -> None:
    style = line_style(index)
    label = f"{series.label} (n={series.n})"
    ends = [[None if c is None else c[i] for c in series.ci95] for i in (0, 1)]
    keep(axes, label, series.x, series.mean, *ends, panel=panel)
    whole = list(series.x) == list(range(series.x[0], series.x[0] + len(series.x)))
    if not whole:
        style["linestyle"] = "none"  # nothing was measured in between
    axes.plot(series.x, series.mean, label=label, zorder=3, **style)
    intervals = [c for c in series.ci95 if c is not None]
    if len(intervals) < len(series.x):
        return
    low, high = [c[0] for c in intervals], [c[1] for c in intervals]
    if whole:
        axes.fill_between(series.x, low, high, color=colour(index), alpha=0.16, linewidth=0)
    else:
        axes.vlines(series.x, low, high, color=colour(index), linewidth=1.2)


@styled
def task_panels(results: Sequence[Result]) -> Figure:
    """Fig. 3: a panel for each task and one for the average, a line for each result.

    Args:
        results: with a finished seed each, all with the same tasks.
    """
    n = len(results[0]["tasks"])
    columns = 2 if width() > 4 else 1
    rows = -(-(n + 1) // columns)
    note = f"{setting_words(results)}; {counts_words(results)} (band)."
    figure = new_figure(0.6 + 1.8 * rows, "Accuracy of each task while later ones are learned", note)
    names = [*task_names(results[0]), "average so far"]
    every = [per_task(r) for r in results]
    low = min(v for panels in every for s in panels for v in s.mean)
    first = None
    for j, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, j + 1, sharey=first)
        first = first or axes
        for index, panels in enumerate(every):
            _draw(axes, panels[j], index, name)
        task_axis(axes, n, "tasks learned" if j > n - columns else "", columns)
        axes.set_title(name)
        axes.set_ylim(max(0.0, min(low, 95.0) - 4), 100)
        if j % columns == 0:
            axes.set_ylabel("accuracy [%]")
    place_legend(figure)
    return figure


@styled
def tasks_figure(results: Sequence[Result]) -> Figure:
    """Fig. 4: average accuracy against the number of tasks, the authors' stored curve beside ours where it fits.

    Args:
        results: with a finished seed each, of a domain-incremental stream.
    """
    note = f"{setting_words(results)}; {counts_words(results)} (band)."
    authors = authors_curve(results)
    if authors is not None:
        note += f" Grey: {STORED}, of ganguli-lab/pathint."
    figure = new_figure(3.6, "Average accuracy against the number of tasks", note)
    axes = figure.add_subplot()
    for index, result in enumerate(results):
        series = against_tasks(result)
        if series.x:
            _draw(axes, series, index)
    if authors is not None:
        axes.plot(authors.x, authors.mean, color=MUTED, linestyle=":", marker="x", label=authors.label)
        keep(axes, authors.label, authors.x, authors.mean)
    task_axis(axes, len(results[0]["tasks"]))
    axes.set_ylabel("average accuracy [%]")
    place_legend(figure)
    return figure


@styled
def task_bars(results: Sequence[Result]) -> Figure:
    """Fig. 6: accuracy of each task after the last, a bar for each result, and the average over tasks.

    Args:
        results: with a finished seed each, all with the same tasks. The authors' means are drawn where the data are
            theirs.
    """
    n = len(results[0]["tasks"])
    note = f"{setting_words(results)}; {counts_words(results)} (whisker)."
    theirs = CIFAR if _is_the_authors(results[0]) else {}
    if theirs:
        note += f" Marks: {STORED_FIVE}, of ganguli-lab/pathint, 60 epochs."
    figure = new_figure(4.6, "Accuracy of each task after the last", note)
    axes = figure.add_subplot()
    names = [*(t if len(t) <= 12 else t[:11] + "…" for t in task_names(results[0])), "average"]
    bar = 0.8 / len(results)
    for index, result in enumerate(results):
        series = final_accuracies(result)
        x = np.array(series.x) + (index - (len(results) - 1) / 2) * bar
        spread = [0.0 if c is None else (c[1] - c[0]) / 2 for c in series.ci95]
        label = f"{series.label} (n={series.n})"
        axes.bar(
            x, series.mean, bar, yerr=spread if any(spread) else None,
            color=colour(index), hatch=HATCHES[index % len(HATCHES)],
            edgecolor="white", linewidth=0.6, label=label, error_kw={"linewidth": 0.8},
        )  # fmt: skip
        ends = [[None if c is None else c[i] for c in series.ci95] for i in (0, 1)]
        keep(axes, label, names, series.mean, *ends)
    for index, (name, values) in enumerate(theirs.items()):
        style = {**line_style(index), "color": MUTED, "linestyle": "none"}
        marks = [*values, sum(values) / n]
        axes.plot(range(1, n + 2), marks, label=f"{name}, {STORED_FIVE}", **style)
        keep(axes, f"{name}, {STORED_FIVE}", names, marks)
    axes.set_xticks(
        range(1, n + 2), names, rotation=60 if width() > 4 else 90, ha="right", rotation_mode="anchor"
    )
    axes.axvline(n + 0.5, color=MUTED, linewidth=0.6)
    axes.set_ylabel("accuracy [%]")
    axes.set_ylim(0, 100)
    axes.grid(axis="y")
    place_legend(figure)
    return figure


def _is_the_authors(result: Result) -> bool:
    parts = [f"cifar100:{k}-{k + 9}" for k in range(0, 50, 10)]
    return result["data"].get("name") == " and ".join(["cifar10", *parts])
