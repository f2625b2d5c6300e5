"""The pre-activation residual network for small images, pixels in [-1, 1].

K. He, X. Zhang, S. Ren, J. Sun: "Identity mappings in deep residual networks", ECCV 2016, arXiv 1603.05027. A 3x3
convolution without normalisation or non-linearity (the stem); stages of units BN - ReLU - 3x3 convolution - BN - ReLU -
3x3 convolution, added to the unit's input; BN - ReLU and global average pooling. From the second stage on the first
unit of a stage halves height and width. Convolutions start at He et al. (ICCV 2015), N(0, 2 / fan_out). It is the
network family of Lee et al., "Residual Continual Learning" (AAAI 2020); their depth is not known to us.

Departures: where a unit changes size or channels, its 1x1 projection reads the unit's input x, so that every shortcut
is one linear layer or none; the released `KaimingHe/resnet-1k-layers` projects what comes out of the first BN and ReLU.
Images become (pixel - 0.5) / 0.5 rather than being standardised by channel: all tasks of a stream share the range.
Without normalisation convolutions have biases, and the second one of a unit starts at 0, so that a unit starts as its
shortcut and depth does not blow the signal up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from engram.core.network import Network, Norm, check_is_image
from engram.core.options import Count
from engram.core.samples import Shape
from engram.errors import ConfigError
from engram.networks.layers import conv, make_norm


class PreactUnit(nn.Module):
    """x + F(x) of Fig. 1 (b), or the projection of x plus F(x): [B, C_in, H, W] to [B, C_out, H / s, W / s]."""

    def __init__(self, c_in: int, c_out: int, stride: int, norm: Norm) -> None:
        super().__init__()
        bias = norm == "none"
        self.bn1 = make_norm(norm, c_in)
        self.relu1 = nn.ReLU()
        self.conv1 = conv(c_in, c_out, 3, stride, bias=bias)
        self.bn2 = make_norm(norm, c_out)
        self.relu2 = nn.ReLU()
        self.conv2 = conv(c_out, c_out, 3, 1, bias=bias)
        if norm == "none":
            nn.init.zeros_(self.conv2.weight)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.shortcut = conv(c_in, c_out, 1, stride, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(self.relu1(self.bn1(x)))
        residual: Tensor = self.conv2(self.relu2(self.bn2(h)))
        return self.shortcut(x) + residual


class PreactResnetTrunk(nn.Module):
    """Images [B, C, H, W] to features [B, widths[-1]]."""

    def __init__(self, n_channels: int, units: Sequence[int], widths: Sequence[int], norm: Norm) -> None:
        super().__init__()
        self.stem = conv(n_channels, widths[0], 3, 1, bias=norm == "none")
        blocks: list[nn.Module] = []
        width = widths[0]
        for stage, (n, c_out) in enumerate(zip(units, widths, strict=True)):
            for i in range(n):
                blocks.append(PreactUnit(width, c_out, 2 if stage > 0 and i == 0 else 1, norm))
                width = c_out
        self.units = nn.Sequential(*blocks)
        self.bn = make_norm(norm, width)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.n_features = width

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.bn(self.units(self.stem(x))))
        features: Tensor = self.pool(h).flatten(1)
        return features


@dataclass(frozen=True)
class PreactResnet(Network):
    """Pre-activation residual network (He et al., ECCV 2016); 2 sum(units) + 2 layers, the head included.

    Args:
        units: residual units of each stage; 5, 5, 5 are 32 layers. A small one: 1, 1, 1 with widths 8, 16, 32.
        widths: channels of each stage.
    """

    name: ClassVar[str] = "preact-resnet"
    image_size: ClassVar[int | None] = 32
    mean: ClassVar[float] = 0.5
    std: ClassVar[float] = 0.5
    units: tuple[Count, ...] = (5, 5, 5)
    widths: tuple[Count, ...] = (16, 32, 64)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.units or len(self.units) != len(self.widths):
            raise ConfigError(
                f"units and widths must have an entry for each stage, got {len(self.units)} and {len(self.widths)}: "
                "give lists of one length, such as [1, 1, 1] and [8, 16, 32]."
            )

    def check(self, image_shape: Shape) -> None:
        """Images of every size fit; ``image_size`` is the one to which they are brought when none is asked for."""
        check_is_image(self.name, image_shape)

    def trunk(self, image_shape: Shape, *, norm: Norm = "batch") -> nn.Module:
        """The network without its output layer: features [B, widths[-1]]."""
        return PreactResnetTrunk(image_shape[0], self.units, self.widths, norm)
