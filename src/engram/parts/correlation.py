"""Pearson correlation of large vectors, summed in double precision."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def pearson(a: Tensor, b: Tensor) -> float | None:
    """Correlation of all entries of ``a`` [*] with those of ``b`` [*]; None where one of them is constant."""
    x, y = (v.detach().flatten().double() for v in (a, b))
    x, y = x - x.mean(), y - y.mean()
    size = float(x.norm() * y.norm())
    return float(x @ y) / size if size > 0 else None
