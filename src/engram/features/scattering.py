"""Wavelet scattering of images as vectors: :mod:`engram.networks.scattering`, with colour rule, logarithm and mirror.

Departures from Bruna and Mallat (2013), all options: opponent colours; log(1 + |S| / floor) of each coefficient, which
brings the many small ones and the few large ones to one scale; the average over an image and its mirror image, half of
which says it all; opponent colours at half the resolution. Coefficients stand for the centres of squares, not for their
corners, so that those of the mirror image are the same in another order, and cost nothing. Cost: see there; nothing is
kept.

A classifier in closed form that is trained on images and their mirror images has covariances without terms between what
a mirror keeps and what it turns round, and means without the latter. So the mirrored halves, d / 2 numbers of which the
covariance has a quarter of the size, give the answers of twice the samples, and of an average over both at test time.
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
        J: number of scales; each halves the resolution. 2^J must be smaller than the images' edge.
        L: number of angles.
        colours: how colour images are seen: rgb, opponent (intensity, red against green, yellow against blue) or grey.
        floor: the floor of the logarithm log(1 + |S| / floor) of the coefficients; 0 leaves them as they are.
        mirror: average over an image and its mirror image: for photographs, not for digits or letters. Halves D.
        coarse: places squared over which the two colours beside the intensity are averaged, with opponent colours; 1
            for none.
    """

    name: ClassVar[str] = "scattering"
    block: ClassVar[int] = 16
    J: int = 2
    L: int = 8
    colours: Colours = "opponent"
    floor: float = 1e-3
    mirror: bool = False
    coarse: int = 2

    def __post_init__(self) -> None:
        good = self.J >= 1 and self.L >= 1 and self.coarse >= 1 and 0 <= self.floor < math.inf
        if not good or self.colours not in get_args(Colours):
            raise ConfigError(
                f"scattering needs J, L and coarse >= 1, a finite floor >= 0 and colours out of "
                f"{', '.join(get_args(Colours))}, got {self.J}, {self.L}, {self.coarse}, {self.floor} and "
                f"{self.colours!r}."
            )

    def module(self, image_shape: Shape) -> nn.Module:
        shape = check_images(self.name, image_shape)
        if min(shape[1:]) <= 2**self.J:
            raise ConfigError(
                f"scattering with J = {self.J} needs images of more than {2**self.J} pixels squared, got "
                f"{shape[1]}x{shape[2]}: give a smaller --scattering.J, or --image-size {2**self.J + 1} or more."
            )
        options = self.J, self.L, self.colours, self.floor
        return ScatteringVectors(shape, *options, centred=True, mirror=self.mirror, coarse=self.coarse)
