"""A sweep in a report: accuracy against strength, old tasks and new ones apart, the table, and the choice in words.

Each figure is a pure function of what a sweep found and returns a matplotlib Figure. Test accuracy is
shown; it takes no part in the choice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.report.picture import Picture, drawn, slug
from engram.report.style import (
    INK,
    LINES,
    MARKERS,
    MUTED,
    colour,
    keep,
    new_figure,
    percentages,
    place_legend,
    styled,
    width,
)
from engram.report.table import Column, Table
from engram.report.words import MISSING, content_words, mean_pm
from engram.studies.axes import shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["chosen_words", "strength_curves", "sweep_pictures", "sweep_table", "swept"]

Sweep = Mapping[str, Any]
SERIES = {
    "new": "new tasks (each right after it was learned)",
    "old": "old tasks (all but the last, at the end)",
    "average": "average over tasks at the end",
}


def swept(sweep: Sweep) -> list[str]:
    """Parameters with at least two different values among the trials that finished."""
    done = [t for t in sweep["trials"] if t["status"] == "done"]
    return [name for name in sweep["over"] if len({shown(t["options"][name]) for t in done}) > 1]


@styled
def strength_curves(sweep: Sweep, name: str) -> Figure:
    """Test accuracy [%] on new tasks, on old ones, and their average against one parameter.

    Args:
        sweep: what a sweep found.
        name: the parameter. In a grid of several, the others are held at the chosen trial's values; trials of Optuna
            are all drawn, as points.
    """
    trials, joined = _slice(sweep, name)
    values = [t["options"][name] for t in trials]
    at, ticks, labels, scale = _places(values)
    held = {k: v for k, v in (sweep.get("chosen") or {}).get("options", {}).items() if k != name}
    note = f"{sweep['data']['name']}, {sweep['n_tasks']} tasks, {sweep['protocol']['scenario']}-incremental; "
    n = len(sweep["seeds"])
    note += f"mean over {n} seeds, bars: 95 % Student-t intervals. " if n > 1 else "1 seed, no interval. "
    if held:
        other = ", ".join(f"{k}={shown(v)}" for k, v in held.items())
        note += f"At the chosen {other}. " if joined else "The other parameters vary too. "
    if sweep.get("chosen"):
        note += f"Dashed: chosen on {sweep['chosen']['data']}."
    figure = new_figure(3.6, f"{sweep['method']}: test accuracy against {name}", note)
    axes = figure.add_subplot()
    apart = 0.008 * (max(at) - min(at))  # so that intervals of the three stand side by side
    for index, (key, label) in enumerate(SERIES.items()):
        rows = [
            (x + (index - 1) * apart, t["test"][key])
            for x, t in zip(at, trials, strict=True)
            if t["test"][key]
        ]
        if not rows:
            continue
        mean = [100 * s["mean"] for _, s in rows]
        half = [50 * (s["ci95"][1] - s["ci95"][0]) if s["ci95"] else 0.0 for _, s in rows]
        style: dict[str, Any] = {"color": colour(index), "marker": MARKERS[index], "linestyle": LINES[index]}
        if not joined:
            style["linestyle"] = "none"
        bars: dict[str, Any] = {"capsize": 2.5, "elinewidth": 1.0, "label": label}
        axes.errorbar([x for x, _ in rows], mean, half if any(half) else None, **bars, **style)
        given = [shown(t["options"][name]) for t in trials if t["test"][key]]
        ends = [[s["ci95"][i] and 100 * s["ci95"][i] if s["ci95"] else None for _, s in rows] for i in (0, 1)]
        keep(axes, label, given, mean, *ends)
    if sweep.get("chosen"):
        x = at[values.index(sweep["chosen"]["options"][name])]
        axes.axvline(x, color=INK, linestyle=(0, (4, 3)), linewidth=1.1, zorder=1)
        axes.annotate(
            "chosen", (x, 1), (3, -2), xycoords=("data", "axes fraction"), textcoords="offset points", va="top",
            color=MUTED,
        )  # fmt: skip
    axes.set_xticks(ticks, labels)
    axes.minorticks_off()
    axes.set_xlabel(f"{name}{scale}")
    axes.set_ylabel("test accuracy [%]")
    percentages(axes)
    axes.grid(axis="y")
    place_legend(figure)
    return figure


def _slice(sweep: Sweep, name: str) -> tuple[list[Any], bool]:
    """Finished trials to draw in the order of the parameter, and whether a line may join them."""
    trials = [t for t in sweep["trials"] if t["status"] == "done"]
    joined = sweep["engine"]["name"] != "optuna" or len(sweep["over"]) == 1
    if joined and sweep.get("chosen"):
        held = {k: v for k, v in sweep["chosen"]["options"].items() if k != name}
        trials = [t for t in trials if all(t["options"][k] == v for k, v in held.items())]
    if all(_number(t["options"][name]) for t in trials):
        trials = sorted(trials, key=lambda t: float(t["options"][name]))
    return trials, joined


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _places(values: Sequence[Any]) -> tuple[list[float], list[float], list[str], str]:
    """Where values stand on the axis, its ticks and their labels, and what kind of axis it is.

    Numbers over more than a decade stand on a log axis, 0 at its left end, a decade below the smallest; other
    values side by side.
    """
    texts = [shown(v) for v in values]
    if not all(_number(v) for v in values) or min(map(float, values)) < 0:
        at = [float(i) for i in range(len(values))]
        return at, at, texts, ""
    numbers = [float(v) for v in values]
    above = [v for v in numbers if v > 0]
    if not above or max(above) / min(above) < 10:
        at, scale = numbers, ""
    else:
        zero = math.log10(min(above)) - 1
        at = [math.log10(v) if v > 0 else zero for v in numbers]
        scale = " (log axis, 0 at its left end)" if 0.0 in numbers else " (log axis)"
    ticks: list[float] = []
    labels: list[str] = []
    room = (max(at) - min(at)) / (2.0 * width())
    for x, text in zip(at, texts, strict=True):
        if not ticks or x - ticks[-1] > room:
            ticks.append(x)
            labels.append(text if len(text) < 8 else f"{float(text):.2g}")
    return at, ticks, labels, scale


def sweep_pictures(sweep: Sweep, folder: Path) -> list[Picture]:
    """The figures of a sweep: one for each parameter that varies among finished trials.

    Args:
        sweep: what a sweep found.
        folder: where files go.
    """
    out = []
    for name in swept(sweep):
        stem = f"sweep-{slug(name)}"
        trials, _ = _slice(sweep, name)
        ends = "; ".join(
            f"{name} = {shown(t['options'][name])}: new {mean_pm(t['test']['new'], scale=100)}, "
            f"old {mean_pm(t['test']['old'], scale=100)}"
            for t in (trials if len(trials) <= 8 else [trials[0], trials[-1]])
        )
        alt = f"Line chart of test accuracy against {name}, old tasks and new ones apart. In %: {ends}."
        caption = "What holds old tasks costs new ones: a good strength is where the average is highest."
        out.append(drawn(folder, stem, partial(strength_curves, sweep, name), alt, caption))
    return out


def sweep_table(sweep: Sweep) -> Table:
    """One row per trial: validation score by the rule of choice, then test accuracies."""
    rule = sweep["rule"]["name"]
    chosen = (sweep.get("chosen") or {}).get("name")
    n = len(sweep["seeds"])
    columns = (
        Column("Trial", text=True),
        Column("Validation score", f"%, {rule}", short="Validation\nscore %"),
        Column("Average", "%, test, all tasks at the end", short="Test\naverage %"),
        Column("New tasks", "%, test, each right after it was learned", short="Test, new\ntasks %"),
        Column("Old tasks", "%, test, all but the last at the end", short="Test, old\ntasks %"),
        Column("Status", text=True),
    )
    rows = tuple(
        (
            t["name"],
            mean_pm(t["valid"][rule], scale=100),
            *(
                mean_pm(t["test"][k], scale=100) if t["test"][k] else MISSING
                for k in ("average", "new", "old")
            ),
            "chosen" if t["name"] == chosen else t["status"],
        )
        for t in sweep["trials"]
    )
    over = (
        f"mean over {n} seeds ± half width of its 95 % Student-t interval"
        if n > 1
        else "1 seed, hence no interval"
    )
    failed = [f"{t['name']}: {t['error']}" for t in sweep["trials"] if t["status"] == "failed" and t["error"]]
    return Table(f"Sweep of {sweep['method']}: {over}", columns, rows, (*content_words(sweep), *failed))


def chosen_words(sweep: Sweep) -> str:
    """The choice in a sentence, and what to know about it."""
    chosen = sweep.get("chosen")
    if chosen is None:
        return "No trial was chosen: none finished with all of its seeds."
    text = (
        f"Chosen: {chosen['name']}, on {chosen['data']} (rule {chosen['rule']}). Test data had no part in it."
    )
    if chosen["equal"]:
        text += f" As good, and later in the list: {', '.join(chosen['equal'])}."
    for name in chosen["at_the_edge"]:
        text += f" {name} lies at the edge of what was tried: a wider sweep may find better."
    if chosen["rule"] == "valid_current":
        text += " This rule does not see forgetting."
    return text
