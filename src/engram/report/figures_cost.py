"""What accuracy costs: each strict method's accuracy against the bytes that it keeps and the seconds that it takes.

Strict are methods that read the current task only, keep no real sample and report their last epoch; only they are
compared, since a method that stores samples pays in another coin. Bytes are all that must be kept to go on learning,
those of fixed features included, and seconds those of training, those of computing features included.

Departures: none (no paper). Cost: a scatter plot.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.core.files import write_atomically
from engram.report.style import WIDTH, line_style, new_figure, place_legend, styled
from engram.report.table import Column, Table
from engram.report.words import counts_words, mean_pm, number, setting_words, spread_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["cost_figure", "cost_table", "strict", "write_cost"]

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


def write_cost(results: Sequence[Result], path: Path) -> None:
    """The numbers as a CSV file: a row a strict method."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "features", "seeds", "bytes", "seconds", "accuracy", "low", "high"])
    for r in strict(results):
        s = r["summary"]
        low, high = s["final_average_accuracy"]["ci95"] or ("", "")
        features = (r.get("facts") or {}).get("features", "")
        row = [_mean(r, key) for key in ("storage_total_bytes", "seconds", "final_average_accuracy")]
        writer.writerow([r["label"], features, s["n"], *row, low, high])
    write_atomically(path, text.getvalue().encode())


@styled
def cost_figure(results: Sequence[Result]) -> Figure:
    """Accuracy [%] against bytes (left) and seconds (right), both on logarithmic axes, a point a strict method."""
    shown = strict(results)
    note = f"{setting_words(shown)}; {counts_words(shown)}. Strict methods only: no real sample is kept."
    figure = new_figure(WIDTH, 3.6, "What accuracy costs", note)
    panels = (("storage_total_bytes", 2.0**20, "MiB that are kept"), ("seconds", 1.0, "seconds a seed"))
    first = None
    for column, (key, unit, label) in enumerate(panels):
        axes = figure.add_subplot(1, 2, column + 1, sharey=first)
        first = first or axes
        for index, r in enumerate(shown):
            final = r["summary"]["final_average_accuracy"]
            spread = 0.0 if final["ci95"] is None else 50 * (final["ci95"][1] - final["ci95"][0])
            look = {**line_style(index), "linestyle": "none"}
            at = max(_mean(r, key) / unit, 1e-3)
            axes.errorbar(at, 100 * final["mean"], yerr=spread, label=str(r["label"]), **look)
        axes.set_xscale("log")
        axes.set_xlabel(label)
        axes.grid()
        axes.set_axisbelow(True)
    figure.axes[0].set_ylabel("final average accuracy [%]")
    place_legend(figure)
    return figure
