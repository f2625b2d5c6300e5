"""What losses are computed with: the one place that decides, and knows why.

``float32`` is what methods are defined and tested with. ``bf16`` rounds the factors of matrix products and convolutions
in losses to bfloat16 (PyTorch's autocast), only where the device multiplies such numbers itself: elsewhere it is slower
than float32. ``tf32`` lets an accelerator round these factors to ten bits of mantissa. Weights, optimisers, what a
method does at its moments, and every answer stay float32. What the device cannot is refused; nothing else is used
in its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import get_args

import torch

from engram.core.contract import Batch, Phase, Step, Terms, Update
from engram.core.options import Precision
from engram.errors import ConfigError


def reason_for(precision: Precision, device: torch.device) -> str:
    """Why losses may be computed so on this device; ``ConfigError`` where they may not."""
    if precision not in get_args(Precision):
        raise ConfigError(f"precision must be float32, tf32 or bf16, got {precision!r}: give one of them.")
    cuda = device.type == "cuda"
    if precision == "bf16":
        if cuda and torch.cuda.is_bf16_supported(including_emulation=False):
            return "the accelerator multiplies bfloat16"
        if not cuda and torch.cpu._is_avx512_bf16_supported():
            return "the processor multiplies bfloat16 (AVX-512 BF16)"
        needed = "an accelerator that multiplies bfloat16" if cuda else "a processor with AVX-512 BF16"
    elif precision == "tf32":
        if cuda and torch.cuda.get_device_capability(device) >= (8, 0):
            return "the accelerator has TF32"
        needed = "an accelerator of compute capability 8.0 or later"
    else:
        return "every device has it"
    raise ConfigError(
        f"precision {precision} needs {needed}, which device {device} is not: leave precision at float32, or take "
        "another device."
    )


@contextmanager
def computing(precision: Precision, device: torch.device) -> Iterator[None]:
    """Learning with this precision on this device; ``ConfigError`` as above."""
    reason_for(precision, device)
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    try:
        if precision == "tf32":
            products.allow_tf32 = convolutions.allow_tf32 = True
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


def lowered(phase: Phase, precision: Precision) -> Phase:
    """The phase with the losses of its players under autocast for ``bf16``; else as it is."""
    if precision != "bf16":
        return phase

    def of(update: Update) -> Update:
        def loss(batch: Batch, step: Step) -> Terms:
            with torch.autocast(batch.x.device.type, torch.bfloat16):
                terms = update.loss(batch, step)
            return {name: term.float() for name, term in terms.items()}

        return update if update.player is None else replace(update, loss=loss)

    return replace(phase, updates=tuple(of(update) for update in phase.updates))
