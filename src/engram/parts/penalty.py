"""The quadratic penalty  factor * sum_k I_k (theta_k - theta~_k)^2  and its gradient in closed form.

``I`` is an importance, ``theta~`` an anchor, both by parameter name in a :class:`Table`. A method's factor
carries its paper's convention: c (SI), lambda / 2 (EWC), lambda (RWalk, MAS).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from engram.parts.tables import Scratch, Table


def quadratic(parameter: Callable[[str], Tensor], importance: Table, anchor: Table, factor: float) -> Tensor:
    """The penalty's value []; for looking at, and as what the gradient below is tested against."""
    total = torch.zeros(())
    for name in importance.names:
        d = parameter(name) - anchor[name]
        total = total.to(d) + (importance[name] * d.square()).sum()
    return factor * total


@torch.no_grad()
def add_gradient(
    grads: dict[str, Tensor],
    parameter: Callable[[str], Tensor],
    importance: Table,
    anchor: Table,
    factor: float,
    scratch: Scratch,
    *,
    keep: bool = False,
) -> None:
    """Add 2 * factor * I (theta - theta~) to the gradients that the loss reached.

    A parameter without a gradient is not moved by its optimiser, so it stands at its anchor and the term is
    0.

    Args:
        grads: by parameter name, each [*]; changed in place, or with ``keep`` given new tensors, which the
            next call writes over, so that the ones handed in still hold the gradient of the loss alone.
        parameter: maps a name to its parameter.
        importance, anchor: entries that are absent count as zero importance.
        factor: see the module.
        scratch: work tensors.
    """
    names = [n for n in grads if n in importance]
    if not names or factor == 0.0:
        return
    theta: list[Tensor] = [parameter(n) for n in names]
    given = [grads[n] for n in names]
    work = scratch.likes([f"penalty/{n}" for n in names], theta)
    _difference(theta, anchor.pick(names), work)
    if keep:
        _add_product(given, importance.pick(names), work, 2.0 * factor)
        grads.update(zip(names, work, strict=True))
    else:
        torch._foreach_addcmul_(given, importance.pick(names), work, value=2.0 * factor)


@torch.no_grad()
def proximal_step(
    parameter: Callable[[str], Tensor], penalties: Sequence[tuple[Table, Table]], factor: float, rate: float
) -> None:
    """The proximal step of the sum of all penalties: each parameter moves towards the minimum of

        (theta' - theta)^2 / (2 rate) + factor * sum_nu I_nu (theta' - theta~_nu)^2,

    so theta += rate sum_nu w_nu (theta~_nu - theta) / (1 + rate sum_nu w_nu) with w = 2 * factor * I. It never
    overshoots, however large the factor; a gradient step does where rate * w > 2. A parameter at its anchor stays
    there.

    Args:
        parameter: maps a name to its parameter, moved in place.
        penalties: importance and anchor of each.
        factor: see the module.
        rate: how far a lasting gradient of 1 moves a parameter in a step.
    """
    if factor == 0.0:
        return
    for name in dict.fromkeys(n for importance, _ in penalties for n in importance.names):
        theta = parameter(name)
        weight, force = torch.zeros_like(theta), torch.zeros_like(theta)
        for importance, anchor in penalties:
            if name in importance:
                w = importance[name] * (2.0 * factor * rate)
                weight += w
                force += w * (anchor[name] - theta)
        theta.add_(force / (1.0 + weight))


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
