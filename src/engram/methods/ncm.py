"""Nearest class mean: an image belongs to the class whose mean feature is nearest. Only sums are kept.

Source: T. Mensink, J. Verbeek, F. Perronnin, G. Csurka, "Distance-Based Image Classification: Generalizing to New
Classes at Near-Zero Cost", PAMI 2013, with the metric of the features as they are; with ``metric=cosine`` the
classifier "SimpleCIL" of D.-W. Zhou et al., arXiv 2303.07338 (2023).

Departures: features are what the stream hands out, pixels included; no metric is learned.
Cost: K d numbers; a pass over the samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from engram.core.contract import Context
from engram.methods.registry import Entry
from engram.parts import small
from engram.parts.one_pass import OnePass, PassOptions


@dataclass(frozen=True)
class NcmConfig(PassOptions):
    """Options of the nearest class mean.

    Args:
        metric: what nearest means: euclidean, the smallest distance; or cosine, the largest cosine.
    """

    metric: Literal["euclidean", "cosine"] = "euclidean"


class Ncm(OnePass):
    """The nearest of the classes' means."""

    Config = NcmConfig
    config: NcmConfig

    def __init__(self, config: NcmConfig, context: Context) -> None:
        super().__init__(config, context, "none")

    @cached_property
    def means(self) -> Tensor:
        """Means [k, d] of the classes that have samples."""
        return self.statistics.means[self.statistics.known]

    def scores(self, z: Tensor) -> Tensor:
        means = self.means
        if self.config.metric == "cosine":
            return F.normalize(z) @ F.normalize(means).T
        return z @ means.T - 0.5 * means.square().sum(1)  # -|z - mu|^2 / 2, without what all classes share


ENTRIES = {
    "ncm": Entry(
        Ncm,
        NcmConfig(),
        "nearest class mean: sums in one pass, no training",
        small={"euclidean": f"{small.PASS}, metric=euclidean", "cosine": f"{small.PASS}, metric=cosine"},
        skipped={("", "another_seed_another_run"): small.NO_SEED},
    )
}
