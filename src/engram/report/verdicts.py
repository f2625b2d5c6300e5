"""Verdicts on published figures and statements, computed from results and nothing else.

A figure is reached where the mean of ours is at least as good, or where the published value lies in the 95 % Student-t
interval of our mean over seeds; otherwise it falls short by the difference of means. A statement is a margin, one value
a seed that its methods share, above 0 where it holds: it holds, or does not, where the interval lies on one side of 0,
and is not decided otherwise; one that says no more than "not below" is then not contradicted. With one seed there is no
interval: the sign decides, and the verdict says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engram.protocols.entry import done_seeds
from engram.protocols.metrics import Summary
from engram.recipes.targets import Column, Part, Row, Statement
from engram.report.analyses.omegas import correlations, mean_between_tasks
from engram.report.plasticity import newly_shares

if TYPE_CHECKING:
    from engram.studies.reproduction import PartFound

__all__ = ["MARGINS", "SMALLER_IS_BETTER", "Verdict", "judge", "judge_statement", "measure"]

MB = 1e6
SMALLER_IS_BETTER = ("weights", "masks", "generator_bytes", "generator")
Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """A word that says which, and the words that say all."""

    kind: str
    words: str


# Figures ----------------------------------------------------------------------------------------------------
def measure(entry: Entry, column: Column) -> float | None:
    """What a column names, of a finished seed: in %, MB or a number of parameters; None where it was not measured."""
    last = -1 if column.task is None else column.task - 1
    if column.measure in ("acc_real", "acc_gen", "top5"):
        key = {"acc_real": "average_accuracy"}.get(column.measure, column.measure)
        return _percent(entry.get(key), last)
    if column.measure == "task":
        return _percent(entry["accuracy_matrix"][-1], last)
    if column.measure == "acc_rev":
        return _percent([(entry.get("generated") or {}).get("acc_rev")], 0)
    kept = entry.get("storage_bytes") or {}
    weights = kept.get("weights", 0) + kept.get("norms_and_heads", 0)
    if column.measure == "generator":
        tasks = entry.get("tasks") or []
        task = tasks[last] if len(tasks) > last else {}
        return (task.get("growth") or {}).get("weights") or task.get("generator_parameters")
    sizes = {"weights": weights, "masks": kept.get("masks", 0)}
    sizes["generator_bytes"] = sum(sizes.values())
    return sizes[column.measure] / MB if kept else None


def _percent(values: Sequence[float | None] | None, at: int) -> float | None:
    if not values or at >= len(values) or values[at] is None:
        return None
    return 100 * float(values[at])  # type: ignore[arg-type]


def measured(found: PartFound, row: Row, column: Column) -> dict[int, float]:
    """By seed what a column names of a row."""
    result = found.results.get(row.name)
    values = {} if result is None else {s["seed"]: measure(s, column) for s in done_seeds(result)}
    return {seed: v for seed, v in values.items() if v is not None}


def judge(
    part: Part, row: Row, column: Column, values: Mapping[int, float], published: float | None
) -> Verdict:
    """The verdict on one figure."""
    if not values:
        return Verdict("not run", "not run")
    if published is None:
        return Verdict("no figure", "")
    why = row.why_not or column.why_not
    if why:
        return Verdict("not comparable", f"not comparable, because {why}")
    s = Summary.of(values.values())
    size = column.measure in SMALLER_IS_BETTER
    short = s.mean - published if size else published - s.mean
    setting = " in a smaller setting" if part.smaller else ""
    alone = "; one seed, no interval" if s.ci95 is None else ""
    if short <= 0 or (s.ci95 is not None and s.ci95[0] <= published <= s.ci95[1]):
        return Verdict("reached", f"reached{setting}{alone}")
    return Verdict("short", f"short by {short:.{2 if size else 1}f}{setting}{alone}")


# Statements ---------------------------------------------------------------------------------------------------
def judge_statement(statement: Statement, found: PartFound) -> tuple[Verdict, list[float]]:
    """The verdict on a statement about a part, and its margins, one a seed."""
    values = MARGINS[statement.margin](found, *statement.of)
    if not values:
        rows = {r.name: r.variant for r in found.part.rows if r.name in statement.of}
        there = {m["label"] for m in found.curves.get("methods", ())} | {rows.get(n) for n in found.results}
        run = bool(rows) and set(rows.values()) <= there
        word = "not measured" if run else "not run"
        return Verdict(word, f"{word}: no target is reached" if run and found.part.tradeoff else word), []
    s, unit = Summary.of(values), statement.unit
    half = "" if s.half_width is None else f" ± {s.half_width:.2f}"
    said = f"{s.mean:+.2f}{half} {unit}, n = {s.n}"
    low, high = s.ci95 or (s.mean, s.mean)
    if low > 0 or (statement.not_below and low == 0):
        return Verdict("holds", f"holds ({said})"), values
    if high < 0 or s.n == 1:
        return Verdict("does not hold", f"does not hold ({said})"), values
    if statement.not_below:
        return Verdict("not contradicted", f"not contradicted by {s.n} seeds ({said})"), values
    return Verdict("not decided", f"not decided by {s.n} seeds ({said})"), values


def _above(found: PartFound, a: str, b: str, column: str) -> list[float]:
    one, two = (_column(found, name, column) for name in (a, b))
    return [one[s] - two[s] for s in sorted(one.keys() & two.keys())]


def _column(found: PartFound, row: str, column: str) -> dict[int, float]:
    (of,) = (r for r in found.part.rows if r.name == row)
    (what,) = (c for c in found.part.columns if c.name == column)
    return measured(found, of, what)


def _less(found: PartFound, a: str, b: str, column: str) -> list[float]:
    return _above(found, b, a, column)


def _sizes(found: PartFound, row: str) -> dict[int, tuple[float, float, int]]:
    """By seed the generator's parameters in the first task and in the last, and the number of tasks."""
    out = {}
    for s in done_seeds(found.results[row]) if row in found.results else ():
        n = len(s["accuracy_matrix"])
        first, last = (measure(s, Column("", "generator", t)) for t in (1, n))
        if first is not None and last is not None:
            out[s["seed"]] = (first, last, n)
    return out


def _smaller(at: int) -> Callable[..., list[float]]:
    def margins(found: PartFound, a: str, b: str) -> list[float]:
        one, two = _sizes(found, a), _sizes(found, b)
        return [two[s][at] - one[s][at] for s in sorted(one.keys() & two.keys())]

    return margins


def _grows_less(found: PartFound, a: str, b: str) -> list[float]:
    one, two = _sizes(found, a), _sizes(found, b)
    return [(two[s][1] - two[s][0]) - (one[s][1] - one[s][0]) for s in sorted(one.keys() & two.keys())]


def _below_linear(found: PartFound, row: str) -> list[float]:
    """How far below the line size_1 t the generator ends, in % of it."""
    return [100 * (1 - last / (first * n)) for first, last, n in _sizes(found, row).values()]


def _reuse_rises(found: PartFound, row: str) -> list[float]:
    """The share reused of what a mask uses, last task less task 2, in points."""
    shares: Iterable[Any] = newly_shares(found.results[row]) if row in found.results else ()
    return [100 * float(newly[1] - newly[-1]) for newly in shares if len(newly) > 2]


def _correlation(found: PartFound, row: str, layer: int) -> float | None:
    matrices = list(correlations(found.results[row]).values()) if row in found.results else []
    return mean_between_tasks(matrices[layer]) if len(matrices) > layer else None


def _uncorrelated(found: PartFound, row: str, layer: int, bound: float) -> list[float]:
    value = _correlation(found, row, layer)
    return [] if value is None else [bound - abs(value)]


def _correlated(found: PartFound, row: str, layer: int, bound: float) -> list[float]:
    return [-m for m in _uncorrelated(found, row, layer, bound)]


def _less_correlated(found: PartFound, a: str, b: str, layer: int) -> list[float]:
    one, two = _correlation(found, a, layer), _correlation(found, b, layer)
    return [] if one is None or two is None else [two - one]


def _least_of_tasks(found: PartFound, a: str, b: str, columns: Sequence[Column]) -> list[float]:
    """By seed the smallest advantage of a over b on these columns."""
    gaps = [_above(found, a, b, c.name) for c in columns]
    return [min(of_seed) for of_seed in zip(*gaps, strict=True)] if all(gaps) else []


def _above_but_last(found: PartFound, a: str, b: str) -> list[float]:
    return _least_of_tasks(found, a, b, found.part.columns[:-1])


def _not_below_scratch(found: PartFound, a: str, b: str) -> list[float]:
    return _least_of_tasks(found, a, b, found.part.columns[1:])


def _best_inside(found: PartFound) -> list[float]:
    """By how much the best row of a scan is above the better of its two ends, means over seeds."""
    (column,) = found.part.columns
    means = [
        Summary.of(v.values()).mean for v in (measured(found, row, column) for row in found.part.rows) if v
    ]
    return [] if len(means) < len(found.part.rows) else [max(means) - max(means[0], means[-1])]


def _curve(found: PartFound, row: str) -> Mapping[str, Any] | None:
    (variant,) = (r.variant for r in found.part.rows if r.name == row)
    return next((m for m in found.curves.get("methods", ()) if m["label"] == variant), None)


def _m1_above(found: PartFound, a: str, b: str) -> list[float]:
    one, two = _curve(found, a), _curve(found, b)
    if not one or not two or not one["m1"] or not two["m1"]:
        return []
    return [100 * (x - y) for x, y in zip(one["m1"]["per_seed"], two["m1"]["per_seed"], strict=True)]


def _m2_above(found: PartFound, a: str, b: str, below: float | None = None) -> list[float]:
    """At ``below`` points under fine-tuning's target accuracy, 0 for one that does not reach it; None is the tightest
    target that both reach."""
    one, two = _curve(found, a), _curve(found, b)
    for x, y in zip(one["m2"] if one else (), two["m2"] if two else (), strict=False):
        reached = [m["measure"]["per_seed"] if m["measure"] else None for m in (x, y)]
        if (below == x["below"] and any(reached)) or (below is None and all(reached)):
            n = len(next(r for r in reached if r))
            return [100 * (p - q) for p, q in zip(*(r or [0.0] * n for r in reached), strict=True)]
    return []


def _reaches(found: PartFound, row: str, points: float) -> list[float]:
    """How far the most plastic point of a curve is above fine-tuning's target accuracy less some points."""
    of, tuned = _curve(found, row), found.curves.get("finetuned_target")
    if not of or not tuned or not of["best_target"]:
        return []
    best = next(p for p in of["points"] if p["name"] == of["best_target"]["name"])
    return [100 * (t - tuned["mean"]) + points for t in best["target"]]


#: By name, margins of what `PartFound` holds, one a seed; those of means over seeds are one value.
MARGINS: dict[str, Callable[..., list[float]]] = {
    "above": _above,
    "less": _less,
    "smaller_at_first": _smaller(0),
    "smaller_at_last": _smaller(1),
    "grows_less": _grows_less,
    "below_linear": _below_linear,
    "reuse_rises": _reuse_rises,
    "uncorrelated": _uncorrelated,
    "correlated": _correlated,
    "less_correlated": _less_correlated,
    "above_but_last": _above_but_last,
    "not_below_scratch": _not_below_scratch,
    "best_inside": _best_inside,
    "m1_above": _m1_above,
    "m2_above": _m2_above,
    "reaches": _reaches,
}
