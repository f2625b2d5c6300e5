"""What accuracy costs: each strict method's accuracy against the bytes that it keeps and the seconds that it takes.

Strict are methods that read the current task only, keep no real sample and report their last epoch; only they are
compared, since a method that stores samples pays in another coin. Bytes are all that must be kept to go on learning,
those of fixed features included, and seconds those of training, those of computing features included.

Departures: none (no paper). Cost: a scatter plot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engram.report.style import keep, line_style, new_figure, place_legend, styled, width
from engram.report.table import Column, Table
from engram.report.words import counts_words, mean_pm, number, setting_words, spread_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["cost_figure", "cost_table", "strict"]

Result = Mapping[str, Any]


def strict(results: Sequence[Result]) -> list[Result]:
    """The results of strict methods with their bytes known, the smallest first."""
    found = []
    for r in results:
        s, protocol = r["summary"], r["protocol"]
        kept = (s["stored_real_samples"] or {}).get("mean")
        alone = protocol.get("reads") == "task" and "not strict" not in str(protocol.get("selection"))
        if s["n"] and s["storage_total_bytes"] and s["seconds"] and kept == 0 and alone:
            found.append(r)
    return sorted(found, key=lambda r: (_mean(r, "storage_total_bytes"), str(r["label"])))


def _mean(result: Result, key: str) -> float:
    return float(result["summary"][key]["mean"])


def _best(results: Sequence[Result], key: str) -> list[bool]:
    """Whether no other result is at least as accurate for less."""

    def beaten(r: Result) -> bool:
        mine = _mean(r, key), -_mean(r, "final_average_accuracy")
        others = ((_mean(o, key), -_mean(o, "final_average_accuracy")) for o in results)
        return any(c <= mine[0] and a <= mine[1] and (c, a) != mine for c, a in others)

    return [not beaten(r) for r in results]


def cost_table(results: Sequence[Result]) -> Table | None:
    """A row a strict method, the smallest first; None for fewer than two."""
    shown = strict(results)
    if len(shown) < 2:
        return None
    columns = (
        Column("Method", text=True),
        Column("Features", text=True),
        Column("Seeds", "finished"),
        Column("Kept", "KiB"),
        Column("Time", "s per seed"),
        Column("Final average accuracy", "%, real test data"),
        Column("No other is as accurate", text=True),
    )
    best = zip(_best(shown, "storage_total_bytes"), _best(shown, "seconds"), strict=True)
    words = {(True, True): "for less bytes, or less time", (True, False): "for less bytes"}
    words[False, True] = "for less time"
    rows = tuple(
        (
            str(r["label"]),
            str((r.get("facts") or {}).get("features", "none: images")),
            str(r["summary"]["n"]),
            number(_mean(r, "storage_total_bytes"), scale=1 / 1024),
            mean_pm(r["summary"]["seconds"]),
            mean_pm(r["summary"]["final_average_accuracy"], scale=100),
            words.get(which, ""),
        )
        for r, which in zip(shown, best, strict=True)
    )
    return Table(f"What accuracy costs, strict methods, {spread_words(shown)}", columns, rows)


@styled
def cost_figure(results: Sequence[Result]) -> Figure:
    """Accuracy [%] against bytes (left) and seconds (right), both on logarithmic axes, a point a strict method."""
    # Matplotlib is loaded when something is drawn.
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    shown = strict(results)
    note = f"{setting_words(shown)}; {counts_words(shown)}. Strict methods only: no real sample is kept."
    across = width() > 4
    figure = new_figure(3.4 if across else 5.4, "What accuracy costs", note)
    panels = (("storage_total_bytes", 2.0**20, "MiB that are kept"), ("seconds", 1.0, "seconds a seed"))
    first = None
    for place, (key, unit, label) in enumerate(panels, 1):
        axes = figure.add_subplot(*((1, 2) if across else (2, 1)), place, sharey=first)
        for index, r in enumerate(shown):
            final = r["summary"]["final_average_accuracy"]
            mean = 100 * final["mean"]
            spread = 0.0 if final["ci95"] is None else 50 * (final["ci95"][1] - final["ci95"][0])
            look = {**line_style(index), "linestyle": "none"}
            at = max(_mean(r, key) / unit, 1e-3)
            axes.errorbar(at, mean, yerr=spread, label=str(r["label"]), **look)
            interval = [[c and 100 * c] for c in final["ci95"] or (None, None)]
            keep(axes, str(r["label"]), [at], [mean], *interval, panel=label)
        axes.set_xscale("log")
        ends = [_mean(r, key) for r in shown]
        decade = max(ends) < 10 * max(min(ends), 1e-9)
        axes.xaxis.set_major_locator(MaxNLocator(2) if decade else LogLocator(numticks=5))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(label)
        axes.set_ylim(top=min(axes.get_ylim()[1], 100))
        axes.grid()
        if first is None or not across:
            axes.set_ylabel("final accuracy [%]")
        first = first or axes
    place_legend(figure)
    return figure
