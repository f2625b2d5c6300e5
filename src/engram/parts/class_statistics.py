"""Counts, means and scatter of classes, from one pass over vectors: all that closed-form classifiers keep.

For a batch whose classes have mass v_c and mean m_c, of which earlier batches had mass w_c and mean mu_c:

    W    <- W + sum_n v_n (x_n - m_y)(x_n - m_y)^T + sum_c w_c v_c / (w_c + v_c) (m_c - mu_c)(m_c - mu_c)^T       (1)
    mu_c <- mu_c + v_c / (w_c + v_c) (m_c - mu_c)                                                                (2)

the pairwise update of Chan, Golub and LeVeque (The American Statistician 37, 1983). Whatever the order, batches and
tasks, it equals the sums over all samples at once but for rounding, and subtracts nothing large: products are of
deviations from means, so that float32 loses little in them; they are added in float64.

Shapes: B vectors, d entries, K classes; G scatters, 1 where classes share it, else K. A class's mass is the sum of its
samples' weights. Of W the lower triangle is kept, in blocks of rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from engram.core.contract import n_bytes
from engram.errors import ConfigError

Scatter = Literal["none", "pooled", "classes"]
Precision = Literal["float32", "float64"]

ROWS = 512  # of a block of the triangle
DOUBLE = 8  # bytes


class ClassStatistics(nn.Module):
    """What is kept of each class: count, mass, mean [d] and, if asked, scatter about the mean.

    Args:
        d: entries of a vector.
        scatter: none; pooled, one [d, d] for all classes together; classes, one for each.
        precision: of the products in (1).
        limit: GiB that they may take, matrices [d, d] of an answer included.
        n_classes: that will ever come, None where that is not known.
        per_answer, per_class: how many such matrices an answer takes at a time, and keeps for each class.

    Raises:
        ConfigError: ``limit`` is too low; also by :meth:`grow`, where the number of classes was not known.
    """

    counts: Tensor
    mass: Tensor
    means: Tensor
    triangles: Tensor

    def __init__(
        self,
        d: int,
        scatter: Scatter,
        precision: Precision,
        limit: float,
        n_classes: int | None,
        per_answer: int = 0,
        per_class: int = 0,
    ) -> None:
        super().__init__()
        self.d, self.scatter, self.limit = d, scatter, limit
        self.precision = getattr(torch, precision)
        self.matrices = per_answer, per_class
        self.n_triangle = 0 if scatter == "none" else sum((b - a) * b for a, b in self._blocks())
        self._check_fits(n_classes or 1)
        self.register_buffer("counts", torch.zeros(0, dtype=torch.int64))
        for name, width in (("mass", ()), ("means", (d,)), ("triangles", (self.n_triangle,))):
            self.register_buffer(name, torch.zeros((0, *width), dtype=torch.float64))

    def _blocks(self) -> list[tuple[int, int]]:
        return [(a, min(a + ROWS, self.d)) for a in range(0, self.d, ROWS)]

    def _check_fits(self, n_classes: int) -> None:
        n_scatters = {"none": 0, "pooled": 1, "classes": n_classes}[self.scatter]
        square, (per_answer, per_class) = self.d**2, self.matrices
        numbers = n_classes * (self.d + 2) + n_scatters * self.n_triangle
        needed = DOUBLE * (numbers + (per_answer + per_class * n_classes) * square)
        if needed > self.limit * 2**30:
            raise ConfigError(
                f"statistics of vectors with {self.d} entries must fit memory_limit = {self.limit:g} GiB, for "
                f"{n_classes} classes they take {needed:,} bytes ({needed / 2**30:.1f} GiB): raise memory_limit, give "
                "features with fewer entries, or a method that keeps less (slda with scatter=pooled, ncm)."
            )

    # Adding ------------------------------------------------------------------------------------------------------
    def grow(self, n_classes: int) -> None:
        """Have places for classes 0 .. ``n_classes`` - 1, the new ones empty."""
        self._check_fits(n_classes)
        for name in ("counts", "mass", "means", "triangles"):
            old = self.get_buffer(name)
            n = self._n_rows(name, n_classes)
            if n > len(old):
                setattr(self, name, torch.cat([old, old.new_zeros((n - len(old), *old.shape[1:]))]))

    def _n_rows(self, name: str, n_classes: int) -> int:
        return min(n_classes, 1) if name == "triangles" and self.scatter != "classes" else n_classes

    def add(self, x: Tensor, y: Tensor, weights: Tensor | None = None) -> None:
        """Add vectors ``x`` [B, d], any float, of classes ``y`` int64 [B].

        ``weights`` [K] float64 are those of one sample of each class; None for 1.
        """
        labels, place, n = y.unique(return_inverse=True, return_counts=True)
        means = self.means.new_zeros((len(labels), self.d)).index_add_(0, place, x.double()) / n[:, None]
        weight = torch.ones_like(means[:, 0]) if weights is None else weights[labels]
        if self.scatter != "none":
            away = x.to(self.precision) - means.to(self.precision)[place]
            self._add_products(labels, place, away.mul_(weight.sqrt().to(self.precision)[place, None]))
        self._move(labels, n, n * weight, means)

    def merge(self, other: ClassStatistics) -> None:
        """Add what ``other``, which has as many places, has seen."""
        known = other.known
        self.triangles += other.triangles
        self._move(known, other.counts[known], other.mass[known], other.means[known])

    def _move(self, labels: Tensor, n: Tensor, mass: Tensor, means: Tensor) -> None:
        """Second sum of (1), and (2)."""
        before, shift = self.mass[labels], means - self.means[labels]
        after = before + mass
        if self.scatter != "none":
            between = shift * (before * mass / after).sqrt()[:, None]
            self._add_products(labels, torch.arange(len(labels), device=labels.device), between)
        self.counts[labels] += n
        self.mass[labels] = after
        self.means[labels] += shift * (mass / after)[:, None]

    def _add_products(self, labels: Tensor, place: Tensor, rows: Tensor) -> None:
        """Add the products of ``rows`` [B, d] with themselves, which are of classes ``labels[place]``."""
        if self.scatter == "pooled":
            self._add_product(0, rows)
            return
        for i, label in enumerate(labels.tolist()):
            self._add_product(label, rows[place == i])

    def _add_product(self, g: int, rows: Tensor) -> None:
        for a, b, block in self._views(self.triangles[g]):
            block += rows[:, a:b].T @ rows[:, :b]

    def _views(self, triangle: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """First row, last row and block [b - a, b] of each block of a triangle [n]."""
        start = 0
        for a, b in self._blocks():
            stop = start + (b - a) * b
            yield a, b, triangle[start:stop].view(b - a, b)
            start = stop

    # What follows from them --------------------------------------------------------------------------------------
    @property
    def known(self) -> Tensor:
        """Classes that have samples, int64 [k] in order."""
        return self.counts.nonzero().flatten()

    def within(self, label: int | None = None) -> Tensor:
        """Scatter [d, d] about the means: of all classes together, or of one where each has its own."""
        chosen = self.triangles if label is None else self.triangles[label : label + 1]
        triangle = chosen[0].clone()
        for one in chosen[1:]:
            triangle += one  # one after another: empty places do not change the rounding
        full = triangle.new_empty((self.d, self.d))
        for a, b, block in self._views(triangle):
            full[a:b, :b] = block
            full[:a, a:b] = block[:, :a].T
        return full

    def forget(self, label: int) -> None:
        """Empty a class's place. ``ConfigError`` where its scatter is not told from the others'."""
        if self.scatter == "pooled":
            raise ConfigError(
                "a class must have a scatter of its own to be forgotten, got scatter=pooled: start again with "
                "scatter=classes, which keeps one for each, or with ncm or fecam."
            )
        for name in ("counts", "mass", "means", "triangles"):
            rows = self.get_buffer(name)
            rows[label : label + 1] = 0

    # State -------------------------------------------------------------------------------------------------------
    def structure(self) -> int:
        """Number of places."""
        return len(self.counts)

    def rebuild(self, n_classes: int) -> None:
        """Empty places, for a state dict to fill."""
        for name in ("counts", "mass", "means", "triangles"):
            old = self.get_buffer(name)
            setattr(self, name, old.new_zeros((self._n_rows(name, n_classes), *old.shape[1:])))

    def storage_bytes(self) -> dict[str, int]:
        """Bytes of all of it: statistics of real data."""
        return {"statistics": n_bytes(self.buffers())}


def factor(matrix: Tensor, advice: str) -> Tensor:
    """Lower Cholesky factor of ``matrix`` [d, d]; ``ConfigError`` where it is not positive definite."""
    found, info = torch.linalg.cholesky_ex(matrix)
    if int(info):
        raise ConfigError(
            f"a covariance must be positive definite, that of {len(matrix)} entries is not: {advice}."
        )
    return found
