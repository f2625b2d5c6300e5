"""Numbers as words: every number with of what, over how many seeds, with which spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MISSING = "–"
MOST_FILES = 3  # that a footnote names
SCENARIOS = {"class": "class-incremental", "task": "task-incremental", "domain": "domain-incremental"}


def mean_pm(summary: Mapping[str, Any] | None, *, scale: float = 1.0, digits: int = 1) -> str:
    """``mean ± half width of the 95 % interval``, or the mean alone where there is no interval.

    Args:
        summary: mean and ci95 of a result's summary; None where it was not measured.
        scale: factor before printing, 100 for percent.
        digits: decimals.
    """
    if summary is None or summary.get("mean") is None:
        return MISSING
    text = f"{summary['mean'] * scale:,.{digits}f}"
    if summary.get("ci95") is None:
        return text
    low, high = summary["ci95"]
    return f"{text} ± {(high - low) / 2 * scale:,.{digits}f}"


def number(value: float | None, *, scale: float = 1.0, digits: int = 1) -> str:
    """One number, or a dash where it was not measured."""
    return MISSING if value is None else f"{value * scale:,.{digits}f}"


def seeds_words(n: int) -> str:
    """How many seeds a number is made of, and which spread goes with it."""
    if n == 0:
        return "no finished seed"
    return "1 seed: no interval" if n == 1 else f"mean over {n} seeds, 95 % Student-t interval"


def counts_words(results: Sequence[Mapping[str, Any]]) -> str:
    """The same for several results, which may differ in their number of finished seeds."""
    counts = sorted({r["summary"]["n"] for r in results if r["summary"]["n"]})
    if len(counts) == 1:
        return seeds_words(counts[0])
    return "mean over the finished seeds (n in the legend), 95 % Student-t interval where n > 1"


def spread_words(results: Sequence[Mapping[str, Any]]) -> str:
    """What ``a ± b`` means in a table of these results."""
    counts = sorted({r["summary"]["n"] for r in results if r["summary"]["n"]})
    if not counts:
        return "no finished seed"
    if counts == [1]:
        return "1 seed, hence no interval"
    over = f"{counts[0]} seeds" if len(counts) == 1 else "the finished seeds"
    return f"mean over {over} ± half width of its 95 % Student-t interval"


def setting_words(results: Sequence[Mapping[str, Any]]) -> str:
    """Data, scenario and number of tasks, each named once; several values are separated by a slash."""

    def several(values: Sequence[str]) -> str:
        return " / ".join(dict.fromkeys(values))

    data = several([str(r["data"].get("name", "data")) for r in results])
    scenario = several([scenario_words(r) for r in results])
    tasks = several([str(len(r["tasks"])) for r in results])
    return f"{data}, {scenario}, {tasks} {'task' if tasks == '1' else 'tasks'}"


def scenario_words(result: Mapping[str, Any]) -> str:
    """The scenario written out."""
    name = str(result["protocol"].get("scenario", "scenario not recorded"))
    return SCENARIOS.get(name, name)


def task_names(result: Mapping[str, Any], limit: int = 18) -> list[str]:
    """A short name of each task: its number from 1 and its classes."""
    names = []
    for i, task in enumerate(result["tasks"]):
        classes = task.get("class_names") or task.get("classes") or []
        text = ", ".join(map(str, classes))
        names.append(
            f"{i + 1}: {text if len(text) <= limit else text[: limit - 1] + '…'}" if text else f"{i + 1}"
        )
    return names


def content_words(of: Mapping[str, Any]) -> list[str]:
    """Which files of a study or a result are not as engram wrote them, or cannot be known to be, a sentence each."""
    out = []
    for mark, words in (
        ("edited", "changed after engram wrote it and taken as it is (--accept-edited)"),
        ("no_checksum", "without a checksum, so that a change would not be noticed"),
    ):
        files = of.get(mark) or []
        if files:
            more = f" and {len(files) - MOST_FILES} more" if len(files) > MOST_FILES else ""
            named = ", ".join(files[:MOST_FILES]) + more
            out.append(f"{named}: {words}. What follows from it was computed anew.")
    return out


def by_accuracy(result: Mapping[str, Any]) -> tuple[float, str]:
    """Sort key: best final average accuracy first, results without a finished seed last."""
    final = result["summary"]["final_average_accuracy"]
    mean = -1.0 if final is None or final["mean"] is None else float(final["mean"])
    return (-mean, str(result["label"]))
