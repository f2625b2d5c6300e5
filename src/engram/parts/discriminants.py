"""Linear discriminants from statistics of classes; of generated samples, they are a classifier for replay.

The rule is that of linear discriminant analysis with equally probable classes: directions Lambda mu_c, offsets
-1/2 mu_c^T Lambda mu_c, where Lambda inverts the covariance within classes after shrinkage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from engram.core.contract import Context
from engram.errors import ConfigError
from engram.networks.scattering import ScatteringVectors
from engram.parts.class_statistics import ClassStatistics, factor
from engram.parts.classifier import spread

Shrinkage = Literal["relative", "oas", "absolute"]

FLOOR = 1e-3  # of the logarithm, as of the features called scattering
MEMORY = 4.0  # GiB
BLOCK, AT_A_TIME = 500, 20  # samples in a product; images whose transform fits a cache


def shrunk(sigma: Tensor, n: float, shrinkage: Shrinkage, eps: float) -> Tensor:
    """``sigma`` [d, d] of ``n`` samples, which is overwritten, moved towards a multiple of the unit matrix."""
    variance = float(sigma.diagonal().mean()) or 1.0  # of constant features any multiple will do
    if shrinkage == "oas":
        square = float(sigma.square().mean())
        above = square + variance**2
        below = (n + 1) * (square - variance**2 / len(sigma))
        eps = 1.0 if below <= 0 else min(above / below, 1.0)
    sigma.mul_(1.0 - eps).diagonal().add_(eps * (1.0 if shrinkage == "absolute" else variance))
    return sigma


def linear_discriminants(
    statistics: ClassStatistics, shrinkage: Shrinkage, eps: float
) -> tuple[Tensor, Tensor]:
    """Directions [d, k] and offsets [k], float64, of the k classes that have samples."""
    s = statistics
    sigma = shrunk(s.within().div_(s.mass.sum()), float(s.counts.sum()), shrinkage, eps)
    means = s.means[s.known]
    directions = torch.cholesky_solve(means.T, factor(sigma, "give a larger eps"))
    return directions, -0.5 * (means.T * directions).sum(0)


class GeneratedDiscriminants(nn.Module):
    """Linear discriminants of scattering coefficients of generated samples: fitted anew, nothing of it is trained.

    Args:
        context: of the method; images only.
        scales, angles: J and L of the scattering, of opponent colours, with its logarithm.
        eps: share of the mean variance that the covariance is shrunk towards.

    Raises:
        ConfigError: coefficients that fit neither the images nor memory.
    """

    directions: Tensor
    offsets: Tensor

    def __init__(self, context: Context, *, scales: int, angles: int, eps: float) -> None:
        super().__init__()
        if len(context.image_shape) != 3:
            raise ConfigError(
                "solver=discriminants needs images, the samples are vectors: use solver=separate."
            )
        channels, *size = context.image_shape
        if min(size) <= 2**scales:
            raise ConfigError(
                f"solver_scales must be at most {int(math.log2(min(size) - 1))} for images of {size[0]}x{size[1]}, got "
                f"{scales}: give fewer."
            )
        self.eps, self.to_pixels = eps, context.network.to_pixels
        self.features = ScatteringVectors((channels, size[0], size[1]), scales, angles, "opponent", FLOOR)
        self._statistics()
        self.register_buffer("directions", torch.zeros(self.features.n_features, 0))
        self.register_buffer("offsets", torch.zeros(0))

    def _statistics(self) -> ClassStatistics:
        d = self.features.n_features
        try:
            return ClassStatistics(d, "pooled", "float32", MEMORY, None, 3)
        except ConfigError as error:
            raise ConfigError(
                f"statistics of {d} scattering coefficients must fit {MEMORY:g} GiB: give fewer solver_angles, or more "
                "solver_scales."
            ) from error

    @torch.no_grad()
    def fit(self, labels: Iterable[int], n: int, generate: Callable[[Tensor], Tensor]) -> None:
        """From ``n`` samples of each of ``labels``, 0 to K - 1.

        ``generate`` maps labels [B] to images [B, C, H, W] in the network's range.
        """
        statistics = self._statistics().to(self.offsets.device)
        for label in labels:
            statistics.grow(label + 1)
            for y in torch.full((n,), label, device=self.offsets.device).split(BLOCK):
                statistics.add(self._coefficients(generate(y)), y)
        directions, offsets = linear_discriminants(statistics, "relative", self.eps)
        self.directions, self.offsets = directions.float().contiguous(), offsets.float()

    def _coefficients(self, x: Tensor) -> Tensor:
        return torch.cat([self.features(part) for part in self.to_pixels(x).split(AT_A_TIME)])

    @torch.no_grad()
    def predict(self, x: Tensor, n_seen: int) -> Tensor:
        """Logits [B, n_seen] of images [B, C, H, W]; minus infinity where a class was not there to fit."""
        scores = self._coefficients(x) @ self.directions + self.offsets
        return spread(scores, (0, len(self.offsets)), n_seen)

    def structure(self) -> int:
        """Number of classes it was fitted to."""
        return len(self.offsets)

    def rebuild(self, n_classes: int) -> None:
        """Empty directions, for a state dict to fill."""
        self.directions = self.directions.new_zeros((self.features.n_features, n_classes))
        self.offsets = self.offsets.new_zeros(n_classes)
