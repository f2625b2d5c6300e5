"""Metrics of the accuracy matrix: hand-worked matrices, and properties that hold for every matrix."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from engram.errors import DataError
from engram.protocols.metrics import (
    Summary,
    as_matrix,
    average_accuracy,
    backward_transfer,
    confidence_interval,
    forgetting,
    forgetting_per_task,
    forward_transfer,
    intransigence,
)

NAN = math.nan
# Worked by hand: A = 0.9, (0.6 + 0.8)/2 = 0.7, (0.3 + 0.5 + 1.0)/3 = 0.6
# f[1, 0] = 0.9 - 0.6 = 0.3; f[2, 0] = 0.9 - 0.3 = 0.6, f[2, 1] = 0.8 - 0.5 = 0.3, F_2 = 0.45
HAND = [[0.9, NAN, NAN], [0.6, 0.8, NAN], [0.3, 0.5, 1.0]]

accuracy = st.floats(0, 1)
squares = st.integers(1, 7).flatmap(lambda n: arrays(np.float64, (n, n), elements=accuracy))


def test_average_accuracy_by_hand() -> None:
    assert average_accuracy(HAND) == pytest.approx([0.9, 0.7, 0.6])


def test_forgetting_by_hand() -> None:
    assert math.isnan(forgetting(HAND)[0])
    assert forgetting(HAND)[1:] == pytest.approx([0.3, 0.45])
    expected = [[NAN] * 3, [0.3, NAN, NAN], [0.6, 0.3, NAN]]
    np.testing.assert_allclose(forgetting_per_task(HAND), expected, atol=1e-12)


def test_forgetting_is_against_the_maximum_not_the_diagonal() -> None:
    """Task 0 peaks after task 1 (0.9), so after task 2 (0.4) 0.5 is lost and not 0.7 - 0.4."""
    matrix = [[0.7], [0.9, 0.8], [0.4, 0.8, 0.6]]
    assert forgetting_per_task(matrix)[2, 0] == pytest.approx(0.5)
    assert forgetting(matrix)[2] == pytest.approx(0.25)


def test_forgetting_counts_every_earlier_task() -> None:
    """The last task but one is part of the mean, and the mean is over as many tasks as are summed."""
    matrix = [[1.0], [1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 0.1, 1.0]]
    assert forgetting(matrix)[3] == pytest.approx(0.9 / 3)


def test_backward_transfer_by_hand() -> None:
    assert backward_transfer(HAND) == pytest.approx(((0.3 - 0.9) + (0.5 - 0.8)) / 2)
    assert math.isnan(backward_transfer([[0.9]]))


def test_forward_transfer_by_hand() -> None:
    matrix = [[0.9, 0.3, 0.1], [0.9, 0.9, 0.5], [0.9, 0.9, 0.9]]
    assert forward_transfer(matrix, [0.1, 0.1, 0.2]) == pytest.approx(((0.3 - 0.1) + (0.5 - 0.2)) / 2)
    assert math.isnan(forward_transfer(HAND, [0.1, 0.1, 0.1]))


def test_intransigence_by_hand() -> None:
    expected = [0.95 - 0.9, 0.9 - 0.8, 0.85 - 1.0]
    assert intransigence(HAND, [0.95, 0.9, 0.85]) == pytest.approx(expected)
    joint = [[0.95, NAN, NAN], [0.1, 0.9, NAN], [0.1, 0.1, 0.85]]
    assert intransigence(HAND, joint) == pytest.approx(expected)


def test_missing_measurement_is_nan_and_never_skipped() -> None:
    holed = [[0.9, NAN], [NAN, 0.8]]
    assert math.isnan(average_accuracy(holed)[1])
    assert math.isnan(forgetting(holed)[1])
    assert math.isnan(backward_transfer(holed))


def test_unfinished_matrix_has_the_tasks_of_its_columns() -> None:
    assert as_matrix([[0.9, None, None]]).shape == (1, 3)
    assert average_accuracy([[0.9, None, None]]) == [0.9]
    assert average_accuracy([]) == []


@pytest.mark.parametrize("bad", [[[1.2]], [[-0.1]], [[math.inf]], [["a"]], 3, [3]])
def test_bad_matrix_is_refused(bad: object) -> None:
    with pytest.raises(DataError, match=r"accurac"):
        as_matrix(bad)


def test_other_stream_is_refused() -> None:
    with pytest.raises(DataError, match="2 for 3 tasks"):
        forward_transfer(HAND, [0.1, 0.1])
    with pytest.raises(DataError, match="2 for 3 tasks"):
        intransigence(HAND, [0.1, 0.1])


@given(squares)
def test_bounds(matrix: np.ndarray) -> None:
    assert all(0 <= a <= 1 for a in average_accuracy(matrix))
    lost = forgetting(matrix)
    assert math.isnan(lost[0])
    assert all(-1 <= f <= 1 for f in lost[1:])
    if len(matrix) > 1:
        assert -1 <= backward_transfer(matrix) <= 1


@given(accuracy, st.integers(2, 8))
def test_constant_matrix_forgets_nothing(value: float, n: int) -> None:
    matrix = np.full((n, n), value)
    assert forgetting(matrix)[1:] == [0.0] * (n - 1)
    assert backward_transfer(matrix) == 0.0
    assert average_accuracy(matrix) == pytest.approx([value] * n)


@given(squares, st.randoms(use_true_random=False))
def test_order_of_earlier_tasks_does_not_matter_at_the_end(matrix: np.ndarray, random: object) -> None:
    """Permuting the columns of all tasks but the last permutes f and leaves the last A and F alone."""
    n = len(matrix)
    order = list(range(n - 1))
    random.shuffle(order)  # type: ignore[attr-defined]
    permuted = matrix[:, [*order, n - 1]]
    assert average_accuracy(permuted)[-1] == pytest.approx(average_accuracy(matrix)[-1])
    if n > 1:
        assert forgetting(permuted)[-1] == pytest.approx(forgetting(matrix)[-1])


@given(squares)
def test_forgetting_is_at_least_minus_backward_transfer(matrix: np.ndarray) -> None:
    """The maximum over rows is at least the diagonal, hence F_T >= -BWT."""
    if len(matrix) > 1:
        assert forgetting(matrix)[-1] >= -backward_transfer(matrix) - 1e-12


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=9), st.floats(0.5, 0.99))
def test_interval_is_scipys(values: list[float], level: float) -> None:
    got = confidence_interval(values, level)
    sd = np.std(values, ddof=1)
    assert got is not None
    if sd > 1e-9:
        expected = stats.t.interval(level, len(values) - 1, np.mean(values), stats.sem(values))
        assert got == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert got[0] <= np.mean(values) + 1e-9
    assert got[1] >= np.mean(values) - 1e-9


def test_interval_by_hand() -> None:
    """n = 3, sd = 1: half width = t(0.975, 2) / sqrt(3) = 4.302653 / 1.732051."""
    low, high = confidence_interval([1.0, 2.0, 3.0]) or (NAN, NAN)
    assert (low, high) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-5)


def test_no_interval_from_one_value() -> None:
    assert confidence_interval([0.5]) is None
    assert confidence_interval([0.5, NAN]) is None
    one = Summary.of([0.5])
    assert (one.mean, one.n, one.ci95, one.half_width) == (0.5, 1, None, None)
    assert math.isnan(one.sd)
    assert math.isnan(Summary.of([]).mean)
    with pytest.raises(DataError, match="level"):
        confidence_interval([1.0, 2.0], 95)
