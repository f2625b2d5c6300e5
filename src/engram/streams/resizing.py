"""Pixels brought to another size."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_FLOATS = 1 << 24  # pixels that are held as floats at a time


def resize_pixels(x: Tensor, size: int) -> Tensor:
    """The pixels of `resize`: uint8 [N, C, H, W] to uint8 [N, C, size, size]."""
    planes = x.reshape(-1, 1, *x.shape[2:])
    parts = []
    for part in planes.split(max(1, _FLOATS // x.shape[2:].numel())):
        scaled = functional.interpolate(part.float(), (size, size), mode="bilinear", antialias=True)
        parts.append(scaled.round_().clamp_(0, 255).to(torch.uint8))
    return torch.cat(parts).reshape(*x.shape[:2], size, size)
