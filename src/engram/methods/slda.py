"""Streaming linear discriminant analysis: class means and one covariance within classes, of fixed features.

T. L. Hayes and C. Kanan, "Lifelong Machine Learning with Deep Streaming Linear Discriminant Analysis", CVPR-W 2020,
arXiv 1909.01520 ("SLDA"), here in its batch form, which does not depend on the order of samples:

    Sigma = W / n,   Lambda = [ shrunk Sigma ]^-1,   score_c(z) = z^T Lambda mu_c - 1/2 mu_c^T Lambda mu_c

with W the scatter within classes of n samples, and all classes equally probable. Shrinkage "oas": Y. Chen, A. Wiesel,
Y. C. Eldar, A. O. Hero, IEEE Trans. Signal Processing 58, 2010, Eq. 23, as in "RanDumb" (A. Prabhu et al., NeurIPS
2024).

Departures: the released code starts Sigma at ones or at a first task's covariance, and adds samples one at a time;
``shrinkage=absolute, eps=1e-4`` is its (1 - eps) Sigma + eps I. The default measures eps in units of the mean
variance, so that it does not depend on the scale of features. With ``scatter=classes`` each class has a scatter of its
own, of which the sum is used, so that it can be forgotten; with ``balance=classes`` Sigma is the mean of the classes'
covariances.
Cost: K d + d^2 / 2 numbers (K d^2 / 2 with ``scatter=classes``); n d^2 additions and products a pass; one Cholesky
factor, d^3 / 3, when it is asked first after a task.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

from torch import Tensor

from engram.core.contract import Context
from engram.core.options import Share
from engram.errors import ConfigError
from engram.methods.registry import Entry
from engram.parts import small
from engram.parts.discriminants import Shrinkage, linear_discriminants
from engram.parts.one_pass import Balance, OnePass, PassOptions


@dataclass(frozen=True)
class SldaConfig(PassOptions):
    """Options of streaming linear discriminant analysis.

    Args:
        shrinkage: what the covariance is shrunk towards: relative, eps times the mean variance; absolute, towards
            eps; oas, towards the mean variance by a share that follows from the data.
        eps: share of what the covariance is shrunk towards; not used by oas.
        scatter: which scatter matrix is kept: pooled, one for all classes; or classes, one for each, so that a class
            can be forgotten.
        balance: whether each sample counts the same in the covariance, or each class.
    """

    shrinkage: Shrinkage = "relative"
    eps: Share = 1e-3
    scatter: Literal["pooled", "classes"] = "pooled"
    balance: Balance = "samples"


class Slda(OnePass):
    """Linear discriminants from means and a covariance that classes share."""

    Config = SldaConfig
    config: SldaConfig
    matrices: ClassVar = (3, 0)

    def __init__(self, config: SldaConfig, context: Context) -> None:
        if config.shrinkage != "oas" and config.eps == 0.0:
            raise ConfigError("eps must be > 0, or a covariance of few samples has no inverse: give 1e-4.")
        super().__init__(config, context, config.scatter)
        self.balance = config.balance

    @cached_property
    def discriminants(self) -> tuple[Tensor, Tensor]:
        """Directions Lambda mu_c [d, k] and offsets [k] of the classes that have samples."""
        return linear_discriminants(self.statistics, self.config.shrinkage, self.config.eps)

    def scores(self, z: Tensor) -> Tensor:
        directions, offsets = self.discriminants
        return z @ directions + offsets


ENTRIES = {
    "slda": Entry(
        Slda,
        SldaConfig(),
        "linear discriminants from class means and one covariance (Hayes and Kanan, CVPR-W 2020)",
        small={
            "relative": f"{small.PASS}, shrinkage=relative, eps=1e-3, scatter=pooled, balance=samples",
            "oas": f"{small.PASS}, precision=float64, shrinkage=oas, eps=1, scatter=classes, balance=classes",
        },
        skipped={("", "another_seed_another_run"): small.NO_SEED},
    )
}
