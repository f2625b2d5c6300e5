"""Labelled samples: what streams hand out and methods learn from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Of one sample: (C, H, W) of an image, (D,) of a feature vector.
Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Samples:
    """Images x, uint8 [N, C, H, W], or feature vectors, float32 [N, D], and their stream labels y, int64 [N].

    Not to be written to.
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def some(self, n: int | None, generator: torch.Generator) -> Samples:
        """``n`` random samples in random order; all, as they stand, where ``n`` is None or there are no more."""
        if n is None or n >= len(self):
            return self
        rows = torch.randperm(len(self), generator=generator)[:n].to(self.y.device)
        return Samples(self.x[rows], self.y[rows])
