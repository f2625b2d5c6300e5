"""Passes that look at a network without leaving a trace: importances, Fisher information."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def measuring(module: nn.Module) -> Iterator[None]:
    """Evaluation mode with gradients of every parameter inside; then all is put back.

    Dropout is off and normalisation uses its running statistics, which are left alone. Afterwards modes,
    ``requires_grad``, ``.grad``, tensors kept as plain attributes and the global generators' states are those of
    before. For passes without gradients (teachers, predictions) see :func:`engram.core.contract.evaluating`.
    """
    modes = [(m, m.training) for m in module.modules()]
    held = [(p, p.requires_grad, p.grad) for p in module.parameters()]
    plain = [(m, k, v) for m in module.modules() for k, v in vars(m).items() if isinstance(v, Tensor)]
    devices = (
        [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    )
    module.eval()
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=devices))
            stack.enter_context(torch.enable_grad())
            if any(isinstance(m, nn.RNNBase) for m in module.modules()):
                # cuDNN has no backward pass of a recurrent layer in evaluation mode.
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
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
        for m, name, value in plain:
            vars(m)[name] = value
