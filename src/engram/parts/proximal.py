"""Proximal steps: exact zeros, which no sub-gradient reaches."""

from __future__ import annotations

from torch import Tensor


def shrink_(x: Tensor, by: float) -> None:
    """x <- sign(x) max(|x| - by, 0), in place: the proximal step of by |x|_1."""
    x.copy_(x.sign() * (x.abs() - by).clamp_(min=0.0))


def shrink_rows_(x: Tensor, by: float) -> None:
    """u <- u max(1 - by / |u|, 0) for each row u of ``x``, in place: the proximal step of by sum |u| (group lasso)."""
    norms = x.norm(dim=1, keepdim=True)
    x.mul_((1.0 - by / norms.clamp(min=1e-30)).clamp_(min=0.0))
