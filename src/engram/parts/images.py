"""Augmentation of image batches on their device, from noise that the loop drew."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def shift_and_rotate(x: Tensor, u: Tensor, *, pixels: float = 0.0, degrees: float = 0.0) -> Tensor:
    """Shift and rotate each image at random, bilinearly; what moves in repeats the border.

    Args:
        x: images [B, C, H, W].
        u: uniform numbers [B, 3] in [0, 1): vertical shift, horizontal shift, rotation; 0.5 leaves an image in place.
        pixels: largest shift in either direction; need not be whole.
        degrees: largest rotation in either direction, about the centre.

    Returns:
        Images [B, C, H, W]; ``x`` itself where both bounds are 0.
    """
    if pixels == 0 and degrees == 0:
        return x
    v = 2.0 * u - 1.0
    angle = v[:, 2] * math.radians(degrees)
    cos, sin = angle.cos(), angle.sin()
    # The grid is in units of half a side: turning in pixels needs the sides' ratio.
    ratio = x.shape[2] / x.shape[3]
    down, right = v[:, 0] * (2.0 * pixels / x.shape[2]), v[:, 1] * (2.0 * pixels / x.shape[3])
    rows = (torch.stack([cos, -sin * ratio, right], 1), torch.stack([sin / ratio, cos, down], 1))
    grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
