"""Augmentation of image batches on their device, from noise that the loop drew."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def shift(x: Tensor, u: Tensor, pixels: int) -> Tensor:
    """Shift each image by a whole number of pixels in -``pixels`` .. ``pixels`` in both directions.

    Args:
        x: images [B, C, H, W]; what moves in repeats the border.
        u: uniform numbers [B, 2] in [0, 1).
        pixels: 0 leaves the images as they are.
    """
    if pixels == 0:
        return x
    b, _, h, w = x.shape
    padded = F.pad(x, (pixels, pixels, pixels, pixels), mode="replicate")
    offset = (u * (2 * pixels + 1)).long()
    rows = offset[:, 0, None] + torch.arange(h, device=x.device)
    columns = offset[:, 1, None] + torch.arange(w, device=x.device)
    images = torch.arange(b, device=x.device)
    return padded[images[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
