"""What a domain-incremental task does to its images, in integers: the same bytes on every device."""

from __future__ import annotations

import hashlib
import math
from typing import Protocol

import torch
from torch import Tensor

_UNIT = 1 << 11  # weights are multiples of 1/2048 pixel; 255 * _UNIT**2 still fits into 31 bits


class Transform(Protocol):
    """A fixed map of images; `description` says which, `digest` tells two apart."""

    description: str
    digest: str

    def __call__(self, x: Tensor) -> Tensor:
        """uint8 [N, C, H, W] to the same shape, on x's device."""
        ...


class Identity:
    """Leaves images as they are."""

    description = "none"
    digest = ""

    def __call__(self, x: Tensor) -> Tensor:
        """See `Transform`."""
        return x


class Permutation:
    """Moves pixels: output pixel p is input pixel order[p].

    Args:
        order: int64 [H*W], the same in every channel, or [C*H*W], over channels too; a permutation.
    """

    def __init__(self, order: Tensor, description: str) -> None:
        self.order = order
        self.description = description
        self.digest = hashlib.sha256(order.numpy().data).hexdigest()

    def __call__(self, x: Tensor) -> Tensor:
        """See `Transform`."""
        n_planes = x.shape[1:].numel() // len(self.order)
        planes = x.reshape(len(x), n_planes, len(self.order))
        return planes.gather(2, self.order.to(x.device).expand(planes.shape)).reshape(x.shape)


class Rotation:
    """Turns images about their centre, counter-clockwise, bilinear; what comes from outside is 0.

    Args:
        degrees: angle; multiples of 90 are exact on square images.
    """

    def __init__(self, degrees: float, height: int, width: int) -> None:
        self.description = f"rotated by {degrees:g} degrees"
        self.digest = ""  # the description says it all
        angle = math.radians(degrees)
        # the angle's sine and cosine at multiples of 90 degrees are off by 1e-16, which rounding to _UNIT
        # removes
        cos, sin = math.cos(angle), math.sin(angle)
        down = torch.arange(height, dtype=torch.float64).unsqueeze(1) - (height - 1) / 2
        right = torch.arange(width, dtype=torch.float64).unsqueeze(0) - (width - 1) / 2
        rows = ((cos * down + sin * right + (height - 1) / 2) * _UNIT).round().to(torch.int64).flatten()
        columns = ((cos * right - sin * down + (width - 1) / 2) * _UNIT).round().to(torch.int64).flatten()
        corners = []
        for step_down in (0, 1):
            for step_right in (0, 1):
                row, column = rows // _UNIT + step_down, columns // _UNIT + step_right
                weight_row = rows % _UNIT if step_down else _UNIT - rows % _UNIT
                weight_column = columns % _UNIT if step_right else _UNIT - columns % _UNIT
                inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
                weight = torch.where(inside, weight_row * weight_column, 0).to(torch.int32)
                corners.append((row.clamp(0, height - 1) * width + column.clamp(0, width - 1), weight))
        self._corners = corners  # four of (int64 [H*W] pixel, int32 [H*W] weight)

    def __call__(self, x: Tensor) -> Tensor:
        """See `Transform`."""
        corners = [(pixel.to(x.device), weight.to(x.device)) for pixel, weight in self._corners]
        out = torch.empty_like(x)
        for start in range(0, len(x), 4096):  # in parts, since the sums need four bytes a pixel
            part = x[start : start + 4096].flatten(2)
            total = torch.full(
                part.shape, _UNIT * _UNIT // 2, dtype=torch.int32, device=x.device
            )  # rounds to nearest
            for pixel, weight in corners:
                total += part.gather(2, pixel.expand(part.shape)).to(torch.int32) * weight
            out[start : start + 4096] = (total // (_UNIT * _UNIT)).to(torch.uint8).reshape(-1, *x.shape[1:])
        return out
