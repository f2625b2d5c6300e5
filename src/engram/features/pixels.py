"""Pixels as they are: the features of a method that is given images flattened."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from engram.core.samples import Shape
from engram.features.contract import Features, check_images


class Flat(nn.Module):
    """Pixels / 255 - 1/2, flattened."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.n_features = n_features

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).float() / 255 - 0.5


@dataclass(frozen=True)
class Pixels(Features):
    """Pixels, flattened, from -1/2 to 1/2."""

    name: ClassVar[str] = "pixels"

    def module(self, image_shape: Shape) -> nn.Module:
        return Flat(math.prod(check_images(self.name, image_shape)))
