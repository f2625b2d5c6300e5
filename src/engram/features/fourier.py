"""Random Fourier features of pixels: their inner products approach a Gaussian kernel.

A. Rahimi, B. Recht: "Random Features for Large-Scale Kernel Machines", NeurIPS 2007, Sec. 3: with w ~ N(0, 2 gamma I)
and b ~ U(0, 2 pi), z(x) = sqrt(2 / D) cos(w^T x + b) has E z(x)^T z(y) = exp(-gamma |x - y|^2). As features of
continual learning without samples: Prabhu et al., "RanDumb", NeurIPS 2024 (arXiv 2402.08823).

Departures: none. Cost: D * C H W products an image; nothing is kept, since the seed gives w and b again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from engram import seeds
from engram.core.samples import Shape
from engram.errors import ConfigError
from engram.features.contract import Features, check_images


class RandomFourier(nn.Module):
    """sqrt(2 / D) cos(W x + b) of pixels x in [0, 1]."""

    def __init__(self, n_inputs: int, n_features: int, gamma: float, seed: int) -> None:
        super().__init__()
        self.n_features = n_features
        g = seeds.generator(seed, "fourier-features")
        weight = torch.randn((n_features, n_inputs), generator=g) * math.sqrt(2 * gamma)
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", torch.rand(n_features, generator=g) * (2 * math.pi), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1).float() / 255
        z = nn.functional.linear(x, self.get_buffer("weight"), self.get_buffer("bias"))
        return z.cos() * math.sqrt(2 / self.n_features)


@dataclass(frozen=True)
class Fourier(Features):
    """Random Fourier features of pixels.

    Args:
        n_features: number of features, D.
        gamma: width of the kernel exp(-gamma |x - y|^2) between images with pixels in [0, 1].
        seed: seed of the random frequencies and phases.
    """

    name: ClassVar[str] = "fourier"
    n_features: int = 2000
    gamma: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_features < 1 or not 0 < self.gamma < math.inf or self.seed < 0:
            raise ConfigError(
                "fourier needs n_features >= 1, a finite gamma > 0 and a seed >= 0, got "
                f"{self.n_features}, {self.gamma} and {self.seed}."
            )

    def module(self, image_shape: Shape) -> nn.Module:
        n_inputs = math.prod(check_images(self.name, image_shape))
        return RandomFourier(n_inputs, self.n_features, self.gamma, self.seed)
