"""Wavelet scattering of images as vectors: :mod:`engram.networks.scattering`, with colour rule and logarithm.

Departures from Bruna and Mallat (2013), all options: opponent colours, and log(1 + |S| / floor) of each coefficient,
which brings the many small coefficients and the few large ones to one scale. Cost: see there; nothing is kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, get_args

from torch import nn

from engram.core.samples import Shape
from engram.errors import ConfigError
from engram.features.contract import Features, check_images
from engram.networks.scattering import Colours, ScatteringVectors


@dataclass(frozen=True)
class Scattering(Features):
    """Wavelet scattering of order two: nothing is learned.

    Args:
        J: scales; each halves the resolution. 2^J must not exceed the images' edge.
        L: angles.
        colours: of colour images: rgb, opponent (intensity, red against green, yellow against blue) or grey.
        floor: of the logarithm log(1 + |S| / floor) of the coefficients; 0 leaves them as they are.
    """

    name: ClassVar[str] = "scattering"
    block: ClassVar[int] = 16
    J: int = 2
    L: int = 8
    colours: Colours = "opponent"
    floor: float = 1e-3

    def __post_init__(self) -> None:
        if (
            self.J < 1
            or self.L < 1
            or not 0 <= self.floor < math.inf
            or self.colours not in get_args(Colours)
        ):
            raise ConfigError(
                f"scattering needs J >= 1, L >= 1, a finite floor >= 0 and colours out of "
                f"{', '.join(get_args(Colours))}, got {self.J}, {self.L}, {self.floor} and {self.colours!r}."
            )

    def module(self, image_shape: Shape) -> nn.Module:
        shape = check_images(self.name, image_shape)
        if min(shape[1:]) < 2**self.J:
            raise ConfigError(
                f"scattering with J = {self.J} needs images of at least {2**self.J} pixels squared, got "
                f"{shape[1]}x{shape[2]}: give a smaller --scattering.J, or --image-size {2**self.J} or more."
            )
        return ScatteringVectors(shape, self.J, self.L, self.colours, self.floor)
