"""Running statistics of normalisation: left alone for some passes, or taken anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def _layers(module: nn.Module) -> list[_BatchNorm]:
    return [m for m in module.modules() if isinstance(m, _BatchNorm)]


@contextmanager
def kept_statistics(module: nn.Module, active: bool = True) -> Iterator[None]:
    """Training-mode passes inside normalise with batch statistics but leave the running ones as they are."""
    if not active:
        yield
        return
    layers = _layers(module)
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
    layers = _layers(module)
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
