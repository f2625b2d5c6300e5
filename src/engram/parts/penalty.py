"""The quadratic penalty  strength * sum_k I_k (theta_k - theta~_k)^2  and its gradient in closed form.

``I`` is an importance, ``theta~`` an anchor, both by parameter name in a :class:`Table`. The strength carries the
convention of a method's paper: c (SI), lambda / 2 (EWC), lambda (RWalk, MAS, IMM), alpha / 2 (L2-SP).

Shapes: * is a parameter's shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from engram.parts.tables import Scratch, Table

Parameters = Mapping[str, Tensor]


class Penalty(Protocol):
    """A term of the loss that depends on the parameters alone; for plain training to add."""

    def pad(self, theta: Parameters) -> None:
        """Fit parameters that have grown."""

    def add_gradient(self, grads: dict[str, Tensor], theta: Parameters) -> None:
        """Add its gradient to those of the loss, by parameter name."""

    def value(self, theta: Parameters) -> float:
        """Its value at ``theta``."""


class QuadraticPenalty:
    """A penalty over two tables of a method, whose state they are; the penalty itself holds none.

    Args:
        importance: I, each [*], >= 0; an entry that is absent counts as 0. None is I = 1 wherever there is an anchor.
        anchor: theta~, each [*]; without an importance it may have fewer rows than a parameter that has grown, and
            new rows are free.
        strength: factor, >= 0.
        joins: parameters that are new join the penalty, without importance; otherwise rows of known ones alone do.
        keep: gradients that are added to go into new tensors, which the next step writes over, so that the ones handed
            in still hold the gradient of the loss alone.
        scratch: work tensors; several penalties that are added one after another may share them.
    """

    def __init__(
        self,
        importance: Table | None,
        anchor: Table,
        strength: float,
        *,
        joins: bool = True,
        keep: bool = False,
        scratch: Scratch | None = None,
    ) -> None:
        self.importance, self.anchor, self.strength = importance, anchor, strength
        self.joins, self.keep, self.scratch = joins, keep, scratch or Scratch()

    def pad(self, theta: Parameters) -> None:
        """Fit parameters that have grown: new entries have no importance and stand at their anchor."""
        if self.importance is not None:
            self.importance.pad(theta, 0.0, only_known=not self.joins)
            self.anchor.pad(theta, "value", only_known=not self.joins)

    @property
    def names(self) -> list[str]:
        """Parameters that are held."""
        return (self.anchor if self.importance is None else self.importance).names

    def _pairs(self, theta: Parameters, names: Sequence[str]) -> tuple[list[Tensor], list[Tensor]]:
        """Parameters and anchors; where there is no importance, the rows that have an anchor."""
        held = self.anchor.pick(names)
        if self.importance is None:
            return [theta[n][: len(a)] for n, a in zip(names, held, strict=True)], held
        return [theta[n] for n in names], held

    @torch.no_grad()
    def value(self, theta: Parameters) -> float:
        """The penalty; for looking at, and as what the gradient below is tested against."""
        names = [n for n in self.names if n in theta]
        total = 0.0
        for name, p, a in zip(names, *self._pairs(theta, names), strict=True):
            square = (p - a).square()
            total += float((square if self.importance is None else self.importance[name] * square).sum())
        return self.strength * total

    def add_gradient(self, grads: dict[str, Tensor], theta: Parameters) -> None:
        """Add 2 strength I (theta - theta~) to the gradients that the loss reached.

        A parameter without a gradient is not moved by its optimiser, so it stands at its anchor and the term is 0.

        Args:
            grads: by parameter name, each [*]; changed in place, or with ``keep`` given new tensors.
            theta: the parameters by name.
        """
        names = [n for n in grads if n in (self.anchor if self.importance is None else self.importance)]
        if not names or self.strength == 0.0:
            return
        with torch.no_grad():  # as a decorator it would keep the penalty out of a compiled step
            now, held = self._pairs(theta, names)
            work = self.scratch.likes([f"penalty/{n}" for n in names], held)
            _difference(now, held, work)
            given = [grads[n] for n in names]
            if self.importance is None:
                rows = [g[: len(a)] for g, a in zip(given, held, strict=True)]
                torch._foreach_add_(rows, work, alpha=2.0 * self.strength)
            elif self.keep:
                _add_product(given, self.importance.pick(names), work, 2.0 * self.strength)
                grads.update(zip(names, work, strict=True))
            else:
                torch._foreach_addcmul_(given, self.importance.pick(names), work, value=2.0 * self.strength)


@torch.no_grad()
def proximal_step(theta: Parameters, penalties: Sequence[QuadraticPenalty], rate: float) -> None:
    """The proximal step of the sum of all penalties: each parameter moves towards the minimum of

        (theta' - theta)^2 / (2 rate) + sum_nu strength I_nu (theta' - theta~_nu)^2,

    so theta += rate sum_nu w_nu (theta~_nu - theta) / (1 + rate sum_nu w_nu) with w = 2 strength I. It never
    overshoots, however large the strength; a gradient step does where rate * w > 2. A parameter at its anchor stays
    there.

    Args:
        theta: the parameters by name, moved in place.
        penalties: each with an importance.
        rate: how far a lasting gradient of 1 moves a parameter in a step.
    """
    for name in dict.fromkeys(n for penalty in penalties if penalty.strength for n in penalty.names):
        p = theta[name]
        weight, force = torch.zeros_like(p), torch.zeros_like(p)
        for penalty in penalties:
            if penalty.importance is not None and name in penalty.importance:
                w = penalty.importance[name] * (2.0 * penalty.strength * rate)
                weight += w
                force += w * (penalty.anchor[name] - p)
        p.add_(force / (1.0 + weight))


def _difference(a: list[Tensor], b: list[Tensor], out: list[Tensor]) -> None:
    """out = a - b: one pass a tensor on a CPU, few launches elsewhere."""
    if out[0].device.type == "cpu":
        for x, y, o in zip(a, b, out, strict=True):
            torch.sub(x, y, out=o)
    else:
        torch._foreach_copy_(out, a)
        torch._foreach_sub_(out, b)


def _add_product(g: list[Tensor], importance: list[Tensor], out: list[Tensor], factor: float) -> None:
    """out = g + factor * importance * out."""
    if out[0].device.type == "cpu":
        for x, w, o in zip(g, importance, out, strict=True):
            torch.addcmul(x, w, o, value=factor, out=o)
    else:
        torch._foreach_mul_(out, importance)
        torch._foreach_mul_(out, factor)
        torch._foreach_add_(out, g)
