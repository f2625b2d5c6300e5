"""L2 transfer: parameters are held near where they stood, each as strongly as any other.

The penalty  strength / 2 sum_k (theta_k - theta~_k)^2 + fresh / 2 sum_j theta_j^2,  k over what stood there before the
task, j over what has grown since (a new head, new rows of an output layer). It is EWC's with a Fisher information of 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from engram.parts.tables import Scratch, Table


@torch.no_grad()
def hold(anchor: Table, parameters: Mapping[str, Tensor]) -> None:
    """Keep copies of ``parameters`` as they stand, and nothing else. Call it before a head grows."""
    anchor.rebuild([])
    for name, p in parameters.items():
        anchor.put(name, p.detach().clone())


def _split(theta: Tensor, name: str, anchor: Table) -> tuple[Tensor, Tensor | None, Tensor]:
    """Rows that the anchor holds, their anchor, and rows grown since."""
    if name not in anchor:
        return theta[:0], None, theta
    n = len(anchor[name])
    return theta[:n], anchor[name], theta[n:]


@torch.no_grad()
def add_pull(
    grads: dict[str, Tensor],
    parameter: Callable[[str], Tensor],
    anchor: Table,
    strength: float,
    scratch: Scratch,
    *,
    fresh: float = 0.0,
) -> None:
    """Add strength (theta - theta~) to the gradients that the loss reached, and fresh theta to those of new rows.

    Args:
        grads: by parameter name, each [*]; changed in place.
        parameter: maps a name to its parameter.
        anchor: what stood there before; fewer rows where a parameter has grown, no entry where it is new.
        strength, fresh: see the module; 0 adds nothing, not even a zero.
        scratch: work tensors.
    """
    for name, grad in grads.items():
        old, held, new = _split(parameter(name), name, anchor)
        if strength and held is not None:
            grad[: len(old)].add_(torch.sub(old, held, out=scratch.like(name, held)), alpha=strength)
        if fresh and len(new):
            grad[len(old) :].add_(new, alpha=fresh)


@torch.no_grad()
def pull(parameters: Mapping[str, Tensor], anchor: Table, strength: float, fresh: float = 0.0) -> float:
    """The penalty's value; for looking at."""
    total = 0.0
    for name, p in parameters.items():
        old, held, new = _split(p, name, anchor)
        if held is not None:
            total += 0.5 * strength * float((old - held).square().sum())
        total += 0.5 * fresh * float(new.square().sum())
    return total
