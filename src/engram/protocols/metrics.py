"""Continual-learning metrics as pure functions of the accuracy matrix.

The accuracy matrix R has one row per learned task and one column per task: ``R[i][j]`` in [0, 1] is the
accuracy on the held-out test data of task j after learning task i. An entry that was not measured is NaN (or
None), usually j > i. The number of tasks always comes from the matrix, never from a constant; an undefined
metric is NaN, never 0.

Papers (each function names the measure it computes):
    Chaudhry, Dokania, Ajanthan, Torr: Riemannian Walk for Incremental Learning, ECCV 2018, arXiv:1801.10112.
    Lopez-Paz, Ranzato: Gradient Episodic Memory for Continual Learning, NeurIPS 2017, arXiv:1706.08840.
Departures from the papers: none in the formulas. Where a measurement is missing the metric is NaN, never a
mean over what happens to be there.
Cost: numpy on a [T, T] matrix; scipy is imported only when an interval is asked for.
Shape legend: T tasks, I learned tasks (rows, I <= T), S seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engram.errors import DataError

__all__ = [
    "Summary",
    "as_matrix",
    "average_accuracy",
    "backward_transfer",
    "confidence_interval",
    "forgetting",
    "forgetting_per_task",
    "forward_transfer",
    "intransigence",
]

FloatArray = NDArray[np.float64]


def as_matrix(R: Any) -> FloatArray:
    """The accuracy matrix as float64 [I, T], checked.

    Args:
        R: nested sequence or array [I, T], I <= T; None means NaN. Rows may be ragged (a lower triangle,
            say); what is missing on the right is NaN.
    Returns:
        New float64 array [I, T] with T = max(longest row, number of rows); [0, 0] for an empty R.
    Raises:
        DataError: R is not two-dimensional numbers, or an entry lies outside [0, 1].
    """
    try:
        rows = [[math.nan if v is None else float(v) for v in row] for row in R]
    except (TypeError, ValueError) as error:
        raise DataError(f"the accuracy matrix must be rows of numbers (or None), got {_short(R)}.") from error
    n_tasks = max([len(rows), *(len(row) for row in rows)])
    matrix = np.full((len(rows), n_tasks), np.nan)
    for i, row in enumerate(rows):
        matrix[i, : len(row)] = row
    bad = np.argwhere(~np.isnan(matrix) & ~((matrix >= 0.0) & (matrix <= 1.0)))
    if len(bad):
        i, j = bad[0]
        raise DataError(
            f"accuracies must lie in [0, 1], got R[{i}][{j}] = {matrix[i, j]}: divide percentages by 100."
        )
    return matrix


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def average_accuracy(R: Any) -> list[float]:
    """Average accuracy A_i = 1/(i+1) sum_{j<=i} R[i, j] after each task (A_k of Chaudhry et al. 2018).

    Args:
        R: accuracy matrix [I, T], see the module docstring.
    Returns:
        I values in [0, 1]; NaN where any R[i, j], j <= i, is missing.
    Raises:
        DataError: see `as_matrix`.
    """
    matrix = as_matrix(R)
    return [float(matrix[i, : i + 1].mean()) for i in range(len(matrix))]


def forgetting_per_task(R: Any) -> FloatArray:
    """Forgetting f[i, j] = max_{l<i} R[l, j] - R[i, j] of each task j < i (f_j^k of Chaudhry et al. 2018).

    The maximum is over every earlier row, hence also over rows l < j where task j was measured before it was
    learned.

    Args:
        R: accuracy matrix [I, T].
    Returns:
        float64 [I, T] in [-1, 1] (negative: the task improved later); NaN for j >= i, and where R[l, j] is
        missing for any l in j..i.
    Raises:
        DataError: see `as_matrix`.
    """
    matrix = as_matrix(R)
    out = np.full_like(matrix, np.nan)
    for i in range(1, len(matrix)):
        for j in range(i):
            if not np.isnan(matrix[j : i + 1, j]).any():
                out[i, j] = np.nanmax(matrix[:i, j]) - matrix[i, j]
    return out


def forgetting(R: Any) -> list[float]:
    """Average forgetting F_i = 1/i sum_{j<i} f[i, j] after each task (F_k of Chaudhry et al. 2018).

    Args:
        R: accuracy matrix [I, T].
    Returns:
        I values in [-1, 1]; NaN for the first (nothing can be forgotten yet) and where a measurement is
        missing.
    Raises:
        DataError: see `as_matrix`.
    """
    per_task = forgetting_per_task(R)
    return [float(per_task[i, :i].mean()) if i else math.nan for i in range(len(per_task))]


def backward_transfer(R: Any) -> float:
    """Backward transfer BWT = 1/(I-1) sum_{j<I-1} (R[I-1, j] - R[j, j]) (Lopez-Paz & Ranzato 2017).

    Args:
        R: accuracy matrix [I, T]; the last row counts as the end of training.
    Returns:
        Value in [-1, 1], negative when tasks were forgotten; NaN for fewer than two rows or a missing
        measurement.
    Raises:
        DataError: see `as_matrix`.
    """
    matrix = as_matrix(R)
    n = len(matrix)
    if n < 2:
        return math.nan
    return float((matrix[n - 1, : n - 1] - np.diag(matrix)[: n - 1]).mean())


def forward_transfer(R: Any, baseline: Sequence[float | None]) -> float:
    """Forward transfer FWT = 1/(T-1) sum_{j>=1} (R[j-1, j] - b_j) (Lopez-Paz & Ranzato 2017).

    Args:
        R: accuracy matrix [I, T] in which task j was also measured just before it was learned.
        baseline: T accuracies b_j of a randomly initialised network on each task, in [0, 1].
    Returns:
        Value in [-1, 1]; NaN for fewer than two tasks or where R[j-1, j] was not measured.
    Raises:
        DataError: see `as_matrix`, or the baseline has another number of tasks.
    """
    matrix = as_matrix(R)
    n_rows, n_tasks = matrix.shape
    b = _vector("baseline", baseline, n_tasks)
    if n_tasks < 2 or n_rows < n_tasks - 1:
        return math.nan
    return float(np.mean([matrix[j - 1, j] - b[j] for j in range(1, n_tasks)]))


def intransigence(R: Any, joint: Sequence[Any]) -> list[float]:
    """Intransigence I_i = a*_i - R[i, i] of each task (I_k of Chaudhry et al. 2018).

    Args:
        R: accuracy matrix [I, T].
        joint: a*_i, the accuracy on task i of a reference model trained jointly on tasks 0..i: T values, or
            the accuracy matrix [T, T] of the joint method, of which the diagonal is taken.
    Returns:
        I values in [-1, 1], negative when learning one by one did better; NaN where either is missing.
    Raises:
        DataError: see `as_matrix`, or joint has another number of tasks.
    """
    matrix = as_matrix(R)
    n_rows, n_tasks = matrix.shape
    nested = len(joint) > 0 and isinstance(joint[0], (Sequence, np.ndarray)) and np.ndim(joint[0]) > 0
    reference = _vector("joint", np.diag(as_matrix(joint)) if nested else joint, n_tasks)
    return [float(reference[i] - matrix[i, i]) for i in range(n_rows)]


def _vector(name: str, values: Any, n_tasks: int) -> FloatArray:
    vector = as_matrix([values])[0]
    if len(vector) != n_tasks:
        raise DataError(
            f"{name} must have one accuracy per task, got {len(vector)} for {n_tasks} tasks: "
            "was it measured on another stream?"
        )
    return vector


def confidence_interval(values: Iterable[float], level: float = 0.95) -> tuple[float, float] | None:
    """Student-t interval of the mean: mean +- t_{(1+level)/2, n-1} sd / sqrt(n), sd with ddof = 1.

    Args:
        values: n values, one per seed (any range).
        level: coverage in (0, 1).
    Returns:
        (low, high), not clipped to the range of the values; None for n < 2 or when a value is NaN.
    Raises:
        DataError: level is not in (0, 1).
    """
    if not 0.0 < level < 1.0:
        raise DataError(f"level must be in (0, 1), got {level}: use 0.95 for a 95 % interval.")
    x = np.asarray(list(values), dtype=np.float64)
    n = len(x)
    if n < 2 or np.isnan(x).any():
        return None
    from scipy.special import stdtrit  # type: ignore[import-untyped,unused-ignore]

    mean = float(x.mean())
    half = float(stdtrit(n - 1, (1.0 + level) / 2.0)) * float(x.std(ddof=1)) / math.sqrt(n)
    return mean - half, mean + half


@dataclass(frozen=True)
class Summary:
    """A number over seeds: of n values their mean, standard deviation (ddof = 1) and 95 % Student-t interval.

    Attributes:
        mean: NaN for n = 0 or when a value is NaN.
        sd: NaN for n < 2.
        ci95: (low, high) of the mean; None for n < 2, where no interval exists.
        n: number of values.
    """

    mean: float
    sd: float
    ci95: tuple[float, float] | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Summary:
        """Summary of the values (one per seed); None counts as NaN, so a missing value makes the mean NaN."""
        x = np.asarray([math.nan if v is None else float(v) for v in values], dtype=np.float64)
        n = len(x)
        mean = float(x.mean()) if n else math.nan
        sd = float(x.std(ddof=1)) if n > 1 else math.nan
        return cls(mean=mean, sd=sd, ci95=confidence_interval(x), n=n)

    @property
    def half_width(self) -> float | None:
        """Half width of the 95 % interval (mean +- half_width); None where there is no interval."""
        return None if self.ci95 is None else (self.ci95[1] - self.ci95[0]) / 2.0
