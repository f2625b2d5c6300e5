"""Trade-off curves in a report: source against target accuracy, the table of both measures, and what to know about it.

Everything here is a pure function of what a trade-off found. The figure is drawn as in Lee et al., "Residual
Continual Learning" (AAAI 2020): a curve a method, the better the further to the top right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.protocols.metrics import Summary
from engram.report.picture import Picture, drawn
from engram.report.style import GRID, MUTED, keep, line_style, new_figure, place_legend, styled
from engram.report.table import Column, Table
from engram.report.words import MISSING, content_words, mean_pm
from engram.studies.axes import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["measures_table", "points_table", "tradeoff_figure", "tradeoff_pictures", "tradeoff_words"]

Tradeoff = Mapping[str, Any]
NEAR = 0.06  # below fine-tuning's target accuracy: where the required ones lie


# The figure -------------------------------------------------------------------------------------------------
@styled
def tradeoff_figure(tradeoff: Tradeoff, *, near: bool = False) -> Figure:
    """Source accuracy [%] against target accuracy [%], both at the end.

    Args:
        tradeoff: what a trade-off found.
        near: only the part where the required target accuracies lie.
    """
    n = len(tradeoff["seeds"])
    note = (
        f"{tradeoff['source']} (source), then {tradeoff['target']} (target), task labels given; test images; "
    )
    note += f"mean over {n} seeds, bars: 95 % Student-t intervals. " if n > 1 else "1 seed, no interval. "
    note += "Lines join the Pareto-optimal points; hollow points are beaten by another setting. "
    note += "Dotted: required target accuracies. "
    if tradeoff["source_network"]:
        note += "Dashed: the source network before the target is learned."
    title = "Near fine-tuning's target accuracy" if near else "Source against target accuracy"
    figure = new_figure(4.0, title, note)
    axes = figure.add_subplot()
    points: list[tuple[float, float]] = []
    for index, method in enumerate(tradeoff["methods"]):
        points += _curve(axes, method, index)
    if near:
        _zoom(axes, tradeoff, points)
    else:
        axes.autoscale_view()
        for line in axes.lines:
            line.set_clip_on(False)  # markers at 0 and 100 are drawn whole
    _guides(axes, tradeoff)
    axes.set_xlabel("target accuracy at the end [%]")
    axes.set_ylabel("source accuracy at the end [%]")
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    place_legend(figure)
    return figure


def _curve(axes: Axes, method: Mapping[str, Any], index: int) -> list[tuple[float, float]]:
    """Draw one method; the means of its points, in percent."""
    points = [p for p in method["points"] if p["status"] == "done"]
    if not points:
        return []
    style = line_style(index)
    target, source = ([Summary.of(p[key]) for p in points] for key in ("target", "source"))
    x, y = [100 * s.mean for s in target], [100 * s.mean for s in source]
    bars = [[100 * (s.half_width or 0.0) for s in sums] for sums in (target, source)]
    if any(map(any, bars)):
        axes.errorbar(
            x, y, bars[1], bars[0], fmt="none", ecolor=style["color"], elinewidth=0.8, alpha=0.45, zorder=1.5
        )
    keep(
        axes,
        str(method["label"]),
        x,
        y,
        *([v - b for v, b in zip(y, bars[1], strict=True)], [v + b for v, b in zip(y, bars[1], strict=True)]),
    )
    single = method["option"] is None
    front = sorted((x[i], y[i]) for i, p in enumerate(points) if p["name"] in method["pareto"])
    size = {"markersize": 9} if single else {}
    axes.plot(
        [a for a, _ in front],
        [b for _, b in front],
        **(style | size | ({"linestyle": "none"} if single else {})),
        label=method["label"],
        zorder=3,
    )
    beaten = [(x[i], y[i]) for i, p in enumerate(points) if p["name"] not in method["pareto"]]
    if beaten:
        hollow = {"linestyle": "none", "markerfacecolor": "white", "markeredgecolor": style["color"]}
        axes.plot(
            [a for a, _ in beaten], [b for _, b in beaten], **(style | hollow | {"markeredgewidth": 1.0})
        )
    return list(zip(x, y, strict=True))


def _zoom(axes: Axes, tradeoff: Tradeoff, points: Sequence[tuple[float, float]]) -> None:
    left = 100 * (tradeoff["finetuned_target"]["mean"] - NEAR)
    right = max(x for x, _ in points)
    seen = [y for x, y in points if x >= left]
    seen += [
        100 * m["measure"]["mean"] for method in tradeoff["methods"] for m in method["m2"] if m["measure"]
    ]
    apart = 0.06 * (max(seen) - min(seen)) + 0.5
    axes.set_xlim(left, right + 0.4)
    axes.set_ylim(min(seen) - apart, max(seen) + apart)


def _guides(axes: Axes, tradeoff: Tradeoff) -> None:
    """Required target accuracies, and the source network; both axes end at 0 and 100."""
    low, high = axes.get_xlim()
    bottom, top = axes.get_ylim()
    axes.set_xlim(max(low, 0), min(high, 100))
    axes.set_ylim(max(bottom, 0), min(top, 100))
    for tau in tradeoff["taus"]:
        if low <= 100 * tau["tau"] <= high:
            axes.axvline(100 * tau["tau"], color=MUTED, linestyle=":", linewidth=0.9, alpha=0.6, zorder=1)
    if tradeoff["source_network"]:
        level = 100 * tradeoff["source_network"]["mean"]
        bottom, top = axes.get_ylim()
        if level <= top + 0.25 * (top - bottom):  # else too far up to be worth the room
            axes.axhline(level, color=MUTED, linestyle=(0, (5, 3)), linewidth=0.9, alpha=0.8, zorder=1)


def tradeoff_pictures(tradeoff: Tradeoff, folder: Path) -> list[Picture]:
    """The figures of a trade-off, none before a point has finished.

    Args:
        tradeoff: what a trade-off found.
        folder: where files go.
    """
    measured = [m for m in tradeoff["methods"] if m["m1"]]
    if not measured:
        return []
    said = "; ".join(f"{_named(m)}: M1 {mean_pm(m['m1'], scale=100)} at {_where(m['m1'])}" for m in measured)
    alt = f"Source accuracy against target accuracy, a curve a method. In %: {said}."
    caption = "A curve further to the top right is better at every required accuracy that it spans."
    out = [drawn(folder, "tradeoff", lambda: tradeoff_figure(tradeoff), alt, caption)]
    if tradeoff["finetuned_target"] and any(m["option"] for m in measured):
        said = "; ".join(
            f"{m['label']}: " + ", ".join(f"at {100 * r['tau']:.1f} {_m2_cell(r)}" for r in m["m2"])
            for m in measured
        )
        out.append(
            drawn(
                folder,
                "tradeoff-near",
                lambda: tradeoff_figure(tradeoff, near=True),
                f"The same near fine-tuning's target accuracy. Source accuracy in % at a required one: {said}.",
                "The same, where the required target accuracies lie.",
            )
        )
    return out


# The tables -------------------------------------------------------------------------------------------------
def measures_table(tradeoff: Tradeoff) -> Table:
    """One row per method: M1 with its setting, M1 chosen on validation images, M2 at each required accuracy."""
    columns = [
        Column("Method", text=True),
        Column("M1", "%, average of both tasks; chosen on test images", short="M1\n%"),
        Column("at", text=True),
        Column("M1, validation", "%, test; chosen on validation images", short="M1 %,\nvalid."),
        Column("chosen", text=True),
    ]
    for tau in tradeoff["taus"]:
        below = "as asked" if tau["below"] is None else f"fine-tuning − {tau['below']:g}"
        columns.append(
            Column(
                f"M2, target ≥ {100 * tau['tau']:.1f}",
                f"%, source accuracy; {below}",
                short=f"M2 %,\n≥ {100 * tau['tau']:.1f}",
            )
        )
    rows = tuple(
        (
            _named(m),
            mean_pm(m["m1"], scale=100),
            _where(m["m1"]),
            mean_pm(m["m1_valid"], scale=100),
            _where(m["m1_valid"]),
            *(_m2_cell(r) for r in m["m2"]),
        )
        for m in tradeoff["methods"]
    )
    n = len(tradeoff["seeds"])
    over = (
        f"mean over {n} seeds ± half width of its 95 % Student-t interval" if n > 1 else "1 seed, no interval"
    )
    title = f"Trade-off, {tradeoff['source']} (source) and {tradeoff['target']} (target): {over}"
    return Table(title, tuple(columns), rows, tuple(tradeoff_words(tradeoff)))


def points_table(tradeoff: Tradeoff) -> Table:
    """One row per point of every curve."""
    columns = (
        Column("Method", text=True),
        Column("Setting", text=True),
        Column("Target", "%, test, at the end"),
        Column("Source", "%, test, at the end"),
        Column("Average", "%"),
        Column("Pareto-optimal", text=True),
        Column("Status", text=True),
    )
    rows = []
    for m in tradeoff["methods"]:
        for p in m["points"]:
            done = p["status"] == "done"
            pairs = list(zip(p["source"], p["target"], strict=True))
            cells = [p["target"], p["source"], [(s + t) / 2 for s, t in pairs]]
            rows.append(
                (
                    str(m["label"]),
                    p["name"] if m["option"] else MISSING,
                    *(_pm(c) if done else MISSING for c in cells),
                    ("yes" if p["name"] in m["pareto"] else "no") if done else MISSING,
                    str(p["status"]),
                )
            )
    return Table("Every point of the curves", columns, tuple(rows))


def _pm(values: Sequence[float]) -> str:
    s = Summary.of(values)
    return mean_pm({"mean": s.mean, "ci95": s.ci95}, scale=100)


def _where(measure: Mapping[str, Any] | None) -> str:
    """The value of the option at a measure; the one point of a method without an option has none."""
    if measure is None or measure["at"][0]["value"] is None:
        return MISSING
    return shown(measure["at"][0]["value"])


def _named(m: Mapping[str, Any]) -> str:
    """A method and what its curve varies."""
    return f"{m['label']} ({m['option']})" if m["option"] else str(m["label"])


def _m2_cell(row: Mapping[str, Any]) -> str:
    return mean_pm(row["measure"], scale=100) if row["measure"] else "not reached"


# In words ---------------------------------------------------------------------------------------------------
def tradeoff_words(tradeoff: Tradeoff) -> list[str]:
    """What a reader has to know before using the numbers, a sentence each."""
    out = content_words(tradeoff)
    network, tuned = tradeoff["source_network"], tradeoff["finetuned_target"]
    if network and tuned:
        out.append(
            f"The source network has {mean_pm(network, scale=100)} % on the source before the target is learned; "
            f"fine-tuning reaches {mean_pm(tuned, scale=100)} % on the target."
        )
    else:
        out.append(
            "Fine-tuning has no finished point: no required target accuracy and no test of the ends follow."
        )
    out.append(
        "M1 and M2 take the best settings of a curve on the same test images that are reported, so they say what a "
        "method can reach. M1, validation: the setting is chosen on held-out training images of both tasks, source "
        "data included. Intervals take the chosen settings as fixed."
    )
    if tradeoff["finetune_beside"]:
        out.append(
            "finetune was run beside the methods asked for: the required target accuracies come from it."
        )
    for m in tradeoff["methods"]:
        out += _method_words(m)
        seeds = next((p["seeds"] for p in m["points"] if p["status"] == "done"), tradeoff["seeds"])
        if seeds != tradeoff["seeds"]:
            out.append(
                f"{m['label']} is of an earlier call with other seeds ({', '.join(map(str, seeds))} instead of "
                f"{', '.join(map(str, tradeoff['seeds']))}): run it again with these."
            )
    for label, gap in tradeoff["other_source_network"].items():
        out.append(
            f"{label} starts from another source network than finetune: source accuracies before the target differ by "
            f"up to {100 * gap:.1f} points in a seed."
        )
    return out


def _method_words(m: Mapping[str, Any]) -> list[str]:
    out = []
    for status, words in (
        ("diverged", "diverged and is left out"),
        ("failed", "failed and is left out"),
        ("unfinished", "has not finished and is left out"),
    ):
        hit = [p for p in m["points"] if p["status"] == status]
        if hit and m["option"] is None:
            out.append(f"{m['label']} {words}" + (f" ({hit[0]['error']})." if hit[0]["error"] else "."))
        elif hit:
            names = ", ".join(p["name"] for p in hit)
            why = f" ({hit[0]['error'].rstrip('.')})" if hit[0]["error"] else ""
            out.append(f"{m['label']}: {names} {words}{why}.")
    missed = [f"{100 * r['tau']:.1f}" for r in m["m2"] if r["measure"] is None]
    if missed and m["best_target"]:
        best = m["best_target"]
        at = f" at {best['name']}" if m["option"] else ""
        out.append(
            f"{m['label']} reaches no target accuracy of {' or '.join(missed)} %: its best is "
            f"{100 * best['target']:.1f} %{at}."
        )
    ends = m["saturated"] or {}
    open_ends = [
        f"the {name} end is not saturated ({which} accuracy more than 0.5 points below {what})"
        for name, which, what in (
            ("plastic", "target", "fine-tuning's"),
            ("stable", "source", "the source network's"),
        )
        if ends.get(name) is False
    ]
    if open_ends:
        beyond = (
            "a mixing ratio goes no further"
            if m["scale"] == "linear"
            else "values beyond may give other points"
        )
        out.append(f"{m['label']}: {' and '.join(open_ends)}: {beyond}.")
    return out
