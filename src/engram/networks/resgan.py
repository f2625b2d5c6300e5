"""The residual pair of Ostapenko et al. (CVPR 2019) for ImageNet-50, as in the released code.

Generator, after Gulrajani et al. (NIPS 2017): noise to n_f channels at 4x4, then blocks BN - ReLU - twice the size -
3x3 convolution - BN - ReLU - 3x3 convolution, added to the enlarged input; BN - ReLU - 3x3 convolution with bias -
tanh. Critic: ResNet-18 (He et al., CVPR 2016) with a 3x3 stem and no max-pooling, then a layer of 32 n_d units, batch
norm and ReLU. ``critic=wgan`` is that of Gulrajani et al. for CIFAR-10, as in their released code.

Departures: a shortcut has no weights: where its channels are fewer or more than a block's, the missing ones are 0, in
place of 1x1 convolutions and of layers that are widened to fit. There is one output layer a task, in the released code
one a class. Convolutions are written as transposed ones of stride 1, the same up to mirrored kernels. A closed unit is
kept out of the stream before it is added. Weights of ``critic=wgan`` are drawn after He et al. (ICCV 2015); asked for a
norm, as a solver does, it has one before each ReLU within a block. ``resgan64``, with a block more, is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from engram.core.network import Deconv, GeneratorShape, Masking, Network, Norm
from engram.core.options import Count
from engram.core.samples import Shape
from engram.errors import ConfigError
from engram.networks.layers import conv, make_norm


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


class CriticBlock(nn.Module):
    """Norm, ReLU and 3x3 convolution, twice, beside the input or a 1x1 convolution of it; [B, C_in, H, W].

    Args:
        c_in, c_out: channels.
        norm: of both norms.
        first: it takes images: neither norm nor ReLU stands before its first convolution.
        half: it halves height and width, by means.
    """

    def __init__(self, c_in: int, c_out: int, norm: Norm, *, first: bool = False, half: bool = False) -> None:
        super().__init__()
        before = () if first else (make_norm(norm, c_in), nn.ReLU())
        convolutions = (conv(c, c_out, 3, 1, bias=True) for c in (c_in, c_out))
        self.branch = nn.Sequential(
            *before, next(convolutions), make_norm(norm, c_out), nn.ReLU(), next(convolutions)
        )
        self.shortcut = conv(c_in, c_out, 1, 1, bias=True) if half else nn.Identity()
        self.pool = nn.AvgPool2d(2) if half else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.pool(self.branch(x)) + self.shortcut(self.pool(x))
        return added


class WganTrunk(nn.Module):
    """Images [B, C, H, W] to features [B, width]: two blocks that halve, two that do not, ReLU, mean over places."""

    def __init__(self, n_channels: int, width: int, norm: Norm) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            CriticBlock(n_channels, width, norm, first=True, half=True),
            CriticBlock(width, width, norm, half=True),
            CriticBlock(width, width, norm),
            CriticBlock(width, width, norm),
        )
        self.n_features = width

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.blocks(x)).mean((2, 3))


@dataclass(frozen=True)
class Resgan(Network):
    """The residual pair for 32x32 images: seven masked layers against a ResNet-18 or the critic of WGAN-GP.

    Args:
        n_f: channels of the generator's blocks.
        n_d: channels of the critic's first stage, and 2, 4 and 8 times as many in later ones; of ``critic=wgan`` half
            the channels of all blocks.
        n_z: noise entries, the label's one-hot included.
        critic: the critic's trunk, which is also the solver's: resnet18, that of the paper for ImageNet-50; or wgan,
            that of Gulrajani et al. (NIPS 2017) for CIFAR-10.
    """

    name: ClassVar[str] = "resgan"
    image_size: ClassVar[int | None] = 32
    mean: ClassVar[float] = 0.5
    std: ClassVar[float] = 0.5
    n_blocks: ClassVar[int] = 3
    n_f: Count = 64
    n_d: Count = 64
    n_z: Count = 128
    critic: Literal["resnet18", "wgan"] = "resnet18"

    def trunk(self, image_shape: Shape, *, norm: Norm = "batch") -> nn.Module:
        """The critic's trunk, which is also the solver's: features [B, 32 n_d], of ``critic=wgan`` [B, 2 n_d]."""
        self.check(image_shape)
        if self.critic == "wgan":
            return WganTrunk(image_shape[0], 2 * self.n_d, norm)
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
        n_d: channels of the critic's first stage, and 2, 4 and 8 times as many in later ones; of ``critic=wgan`` half
            the channels of all blocks.
        n_z: noise entries, the label's one-hot included.
        critic: the critic's trunk: resnet18 or wgan.
    """

    name: ClassVar[str] = "resgan64"
    image_size: ClassVar[int | None] = 64
    n_blocks: ClassVar[int] = 4
