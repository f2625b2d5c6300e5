"""A plain convolutional network, pixels in [-1, 1]: no shortcuts, with or without batch normalisation.

In the style of K. Simonyan and A. Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR
2015: stages of two 3x3 convolutions, each followed by normalisation and ReLU, and 2x2 max pooling, which halves height
and width. Convolutions start at He et al. (ICCV 2015), N(0, 2 / fan_out); those without normalisation have biases.

Departures: normalisation, which the paper does not have; no dense layers before the output, since the images are small.
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


class PlainCnnTrunk(nn.Module):
    """Images [B, C, H, W] to features [B, F], F = widths[-1] * (H >> S) * (W >> S) with S stages."""

    def __init__(self, image_shape: Shape, widths: Sequence[int], norm: Norm) -> None:
        super().__init__()
        width, height, breadth = image_shape
        layers: list[nn.Module] = []
        for c_out in widths:
            for _ in range(2):
                layers.append(conv(width, c_out, 3, 1, bias=norm == "none"))
                if norm != "none":
                    layers.append(make_norm(norm, c_out))
                layers.append(nn.ReLU())
                width = c_out
            layers.append(nn.MaxPool2d(2))
            height, breadth = height // 2, breadth // 2
        self.layers = nn.Sequential(*layers)
        self.n_features = width * height * breadth

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.layers(x).flatten(1)
        return features


@dataclass(frozen=True)
class PlainCnn(Network):
    """Plain convolutional network: two 3x3 convolutions and max pooling a stage.

    Args:
        widths: channels of each stage.
        batch_norm: normalise after each convolution; false leaves normalisation out whatever a method asks for.
    """

    name: ClassVar[str] = "plain-cnn"
    image_size: ClassVar[int | None] = 32
    mean: ClassVar[float] = 0.5
    std: ClassVar[float] = 0.5
    widths: tuple[Count, ...] = (32, 64, 128)
    batch_norm: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.widths:
            raise ConfigError(
                "widths must have an entry for each stage, got none: give for example [8, 16, 32]."
            )

    def check(self, image_shape: Shape) -> None:
        """Images must survive a halving a stage; ``image_size`` is what they are brought to when none is asked for."""
        check_is_image(self.name, image_shape)
        least = 2 ** len(self.widths)
        if min(image_shape[1:]) < least:
            raise ConfigError(
                f"images must be at least {least}x{least} for {len(self.widths)} stages of network {self.name}, got "
                f"{image_shape[1]}x{image_shape[2]}: give fewer widths or a larger --image-size."
            )

    def trunk(self, image_shape: Shape, *, norm: Norm = "batch") -> nn.Module:
        """The network without its output layer."""
        self.check(image_shape)
        return PlainCnnTrunk(image_shape, self.widths, norm if self.batch_norm else "none")
