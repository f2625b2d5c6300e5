"""The residual pair of Ostapenko et al. (CVPR 2019) for ImageNet-50, as in the released code.

Generator, after Gulrajani et al. (NIPS 2017): noise to n_f channels at 4x4, then blocks BN - ReLU - twice the size -
3x3 convolution - BN - ReLU - 3x3 convolution, added to the enlarged input; BN - ReLU - 3x3 convolution with bias -
tanh. Critic: ResNet-18 (He et al., CVPR 2016) with a 3x3 stem and no max-pooling, then a layer of 32 n_d units, batch
norm and ReLU.

Departures: a shortcut has no weights: where its channels are fewer or more than a block's, the missing ones are 0, in
place of 1x1 convolutions and of layers that are widened to fit. There is one output layer a task, in the released code
one a class. Convolutions are written as transposed ones of stride 1, the same up to mirrored kernels. A closed unit is
kept out of the stream before it is added. ``resgan64``, with a block more, is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from engram.core.network import Deconv, GeneratorShape, Masking, Network, Norm
from engram.core.options import Count
from engram.core.samples import Shape
from engram.errors import ConfigError
from engram.networks.layers import make_norm


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with norms, added to the input or to a 1x1 convolution of it; [B, C_in, H, W]."""

    def __init__(self, c_in: int, c_out: int, stride: int, norm: Norm) -> None:
        super().__init__()
        bias = norm == "none"
        self.branch = nn.Sequential(
            nn.Conv2d(c_in, c_out, 3, stride, 1, bias=bias),
            make_norm(norm, c_out),
            nn.ReLU(),
            nn.Conv2d(c_out, c_out, 3, 1, 1, bias=bias),
            make_norm(norm, c_out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(c_in, c_out, 1, stride, bias=bias), make_norm(norm, c_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.branch(x) + self.shortcut(x)
        return added.relu()


class Resnet18Trunk(nn.Module):
    """Images [B, C, H, W] to features [B, 32 n_d]."""

    def __init__(self, n_channels: int, n_d: int, norm: Norm) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        width = n_d
        for stage in range(4):
            for i in range(2):
                stride = 2 if stage and not i else 1
                blocks.append(BasicBlock(width, n_d << stage, stride, norm))
                width = n_d << stage
        stem = nn.Conv2d(n_channels, n_d, 3, 1, 1, bias=norm == "none")
        self.blocks = nn.Sequential(stem, make_norm(norm, n_d), nn.ReLU(), *blocks)
        self.n_features = 4 * width
        self.dense = nn.Linear(width, self.n_features)
        # Momentum as in the released code.
        self.norm: nn.Module = (
            nn.BatchNorm1d(self.n_features, momentum=0.01) if norm == "batch" else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.dense(self.blocks(x).mean((2, 3)))
        if len(h) > 1 or not self.training:  # one image has no variance
            h = self.norm(h)
        return torch.relu(h)


@dataclass(frozen=True)
class Resgan(Network):
    """The residual pair for 32x32 images: seven masked layers against a ResNet-18.

    Args:
        n_f: channels of the generator's blocks.
        n_d: channels of the critic's first stage; 2, 4 and 8 times as many in later ones.
        n_z: noise entries, the label's one-hot included.
    """

    name: ClassVar[str] = "resgan"
    image_size: ClassVar[int | None] = 32
    mean: ClassVar[float] = 0.5
    std: ClassVar[float] = 0.5
    n_blocks: ClassVar[int] = 3
    n_f: Count = 64
    n_d: Count = 64
    n_z: Count = 128

    def trunk(self, image_shape: Shape, *, norm: Norm = "batch") -> nn.Module:
        """The critic's trunk, which is also the solver's: features [B, 32 n_d]."""
        self.check(image_shape)
        return Resnet18Trunk(image_shape[0], self.n_d, norm)

    def generator(self, image_shape: Shape, *, mask: Masking) -> GeneratorShape:
        """n_z -> n_f at 4x4 -> a block for each doubling -> output; for masks alone."""
        self.check(image_shape)
        if mask == "none":
            raise ConfigError(
                f"the network must have a generator without masks for this method, {self.name} has none: use dcgan."
            )
        block = (Deconv(self.n_f, 3, 1, 1), Deconv(self.n_f, 3, 1, 1))
        layers = (Deconv(self.n_f, 4, 1, 0), *block * self.n_blocks)
        return GeneratorShape(self.n_z, layers, Deconv(image_shape[0], 3, 1, 1), residual=True)


@dataclass(frozen=True)
class Resgan64(Resgan):
    """The residual pair for 64x64 images, an extension of ours: a block more, otherwise as `Resgan`.

    Args:
        n_f: channels of the generator's blocks.
        n_d: channels of the critic's first stage; 2, 4 and 8 times as many in later ones.
        n_z: noise entries, the label's one-hot included.
    """

    name: ClassVar[str] = "resgan64"
    image_size: ClassVar[int | None] = 64
    n_blocks: ClassVar[int] = 4
