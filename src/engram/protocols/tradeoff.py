"""Two measures of a trade-off curve that do not depend on the scale of the option that was varied.

J. Lee, D. Joo, H. G. Hong, J. Kim: "Residual Continual Learning", AAAI 2020, arXiv 2002.06774: methods differ in how
one option of theirs trades the source task for the target task, so curves are compared, not single settings.

A curve is the points of one method, one for each value of its option: accuracy on the source task and on the target
task after both were learned, a value a seed. Headline numbers are taken from the curve averaged over seeds:

- maximum achievable average accuracy, M1 = max over points of (A_s + A_t) / 2, without interpolation;
- source accuracy at a required target accuracy tau, M2(tau) = the largest A_s on the curve with A_t >= tau, where the
  curve joins the Pareto-optimal points, neighbours in A_t, by straight lines.

Both are linear combinations of points. With that selection fixed each seed has a value of its own, the mean of which
is the headline; the interval is of these. It leaves out the doubt about the selection.

Departures: which values of the option are tried, which tau, and the intervals are ours; the paper's are not known.
Cost: a sort of the points. Accuracies may be fractions or percentages, all in the same unit, except where a distance of
points is named: those take fractions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from engram.errors import DataError
from engram.protocols.metrics import Summary

__all__ = [
    "BELOW",
    "Measure",
    "Point",
    "chosen_average",
    "maximum_average",
    "most_plastic",
    "pareto",
    "required",
    "saturated",
    "source_at",
]

BELOW = (0.5, 1.0, 2.0, 5.0)  # points below fine-tuning's target accuracy that are required
SLACK = 0.5  # points within which an end of a curve is as plastic, or as stable, as can be
ROUNDING = 1e-9  # of means over seeds


@dataclass(frozen=True)
class Point:
    """One value of the option.

    Args:
        value: of the option; None for a method without one.
        source, target: accuracy on each task at the end, one a seed, at least one; the same seeds in all points.

    Raises:
        DataError: no seed, or not as many in both.
    """

    value: Any
    source: tuple[float, ...]
    target: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.source or len(self.source) != len(self.target):
            raise DataError(
                "a point needs a source and a target accuracy of each seed, got "
                f"{len(self.source)} and {len(self.target)}: were all seeds finished?"
            )

    @property
    def a_s(self) -> float:
        """Source accuracy, mean over seeds."""
        return sum(self.source) / len(self.source)

    @property
    def a_t(self) -> float:
        """Target accuracy, mean over seeds."""
        return sum(self.target) / len(self.target)

    @property
    def average(self) -> float:
        """Mean of both, mean over seeds."""
        return (self.a_s + self.a_t) / 2


Curve = Iterable[Point]


@dataclass(frozen=True)
class Measure:
    """A number read off a curve.

    Args:
        parts: points it is made of, with their weights, which sum to 1.
        per_seed: the same combination of each seed's accuracies.
    """

    parts: tuple[tuple[Point, float], ...]
    per_seed: tuple[float, ...]

    @property
    def summary(self) -> Summary:
        """Mean, which is the headline, and interval over seeds with the selection fixed."""
        return Summary.of(self.per_seed)


def pareto(curve: Curve) -> list[Point]:
    """Points that no other one beats in either mean without losing in the other; target accuracy ascending.

    Of points with the same means the one with the smallest value stays.
    """
    front: list[Point] = []
    for point in sorted(curve, key=lambda p: (-p.a_t, -p.a_s, _order(p))):
        if not front or point.a_s > front[-1].a_s:
            front.append(point)
    return front[::-1]


def maximum_average(curve: Curve) -> Measure | None:
    """M1 and the point that has it; None without points. Of equals the one with the best target accuracy."""
    front = pareto(curve)
    if not front:
        return None
    return _average_of(max(front, key=lambda p: (p.average, p.a_t)))


def chosen_average(curve: Curve, judged: Curve) -> Measure | None:
    """The average accuracy of the point that is best on other data, such as validation samples.

    Args:
        curve: the points that are reported.
        judged: points of the same values, measured on the data that choose; values that ``curve`` lacks have no say.

    Returns:
        None where no value is in both.
    """
    by_value = {_order(p): p for p in curve}
    best = maximum_average(p for p in judged if _order(p) in by_value)
    return None if best is None else _average_of(by_value[_order(best.parts[0][0])])


def source_at(curve: Curve, tau: float) -> Measure | None:
    """M2(tau): source accuracy where the target accuracy is at least ``tau``; None where no point reaches it."""
    front = pareto(curve)
    reach = [p for p in front if p.a_t >= tau - ROUNDING]
    if not reach:
        return None
    first = reach[0]  # along the front source accuracy falls, so it is the best of those that reach tau
    if len(reach) == len(front) or first.a_t <= tau:
        return Measure(((first, 1.0),), first.source)
    before = front[len(front) - len(reach) - 1]
    share = (first.a_t - tau) / (first.a_t - before.a_t)
    per_seed = tuple(share * a + (1 - share) * b for a, b in zip(before.source, first.source, strict=True))
    return Measure(((before, share), (first, 1 - share)), per_seed)


def most_plastic(curve: Curve) -> Point | None:
    """The point with the best target accuracy, to name where a required one is not reached; None without points."""
    return max(pareto(curve), key=lambda p: p.a_t, default=None)


def required(finetuned: float, below: Sequence[float] = BELOW) -> list[float]:
    """The required target accuracies: fine-tuning's, a fraction, minus so many points; the same for all methods."""
    return [finetuned - points / 100 for points in below]


def saturated(curve: Curve, finetuned: float, source_network: float) -> tuple[bool, bool] | None:
    """Whether the two ends of a curve, by the option's value, are as plastic and as stable as can be.

    Args:
        curve: accuracies as fractions; the larger the value, the more is kept of the source task.
        finetuned: target accuracy of fine-tuning; the plastic end must be at most 0.5 points below.
        source_network: source accuracy before the target is learned; the stable end must be at most 0.5 below.

    Returns:
        The plastic and the stable end; None without points.
    """
    points = sorted(curve, key=_order)
    if not points:
        return None
    slack = SLACK / 100 + ROUNDING
    return points[0].a_t >= finetuned - slack, points[-1].a_s >= source_network - slack


def _average_of(point: Point) -> Measure:
    return Measure(
        ((point, 1.0),), tuple((s + t) / 2 for s, t in zip(point.source, point.target, strict=True))
    )


def _order(point: Point) -> tuple[bool, float]:
    """By value; a method without an option has one point."""
    return point.value is not None, float(point.value or 0.0)
