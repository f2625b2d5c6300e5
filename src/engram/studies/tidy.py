"""Results as rows: one table that a spreadsheet, pandas or R reads, and paired differences between two methods.

Departures: none (no paper). Cost: none worth naming.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engram.errors import EngramError
from engram.protocols.entry import done_seeds
from engram.protocols.metrics import Summary

__all__ = ["COLUMNS", "Paired", "paired", "tidy"]

COLUMNS = ("method", "seed", "status", "data", "scenario", "after_task", "task", "classes", "accuracy")


def tidy(results: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row a method, seed and pair of tasks: the accuracy on ``task`` after learning ``after_task``.

    Args:
        results: of :func:`engram.studies.results.read`, or ``outcome.results``.

    Returns:
        Rows with the keys `COLUMNS`. Tasks count from 1, accuracies lie in [0, 1]; pairs that were not measured, such
        as tasks to come, have no row. ``classes`` are names parted by commas, in quotes where a name has one itself.
        Seeds that failed or were stopped have those that were measured.
    """
    rows = []
    for result in results:
        classes = [
            ", ".join(map(_named, t.get("class_names") or t.get("classes") or ())) for t in result["tasks"]
        ]
        same = {"method": result["label"]}
        setting = {"data": result["data"].get("name"), "scenario": result["protocol"].get("scenario")}
        for entry in result["seeds"]:
            seed = {**same, "seed": entry["seed"], "status": entry["status"], **setting}
            for i, measured in enumerate(entry.get("accuracy_matrix") or ()):
                for j, value in enumerate(measured):
                    if value is not None:
                        pair = {"after_task": i + 1, "task": j + 1, "classes": classes[j]}
                        rows.append({**seed, **pair, "accuracy": value})
    return rows


def _named(name: Any) -> str:
    """A class's name among others: in quotes where it has a comma or quotes of its own, as in CSV."""
    text = str(name)
    return '"' + text.replace('"', '""') + '"' if "," in text or '"' in text else text


@dataclass(frozen=True)
class Paired:
    """How much better one method is than another over the seeds that both have finished.

    Args:
        first, second: labels.
        difference: final average accuracy of the first less that of the second, by seed; percentage points.
        seeds: the seeds.
    """

    first: str
    second: str
    difference: Summary
    seeds: tuple[int, ...]

    def __str__(self) -> str:
        d, half = self.difference, self.difference.half_width
        spread = "" if half is None else f" ± {half:.1f}"
        seeds = " ".join(map(str, self.seeds))
        over = (
            f", seed {seeds}; 1 seed, hence no interval"
            if half is None
            else f" over {d.n} seeds that both have, seeds {seeds}"
        )
        points = f"{d.mean:+.1f}{spread} percentage points of final average accuracy"
        return f"{self.first} less {self.second}: {points}{over}."


#: What an interval of paired differences takes for granted.
ASSUMPTIONS = (
    "95 % Student-t interval of the differences seed by seed. It takes for granted that the seeds are independent of "
    "each other and that the differences are about normal, which so few seeds cannot show; both methods saw the same "
    "tasks. It speaks of these seeds of this stream, not of other data, and says nothing about settings chosen after "
    "looking at test images."
)


def paired(results: Sequence[Mapping[str, Any]], first: str, second: str) -> Paired:
    """The paired comparison of two methods, see `Paired` and `ASSUMPTIONS`.

    Raises:
        EngramError: a label is unknown or ambiguous, the two learned other tasks, or no seed was finished by both.
    """
    one, two = (_labelled(results, label) for label in (first, second))
    if first == second:
        raise EngramError(f"two methods must be compared, got {first} twice: name another one.")
    for what, a, b in (
        ("data", one["data"].get("fingerprint"), two["data"].get("fingerprint")),
        ("tasks", *([t.get("classes") for t in r["tasks"]] for r in (one, two))),
        ("a scenario", one["protocol"].get("scenario"), two["protocol"].get("scenario")),
    ):
        if a != b:
            raise EngramError(
                f"methods that are paired must share {what}, {first} and {second} do not: compare runs of one stream."
            )
    scores = [{s["seed"]: s["final_average_accuracy"] for s in done_seeds(r)} for r in (one, two)]
    seeds = tuple(
        seed for seed in scores[0] if scores[0][seed] is not None and scores[1].get(seed) is not None
    )
    if not seeds:
        raise EngramError(
            f"methods that are paired must have a finished seed in common, {first} has "
            f"{', '.join(map(str, scores[0])) or 'none'} and {second} {', '.join(map(str, scores[1])) or 'none'}: "
            "run the same seeds of both."
        )
    return Paired(first, second, Summary.of(100 * (scores[0][s] - scores[1][s]) for s in seeds), seeds)


def _labelled(results: Sequence[Mapping[str, Any]], label: str) -> Mapping[str, Any]:
    found = [r for r in results if r["label"] == label]
    if len(found) != 1:
        known = ", ".join(str(r["label"]) for r in results) or "none"
        raise EngramError(
            f"methods that are paired must be among {known}, once each, got {label!r}: name two of them."
        )
    return found[0]
