"""What convolutional networks share: a convolution drawn after He et al., a normalisation by name."""

from __future__ import annotations

import math

from torch import nn

from engram.core.network import Norm


def make_norm(norm: Norm, width: int) -> nn.Module:
    """The normalisation of [B, width, H, W] with its affine parameters; ``group`` takes up to 8 groups."""
    if norm == "batch":
        return nn.BatchNorm2d(width)
    if norm == "group":
        return nn.GroupNorm(math.gcd(8, width), width)
    return nn.Identity()


def conv(c_in: int, c_out: int, kernel: int, stride: int, *, bias: bool) -> nn.Conv2d:
    """A convolution padded by half its kernel, weights N(0, 2 / fan_out) (He et al., ICCV 2015), biases 0."""
    layer = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=bias)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
