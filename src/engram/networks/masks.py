"""Masks over weights or units: gates, annealing, gradient compensation, sparsity, growth arithmetic, bit packing.

Equations from Ostapenko et al. (CVPR 2019; "DGM") and Serra et al. (ICML 2018; "HAT"). ``s`` is the slope of the
sigmoid, ``e`` a real-valued embedding, ``m`` its gate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Annealing = Literal["shifted", "paper", "official"]


def slope_of_epoch(s_max: float, epoch: int, n_epochs: int, annealing: Annealing) -> float:
    """The largest slope s_e of an epoch (DGM, Eq. 4), ``epoch`` counted from 0.

    ``shifted`` reaches s_max in the last epoch and starts one step up, ``(e + 1) / I``; ``paper`` runs from 1 / s_max
    to s_max, ``e / (I - 1)``; ``official`` is the released code's ``e / I``, which never reaches s_max.
    """
    return _slope(s_max, epoch + (annealing == "shifted"), n_epochs, annealing)


def slope_of_step(s_e: float, step: int, n_steps: int, annealing: Annealing) -> float:
    """The slope of a step within an epoch, from 1 / s_e towards s_e (DGM, Eq. 5), ``step`` counted from 0.

    ``paper`` reaches s_e at the last step, ``(b - 1) / (B - 1)``; the others use ``b / B`` of the steps done. The
    released code counts samples, n / N, which differs where the last batch is short, by less than one step. Where
    s_e < 1 (the first epoch of ``paper`` and ``official``) the schedule runs downwards, as printed and as released.
    """
    return _slope(s_e, step, n_steps, annealing)


def _slope(top: float, done: int, n: int, annealing: Annealing) -> float:
    if annealing == "paper":
        part = done / (n - 1) if n > 1 else 1.0
    else:
        part = done / n
    return 1.0 / top + (top - 1.0 / top) * part


class _ClosedFormGate(torch.autograd.Function):
    """sigmoid(s e) whose gradient s / (2 (cosh(s e) + 1)) does not underflow where the gate is nearly 1."""

    @staticmethod
    def forward(ctx: Any, e: Tensor, s: float) -> Tensor:
        ctx.save_for_backward(e)
        ctx.s = s
        return torch.sigmoid(s * e)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (e,) = ctx.saved_tensors
        return grad * ctx.s / (2.0 * (torch.cosh((ctx.s * e).clamp(-50, 50)) + 1.0)), None


def gate(e: Tensor, s: float, *, closed_form: bool = False) -> Tensor:
    """m = sigmoid(s e) (DGM, Eq. 3), any shape.

    ``closed_form`` replaces autograd's m (1 - m), which is exactly 0 in float32 from s e = 17 on.
    """
    return _ClosedFormGate.apply(e, s) if closed_form else torch.sigmoid(s * e)


def compensate(grad: Tensor, e: Tensor, s: float, s_e: float) -> Tensor:
    """The embedding gradient made independent of s, in place (HAT, Sec. 2.5; DGM uses the epoch's s_e for s_max).

    q' = q (s_e / s) (cosh(clamp(s e, -50, 50)) + 1) / (cosh(e) + 1), which equals (dL/dm) s_e sigmoid'(e).
    """
    numerator = torch.cosh((s * e).clamp_(-50.0, 50.0)).add_(1.0)
    return grad.mul_(s_e / s).mul_(numerator).div_(torch.cosh(e).add_(1.0))


def sparsity(gates: Sequence[Tensor], reserved: Sequence[Tensor]) -> Tensor:
    """R_t in [0, 1]: mean gate over elements that no earlier task reserved (DGM, Eq. 8); reuse is free.

    Args:
        gates: soft gates of each layer, in [0, 1].
        reserved: cumulated binary masks of the earlier tasks, bool, same shapes.

    Returns:
        A scalar; 0 where everything is reserved.
    """
    free = [~r for r in reserved]
    total = torch.stack([(m * f).sum() for m, f in zip(gates, free, strict=True)]).sum()
    count = torch.stack([f.sum() for f in free]).sum()
    return total / count.clamp(min=1)


def blocked_weights(reserved: Tensor, reserved_below: Tensor | None) -> Tensor:
    """Which weights masks per unit protect, bool [I, O, 1, 1]: those whose input and output are reserved.

    ``reserved`` [O] and ``reserved_below`` [I] are bool; HAT, Eq. 2; DGM, Eq. 7. The first layer has no units below it:
    the output alone decides, [1, O, 1, 1].
    """
    both = reserved[None, :] if reserved_below is None else reserved_below[:, None] & reserved[None, :]
    return both[:, :, None, None]


def growth_per_weight(
    widths: Sequence[int],
    n_inputs: Callable[[int, Sequence[int]], int],
    areas: Sequence[int],
    newly: Sequence[int],
    *,
    rule: Literal["per_task", "carry"] = "per_task",
    reserved: Sequence[int] = (),
    initial: Sequence[int] = (),
) -> list[int]:
    """New outputs of each layer for masks per weight (DGM, Sec. 3.2, with the released code's kernel areas).

    Weights gained through new inputs count as credit. ``per_task`` replaces what this task reserved; ``carry`` keeps
    the free weights of a layer at their initial number, crediting what earlier roundings left over.

    Args:
        widths: outputs O_l before growth.
        n_inputs: inputs I_l of a layer by its number and the layers' outputs.
        areas: kernel areas K_l.
        newly: weights n_l reserved by this task.
        reserved: for ``carry``, weights R_l reserved so far.
        initial: for ``carry``, initial weights P_l(1).
    """
    new: list[int] = []
    for i, (width, area) in enumerate(zip(widths, areas, strict=True)):
        grown = [w + d for w, d in zip(widths, new, strict=False)]
        inputs = n_inputs(i, [*grown, *widths[i:]])
        gained = inputs - n_inputs(i, widths)
        per_output = inputs * area
        if rule == "per_task":
            wanted = newly[i] - gained * width * area
        else:
            wanted = initial[i] - (per_output * width - reserved[i])
        new.append(max(0, math.ceil(wanted / per_output)))
    return new


def pack(mask: Tensor) -> Tensor:
    """A bool tensor as bits: uint8 [ceil(n / 8)], first element in the lowest bit."""
    flat = mask.flatten().to(torch.uint8)
    padded = F.pad(flat, (0, -len(flat) % 8)).view(-1, 8)
    return (padded << torch.arange(8, dtype=torch.uint8, device=mask.device)).sum(1, dtype=torch.uint8)


def unpack(bits: Tensor, shape: Sequence[int]) -> Tensor:
    """The inverse of :func:`pack`: bool of the given shape."""
    flat = (bits[:, None] >> torch.arange(8, dtype=torch.uint8, device=bits.device) & 1).bool().flatten()
    return flat[: math.prod(shape)].view(*shape)
