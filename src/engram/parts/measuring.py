"""Passes that look at a network without leaving a trace: importances, Fisher information."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def measuring(module: nn.Module) -> Iterator[None]:
    """Evaluation mode with gradients of every parameter inside; then all is put back.

    Dropout is off and normalisation uses its running statistics, which are left alone. Afterwards modes,
    ``requires_grad``, ``.grad`` and the global generators' states are those of before. For passes without
    gradients (teachers, predictions) see :func:`engram.core.contract.evaluating`.
    """
    modes = [(m, m.training) for m in module.modules()]
    held = [(p, p.requires_grad, p.grad) for p in module.parameters()]
    devices = (
        [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    )
    module.eval()
    try:
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            for p, _, _ in held:
                p.requires_grad_(True)
                p.grad = None
            yield
    finally:
        for p, flag, grad in held:
            p.requires_grad_(flag)
            p.grad = grad
        for m, mode in modes:
            m.training = mode
