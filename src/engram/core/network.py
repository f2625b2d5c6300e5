"""What a method asks of a network: a trunk with features and, for generative methods, the shapes of a generator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from engram.core.origin import described
from engram.core.samples import Shape
from engram.core.values import Checked
from engram.errors import ConfigError

Norm = Literal["batch", "group", "none"]
Masking = Literal["weight", "unit", "none"]


@dataclass(frozen=True)
class Deconv:
    """A transposed convolution: output channels, kernel size, stride and paddings."""

    out: int
    kernel: int
    stride: int
    padding: int
    output_padding: int = 0


@dataclass(frozen=True)
class GeneratorShape:
    """Shapes of a generator: noise entries, layers in order, which may be masked, and the output layer.

    ``residual``: the layers after the first are blocks of two, each of which doubles the size and adds what it makes to
    its input, the stream; a norm follows each layer, on the stream where it ends a block. ``vectors``: it makes vectors
    [B, D] of any range instead of images in [-1, 1]; kernels are 1, so that a layer is dense. ``nearest``: all layers
    but the first read their input doubled in size, each pixel four times. ``arranged``: masked layers are arranged
    for a processor, see :mod:`engram.networks.arranged`.
    """

    n_z: int
    layers: tuple[Deconv, ...]
    output: Deconv
    vectors: bool = False
    residual: bool = False
    nearest: bool = False
    arranged: bool = False

    def feeds(self, i: int) -> list[int]:
        """The layers whose outputs add up to what layer ``i`` reads; none for the first, which reads the noise."""
        if not self.residual or i % 2 == 0:
            return [i - 1] if i else []
        return list(range(0, i, 2))

    def n_inputs(self, i: int, widths: Sequence[int]) -> int:
        """Channels that layer ``i`` reads where layers have ``widths``; the last of them is the output layer's."""
        return max((widths[j] for j in self.feeds(i)), default=self.n_z)


class Network(Checked, ABC):
    """A family of networks for one image shape. Concrete networks are frozen dataclasses: their fields are options."""

    name: ClassVar[str]
    image_size: ClassVar[int | None] = None
    mean: ClassVar[float] = 0.0
    std: ClassVar[float] = 1.0

    def describe(self) -> dict[str, Any]:
        """Name and options as JSON."""
        return {"name": self.name, "options": asdict(self) if is_dataclass(self) else {}}

    def source(self) -> dict[str, str] | None:
        """What code of one's own it is, see :func:`engram.core.origin.described`; None for engram's."""
        return described(type(self))

    def check(self, image_shape: Shape) -> None:
        """Raise ``ConfigError`` unless samples of ``image_shape``, (C, H, W) or (D,), fit."""
        size = self.image_size
        if size is not None:
            check_is_image(self.name, image_shape)
        if size is not None and image_shape[1:] != (size, size):
            raise ConfigError(
                f"images must be {size}x{size} for network {self.name}, got {image_shape[1]}x{image_shape[2]}: "
                f"give --image-size {size} or another network."
            )

    def normalise(self, x: Tensor) -> Tensor:
        """Pixels to the network's range: uint8 [N, C, H, W] to float ``(x / 255 - mean) / std``; vectors pass."""
        if x.dtype != torch.uint8:
            return x
        scale = 1.0 / (255.0 * self.std)
        return x.float().mul_(scale).sub_(self.mean / self.std)

    def to_pixels(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`normalise` for floats, rounded to uint8 and clipped to 0..255."""
        return (x * self.std + self.mean).mul(255.0).round_().clamp_(0, 255).to(torch.uint8)

    def to_stored(self, x: Tensor) -> Tensor:
        """What :meth:`normalise` made of a stream's samples, as they were: images become pixels, vectors pass."""
        return self.to_pixels(x) if x.dim() == 4 else x

    @abstractmethod
    def trunk(self, image_shape: Shape, *, norm: Norm = "batch") -> nn.Module:
        """A module from images [B, C, H, W], or vectors [B, D], to features [B, ``n_features``], initialised."""

    def generator(self, image_shape: Shape, *, mask: Masking) -> GeneratorShape:
        """The generator's shapes for masks per weight, per unit or none; ``ConfigError`` where the network has none."""
        raise ConfigError(
            f"the network must have a generator for this method, {self.name} has none: use dcgan (32x32), "
            "dcgan8 (8x8), or for vectors mlp."
        )


def check_is_image(network: str, shape: Shape) -> None:
    """Raise ``ConfigError`` where samples are feature vectors."""
    if len(shape) != 3:
        raise ConfigError(
            f"samples must be images [C, H, W] for network {network}, got shape {list(shape)}: use mlp for vectors."
        )


def n_features(trunk: nn.Module) -> int:
    """Width of a trunk's output."""
    width = trunk.n_features
    if not isinstance(width, int):
        raise ConfigError(
            f"a trunk must have an integer n_features, got {width!r}: set it in its constructor."
        )
    return width
