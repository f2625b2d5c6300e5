"""FeCAM: the nearest class mean in a Mahalanobis distance with a covariance of its own for each class.

D. Goswami, Y. Liu, B. Twardowski, J. van de Weijer, "FeCAM: Exploiting the Heterogeneity of Class Distributions in
Exemplar-Free Continual Learning", NeurIPS 2023, arXiv 2309.14062. Features z are transformed entry by entry to z^beta
(Tukey), and

    Sigma_c + a1 V1 I + a2 V2 (1 1^T - I),    V1, V2 the means of Sigma_c's diagonal and of its other entries       (1)

is made a matrix of correlations C_c. The answer is the class of the smallest (z - mu_c)^T C_c^-1 (z - mu_c), z and
mu_c of unit length.

Departures: entries below 0, which ReLU features do not have, keep their sign; a Cholesky factor instead of a
pseudo-inverse, since (1) is positive definite where a class's features are not all the same; where they are, C_c is
the unit matrix.
Cost: K d^2 / 2 numbers, K d^2 more for factors when it is asked, and K d^2 operations an answer: for features of some
hundred entries. ``slda`` is the same idea with one covariance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from engram.core.contract import Context
from engram.core.options import NonNegative, Positive
from engram.methods.registry import Entry
from engram.parts import small
from engram.parts.class_statistics import factor
from engram.parts.one_pass import OnePass, PassOptions


@dataclass(frozen=True)
class FecamConfig(PassOptions):
    """Options of FeCAM; the defaults are the authors' for features after a ReLU.

    Args:
        beta: exponent of the Tukey transform, > 0; 1 for none.
        a1: weight of the mean variance that is added to the diagonal.
        a2: weight of the mean covariance that is added beside it; 0 for features of a vision transformer.
    """

    beta: Positive = 0.5
    a1: Positive = 1.0
    a2: NonNegative = 1.0


def correlations(sigma: Tensor, a1: float, a2: float) -> Tensor:
    """C_c [d, d] of (1), from a covariance [d, d] or a multiple of it."""
    d = len(sigma)
    variance = sigma.diagonal().mean()
    if not variance > 0:
        return torch.eye(d, dtype=sigma.dtype, device=sigma.device)
    beside = (sigma.sum() - d * variance) / max(d * (d - 1), 1)
    moved = sigma + a2 * beside
    moved.diagonal().add_(a1 * variance - a2 * beside)
    root = moved.diagonal().sqrt()
    return moved / root / root[:, None]


class Fecam(OnePass):
    """The nearest mean, each class with its own distance."""

    Config = FecamConfig
    config: FecamConfig
    matrices: ClassVar = (4, 1)

    def __init__(self, config: FecamConfig, context: Context) -> None:
        super().__init__(config, context, "classes")

    def features(self, x: Tensor) -> Tensor:
        x = x.to(self.statistics.precision)
        return x.abs().pow(self.config.beta) * x.sign()

    @cached_property
    def distances(self) -> list[tuple[Tensor, Tensor]]:
        """Mean [d] of unit length and lower Cholesky factor of C_c [d, d] of each class that has samples."""
        found = []
        for label in self.statistics.known.tolist():
            c = correlations(self.statistics.within(label), self.config.a1, self.config.a2)
            found.append((F.normalize(self.statistics.means[label], dim=0), factor(c, "give a larger a1")))
        return found

    def scores(self, z: Tensor) -> Tensor:
        z = F.normalize(z)
        ways = [
            torch.linalg.solve_triangular(lower, (z - mean).T, upper=False) for mean, lower in self.distances
        ]
        return torch.stack([-way.square().sum(0) for way in ways], 1)


ENTRIES = {
    "fecam": Entry(
        Fecam,
        FecamConfig(),
        "nearest mean with a covariance a class (Goswami et al., NeurIPS 2023)",
        small={
            "relu": f"{small.PASS}, beta=0.5, a1=1, a2=1",
            "plain": f"{small.PASS}, beta=1, a1=0.1, a2=0",
        },
        skipped={("", "another_seed_another_run"): small.NO_SEED},
    )
}
