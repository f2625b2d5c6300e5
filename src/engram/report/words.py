"""Numbers as words: every number with of what, over how many seeds, with which spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MISSING = "–"
MOST_NAMED = 5  # methods in a sentence
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


def sentence(results: Sequence[Mapping[str, Any]]) -> str:
    """What came out, in plain words, for somebody who reads nothing else.

    Args:
        results: the best first.
    """
    shown = [r for r in results if (r["summary"]["final_average_accuracy"] or {}).get("mean") is not None]
    if not shown:
        return "Nothing has finished yet."
    finals = [f"{100 * r['summary']['final_average_accuracy']['mean']:.1f} %" for r in shown]
    n = len(shown[0]["tasks"])
    after = (
        f"After {_count(n, 'task')}" if all(len(r["tasks"]) == n for r in shown) else "After the last task"
    )
    told = ", told which task each belongs to" if shown[0]["protocol"].get("scenario") == "task" else ""
    told += "," if told and len(shown) > 1 else ""
    said = [f"{shown[0]['label']} answers {finals[0]} of the test images rightly{told}"]
    said += [f"{r['label']} {final}" for r, final in zip(shown[1:], finals[1:], strict=True)]
    if len(said) > MOST_NAMED + 1:
        between = f"{len(said) - MOST_NAMED} others lie between"
        said = [*said[: MOST_NAMED - 1], between, said[-1]]
    keeping = [r for r in shown if r["protocol"].get("reads") == "all"]
    kept = [
        (r, (r["summary"]["stored_real_samples"] or {}).get("mean") or 0) for r in shown if r not in keeping
    ]
    storing = [f"{r['label']} kept {images:,.0f} of them" for r, images in kept if images]
    storing += (
        [f"{' and '.join(str(r['label']) for r in keeping)} learned from all of them again"]
        if keeping
        else []
    )
    others = "no other kept any" if len(storing) < len(shown) else ""
    if not storing:
        memory = "No image of earlier tasks was kept"
    elif len(storing) > 3:
        memory = f"Of the images of earlier tasks, {len(storing)} methods kept some"
    else:
        memory = f"Of the images of earlier tasks, {_joined([*storing, *filter(None, [others])])}"
    return f"{after} {_joined(said)}. {memory}."


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _count(n: int, word: str) -> str:
    names = (
        "no",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
    )
    return f"{names[n] if n < len(names) else n} {word}{'' if n == 1 else 's'}"


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
