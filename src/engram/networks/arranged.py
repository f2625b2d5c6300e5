"""Convolutions arranged for a processor: the same mathematics, other bits, less time where channels are few.

PyTorch's library takes several times as long for a layer of one channel, or of one position, as the matrix product over
its patches; other layers are faster with channels last. An accelerator gains nothing by it.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input


class ArrangedConv2d(nn.Conv2d):
    """As ``nn.Conv2d``: one input channel as a product over patches, more with channels last."""

    def forward(self, x: Tensor) -> Tensor:
        if self.in_channels > 1:
            return super().forward(x.contiguous(memory_format=torch.channels_last))
        patches = F.unfold(x, self.kernel_size, padding=self.padding, stride=self.stride)  # type: ignore[arg-type]
        out = F.linear(patches.transpose(1, 2), self.weight.flatten(1), self.bias)  # [B, positions, channels]
        sides = zip(
            x.shape[2:], self.kernel_size, cast("tuple[int, ...]", self.padding), self.stride, strict=True
        )
        return out.transpose(1, 2).unflatten(2, [(n + 2 * p - k) // s + 1 for n, k, p, s in sides])

    def input_gradient(self, shape: torch.Size, grad: Tensor) -> Tensor:
        """Gradient at an input of the given shape [B, C, H, W], from that of the output."""
        if self.in_channels > 1:
            grad = grad.contiguous(memory_format=torch.channels_last)
            return conv2d_input(shape, self.weight, grad, self.stride, self.padding)
        patches = self.weight.flatten(1).T @ grad.flatten(2)
        return F.fold(patches, shape[2:], self.kernel_size, padding=self.padding, stride=self.stride)  # type: ignore[arg-type]


class ArrangedConvTranspose2d(nn.ConvTranspose2d):
    """As ``nn.ConvTranspose2d``, by :func:`conv_transpose2d`."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        out = conv_transpose2d(x, self.weight, self.stride[0], int(self.padding[0]))
        return out if self.bias is None else out + self.bias[:, None, None]


def conv_transpose2d(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """``F.conv_transpose2d`` of images [B, I, H, W] and weights [I, O, k, k], without a bias.

    A product over patches for one position or one output channel; otherwise the library's.
    """
    n, _, height, width = x.shape
    _, channels, k, _ = weight.shape
    if height == width == 1 and not padding:
        return (x.flatten(1) @ weight.flatten(1)).view(n, channels, k, k)
    if channels > 1:
        return F.conv_transpose2d(x, weight, stride=stride, padding=padding)
    size = tuple((side - 1) * stride - 2 * padding + k for side in (height, width))
    return F.fold(weight.flatten(1).T @ x.flatten(2), size, k, padding=padding, stride=stride)
