"""Running statistics of normalisation: left alone for some passes, taken anew, or replaced without another answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def norms_of(module: nn.Module) -> list[_BatchNorm]:
    """The batch norms of a network."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm)]


@contextmanager
def kept_statistics(module: nn.Module, active: bool = True) -> Iterator[None]:
    """Training-mode passes inside normalise with batch statistics but leave the running ones as they are."""
    if not active:
        yield
        return
    layers = norms_of(module)
    before = [m.track_running_stats for m in layers]
    for m in layers:
        # Without tracking a layer in training mode uses the batch and writes nothing.
        m.track_running_stats = False
    held = [(m.running_mean, m.running_var) for m in layers]
    for m in layers:
        m.running_mean, m.running_var = None, None
    try:
        yield
    finally:
        for m, flag, (mean, var) in zip(layers, before, held, strict=True):
            m.track_running_stats = flag
            m.running_mean, m.running_var = mean, var


@contextmanager
def reestimated_statistics(module: nn.Module) -> Iterator[None]:
    """Reset running statistics; passes inside make them the plain average over batches (momentum None)."""
    layers = norms_of(module)
    before = [(m.momentum, m.training) for m in layers]
    for m in layers:
        m.reset_running_stats()
        m.momentum = None
        m.train()
    try:
        yield
    finally:
        for m, (momentum, training) in zip(layers, before, strict=True):
            m.momentum = momentum
            m.train(training)


def norm_map(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """A and B of a batch norm in evaluation mode, z -> A z + B; float64 [C]."""
    weight, bias, mean, var = (
        cast(Tensor, getattr(norm, n)).detach().double()
        for n in ("weight", "bias", "running_mean", "running_var")
    )
    gain = weight / (var + cast(float, norm.eps)).sqrt()
    return gain, bias - mean * gain


@torch.no_grad()
def refit_norms(module: nn.Module, batches: Iterable[Tensor]) -> None:
    """Give every batch norm the statistics of ``batches``, and scale and offset such that it computes the same.

    A folded network holds mean 0 and variance 1 - eps everywhere; in training mode batch statistics would make another
    function of it. Evaluation mode is unchanged to rounding.

    Args:
        module: in any mode, which is kept.
        batches: inputs, at least two values a channel in all.
    """
    norms = norms_of(module)
    sums: dict[nn.Module, list[Tensor]] = {}

    def note(norm: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        (x,) = (*args, *named.values())
        z = x.double().transpose(0, 1).flatten(1)
        seen = sums.setdefault(norm, [torch.zeros(3, z.shape[0], dtype=z.dtype, device=z.device)])
        seen[0] += torch.stack([z.sum(1), (z * z).sum(1), torch.full_like(z[:, 0], z.shape[1])])

    hooks = [n.register_forward_pre_hook(note, with_kwargs=True) for n in norms]
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        for x in batches:
            module(x)
    finally:
        for hook in hooks:
            hook.remove()
        for m, mode in modes:
            m.training = mode
    for norm in norms:
        if norm not in sums:
            continue
        total, squares, n = sums[norm][0]
        gain, offset = norm_map(norm)
        mean = total / n
        var = (squares / n - mean * mean).clamp(min=0.0)
        norm.weight.copy_(gain * (var + norm.eps).sqrt())
        norm.bias.copy_(offset + gain * mean)
        cast(Tensor, norm.running_mean).copy_(mean)
        cast(Tensor, norm.running_var).copy_(var)
