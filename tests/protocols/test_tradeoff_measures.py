"""The two measures of a curve: worked example, properties, and variants that would be wrong."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from engram.errors import DataError
from engram.protocols.metrics import confidence_interval
from engram.protocols.tradeoff import (
    Point,
    chosen_average,
    maximum_average,
    most_plastic,
    pareto,
    required,
    saturated,
    source_at,
)

# (target, source): a worked example, in percent.
EXAMPLE = [(90.0, 60.0), (88.0, 75.0), (84.0, 85.0), (70.0, 92.0)]
CURVE = [Point(value, (s,), (t,)) for value, (t, s) in enumerate(EXAMPLE)]

accuracies = st.integers(0, 1000).map(lambda n: n / 1000)
points = st.tuples(accuracies, accuracies, accuracies, accuracies)


def made(rows: list[tuple[float, float, float, float]]) -> list[Point]:
    """Points with two seeds each, values 0, 1, ..."""
    return [Point(i, (a, b), (c, d)) for i, (a, b, c, d) in enumerate(rows)]


curves = st.lists(points, min_size=1, max_size=8).map(made)


def m1(curve: list[Point]) -> float:
    found = maximum_average(curve)
    assert found is not None
    return found.summary.mean


def m2(curve: list[Point], tau: float) -> float:
    """-1 where tau is not reached."""
    found = source_at(curve, tau)
    return -1.0 if found is None else found.summary.mean


# Closed form ------------------------------------------------------------------------------------------------
def test_the_worked_example():
    best = maximum_average(CURVE)
    assert best is not None
    assert best.summary.mean == 84.5
    assert [p.value for p, _ in best.parts] == [2]
    assert m2(CURVE, 86) == pytest.approx(80.0, abs=1e-12)
    assert m2(CURVE, 88) == 75
    assert m2(CURVE, 60) == 92
    assert source_at(CURVE, 91) is None
    best_target = most_plastic(CURVE)
    assert best_target is not None
    assert (best_target.value, best_target.a_t) == (0, 90)


def test_the_weights_of_an_interpolated_value():
    found = source_at(CURVE, 87)
    assert found is not None
    assert [(p.value, w) for p, w in found.parts] == [(2, pytest.approx(0.25)), (1, pytest.approx(0.75))]
    assert found.summary.mean == pytest.approx(0.25 * 85 + 0.75 * 75)


def test_one_point_and_none():
    (point,) = one = [Point(None, (0.5, 0.7), (0.9, 0.9))]
    assert m1(one) == pytest.approx(0.75)
    assert m2(one, 0.9) == pytest.approx(0.6)
    assert source_at(one, 0.901) is None
    assert maximum_average([]) is None
    assert source_at([], 0.1) is None
    assert most_plastic([]) is None
    assert saturated([], 0.9, 0.9) is None
    assert pareto(one) == [point]


def test_intervals_are_of_the_same_combination_in_each_seed():
    low, high = Point(1, (0.90, 0.80, 0.85), (0.70, 0.74, 0.72)), Point(0, (0.5, 0.6, 0.4), (0.9, 0.92, 0.91))
    tau = 0.25 * low.a_t + 0.75 * high.a_t
    found = source_at([low, high], tau)
    assert found is not None
    want = [0.25 * a + 0.75 * b for a, b in zip(low.source, high.source, strict=True)]
    assert found.per_seed == pytest.approx(want)
    assert found.summary.ci95 == pytest.approx(confidence_interval(want))
    assert found.summary.mean == pytest.approx(0.25 * low.a_s + 0.75 * high.a_s)


def test_the_selection_is_that_of_the_mean_curve_not_of_each_seed():
    """Negative control: seed by seed the best point differs, which would give the larger mean of maxima."""
    a, b = Point(1, (1.0, 0.5), (0.5, 0.5)), Point(2, (0.5, 1.0), (0.5, 0.4))
    best = maximum_average([a, b])
    assert best is not None
    assert best.parts == ((a, 1.0),)
    assert best.summary.mean == 0.625
    each = [max((p.source[i] + p.target[i]) / 2 for p in (a, b)) for i in (0, 1)]
    assert sum(each) / 2 > best.summary.mean


def test_variants_that_are_wrong_differ_on_the_worked_example():
    """Negative controls: no interpolation, interpolation in M1, and all points joined rather than the best."""
    assert max(s for t, s in EXAMPLE if t >= 86) == 75 != m2(CURVE, 86)
    inside = [*CURVE, Point(9, (62.0,), (86.0,))]  # beaten by (84, 85) and (88, 75)
    assert m2(inside, 86) == m2(CURVE, 86)
    joined = 62 + (86 - 85) / (86 - 84) * (85 - 62)  # through the beaten point, at 85
    assert m2(inside, 85) == pytest.approx(82.5)
    assert joined < 82.5
    # Convex, so that the middle of the chord would beat both ends of M1's point.
    bent = [Point(0, (0.0,), (0.9,)), Point(1, (0.9,), (0.0,)), Point(2, (0.3,), (0.3,))]
    assert m1(bent) == 0.45


def test_required_accuracies():
    assert required(0.97) == pytest.approx([0.965, 0.96, 0.95, 0.92])


@pytest.mark.parametrize(
    ("ends", "want"),
    [
        (((0.5, 0.950), (0.98, 0.5)), (True, True)),
        (((0.5, 0.945), (0.975, 0.5)), (True, True)),  # exactly 0.5 points
        (((0.5, 0.944), (0.98, 0.5)), (False, True)),
        (((0.5, 0.950), (0.974, 0.5)), (True, False)),
        (((0.5, 0.970), (0.99, 0.5)), (True, True)),  # better than asked
    ],
)
def test_saturated(ends: tuple[tuple[float, float], tuple[float, float]], want: tuple[bool, bool]):
    (s0, t0), (s1, t1) = ends
    curve = [Point(10.0, (s1,), (t1,)), Point(1.0, (0.8,), (0.8,)), Point(0.1, (s0,), (t0,))]
    assert saturated(curve, 0.95, 0.98) == want


def test_a_point_chosen_on_other_data_is_reported_on_these():
    test = [Point(1, (0.5,), (0.9,)), Point(2, (0.8,), (0.8,)), Point(3, (0.9,), (0.5,))]
    judged = [Point(1, (0.9,), (0.9,)), Point(2, (0.8,), (0.8,)), Point(7, (1.0,), (1.0,))]
    found = chosen_average(test, judged)
    assert found is not None
    assert found.parts == ((test[0], 1.0),)  # not 2, the best on test; not 7, which was not tested
    assert found.summary.mean == pytest.approx(0.7)
    assert chosen_average(test, []) is None


def test_seeds_must_be_complete():
    with pytest.raises(DataError, match="of each seed"):
        Point(1, (0.5,), (0.5, 0.6))
    with pytest.raises(DataError, match="of each seed"):
        Point(1, (), ())


# Properties -------------------------------------------------------------------------------------------------
@given(curves, accuracies, accuracies)
def test_the_second_measure_never_rises_with_tau(curve: list[Point], a: float, b: float):
    assert m2(curve, min(a, b)) >= m2(curve, max(a, b)) - 1e-9


@given(curves, accuracies, st.randoms(use_true_random=False))
def test_the_order_of_points_is_irrelevant(curve: list[Point], tau: float, random):
    other = random.sample(curve, len(curve))
    assert maximum_average(curve) == maximum_average(other)
    assert source_at(curve, tau) == source_at(other, tau)


@given(curves, points, accuracies)
def test_a_beaten_point_changes_nothing(curve: list[Point], row, tau: float):
    extra = Point(99, row[:2], row[2:])
    assume(any(p.a_s > extra.a_s + 1e-6 and p.a_t > extra.a_t + 1e-6 for p in curve))
    assert maximum_average([*curve, extra]) == maximum_average(curve)
    assert source_at([*curve, extra], tau) == source_at(curve, tau)


@given(curves, points, accuracies)
def test_a_further_point_never_lowers_m1_nor_m2_at_a_grid_point(curve: list[Point], row, tau: float):
    extra = Point(99, row[:2], row[2:])
    assert m1([*curve, extra]) >= m1(curve) - 1e-12
    for p in pareto(curve):
        assert m2([*curve, extra], p.a_t) >= p.a_s - 1e-9


@given(curves, accuracies)
def test_bounds(curve: list[Point], tau: float):
    best, found = maximum_average(curve), source_at(curve, tau)
    assert best is not None
    assert best.summary.mean == pytest.approx(max(p.average for p in curve))
    reach = [p.a_s for p in curve if p.a_t >= tau]
    assert (found is None) == (not any(p.a_t >= tau - 1e-9 for p in curve))
    if found is not None:
        assert found.summary.mean >= max(reach, default=0.0) - 1e-9
        assert found.summary.mean <= max(p.a_s for p in curve) + 1e-9
        assert math.isclose(sum(w for _, w in found.parts), 1.0)
        assert all(w >= 0 for _, w in found.parts)
        assert sum(w * p.a_t for p, w in found.parts) >= tau - 1e-9


@given(curves)
def test_the_front_rises_in_one_and_falls_in_the_other(curve: list[Point]):
    front = pareto(curve)
    for a, b in pairwise(front):
        assert a.a_t < b.a_t
        assert a.a_s > b.a_s
    for p in curve:
        assert any(f.a_t >= p.a_t and f.a_s >= p.a_s for f in front)
