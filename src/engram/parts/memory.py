"""Stored real samples: the only place where a method may keep them, so that they can be counted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from engram.core.contract import n_bytes
from engram.core.samples import Samples, Shape
from engram.errors import ConfigError

CHUNK = 1000


def herded(features: Tensor, n: int) -> Tensor:
    """Rows [min(n, N)] of ``features`` [N, D], N and n >= 1, in the order of their choice.

    Each is the one that brings the mean so far closest to the mean of all.

    Herding (Rebuffi et al., CVPR 2017, arXiv 1611.07725, Algorithm 4) of features as they are; of equals the first.
    """
    mean, total = features.mean(0), torch.zeros_like(features[0])
    free = torch.ones(len(features), dtype=torch.bool, device=features.device)
    chosen = []
    for k in range(1, min(n, len(features)) + 1):
        distance = ((total + features) / k - mean).square().sum(1)
        best = torch.where(free, distance, torch.inf).argmin()
        free[best] = False
        total = total + features[best]
        chosen.append(best)
    return torch.stack(chosen)


def k_centre(x: Tensor, n: int) -> Tensor:
    """Rows [n] of ``x`` [N, D]: 0, then always the one with the largest Euclidean distance to those chosen."""
    rows = [0]
    squares = x.square().sum(1)
    nearest = torch.full_like(squares, torch.inf)
    while len(rows) < n:
        nearest = torch.minimum(nearest, squares - 2.0 * (x @ x[rows[-1]]) + squares[rows[-1]])
        nearest[rows[-1]] = -torch.inf
        rows.append(int(nearest.argmax()))
    return torch.tensor(rows, device=x.device)


class SampleMemory(nn.Module):
    """Images uint8 [M, C, H, W], or feature vectors float32 [M, D], and labels int64 [M], as buffers.

    Args:
        image_shape: (C, H, W), or (D,).
        budget: most samples ever held; None bounds nothing.
    """

    def __init__(self, image_shape: Shape, budget: int | None = None) -> None:
        super().__init__()
        self.image_shape, self.budget = tuple(image_shape), budget
        kind = torch.uint8 if len(self.image_shape) == 3 else torch.float32
        self.images: Tensor
        self.labels: Tensor
        self.register_buffer("images", torch.empty((0, *self.image_shape), dtype=kind))
        self.register_buffer("labels", torch.empty((0,), dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.labels)

    def structure(self) -> int:
        """Number of samples held."""
        return len(self)

    def rebuild(self, size: int) -> None:
        """Room for ``size`` samples, for a state dict to fill."""
        self.images = self.images.new_empty((size, *self.image_shape))
        self.labels = self.labels.new_empty((size,))

    def storage_bytes(self) -> dict[str, int]:
        """Bytes of samples and labels."""
        return {"exemplars": n_bytes(self.buffers())}

    def append(self, other: SampleMemory) -> None:
        """Hold the samples of ``other`` too, behind those held."""
        self.images = torch.cat([self.images, other.images])
        self.labels = torch.cat([self.labels, other.labels])

    def even(self) -> Samples:
        """All samples, each class as often as any other: rows are repeated where one has fewer. Not of an empty one."""
        rows = [(self.labels == c).nonzero().flatten() for c in self.labels.unique().tolist()]
        most = max(len(r) for r in rows)
        even = torch.cat([r[torch.arange(most, device=r.device) % len(r)] for r in rows])
        return Samples(self.images[even], self.labels[even])

    def add_random(self, data: Samples, per_class: int, generator: torch.Generator) -> None:
        """Store ``per_class`` random samples of each class in ``data``; classes already held shrink to as many.

        A store that shrinks keeps the first ones of a random order, so what stays is a random choice too.
        """

        def choose(rows: Tensor) -> Tensor:
            return rows[torch.randperm(len(rows), generator=generator)[:per_class].to(rows.device)]

        self._add(data, per_class, choose)

    def add_herded(self, data: Samples, per_class: int, features: Callable[[Tensor], Tensor]) -> None:
        """As `add_random`, with the first ``per_class`` samples of each class that `herded` names.

        Args:
            data: new samples.
            per_class: how many of each class.
            features: from stored samples, as in ``data``, to [B, D].
        """

        def choose(rows: Tensor) -> Tensor:
            return rows[herded(torch.cat([features(data.x[part]) for part in rows.split(CHUNK)]), per_class)]

        self._add(data, per_class, choose)

    def _add(self, data: Samples, per_class: int, choose: Callable[[Tensor], Tensor]) -> None:
        images, labels = [], []
        for c in self.labels.unique().tolist():
            rows = (self.labels == c).nonzero().flatten()[:per_class]
            images.append(self.images[rows])
            labels.append(self.labels[rows])
        for c in data.y.unique().tolist():
            rows = (data.y == c).nonzero().flatten()
            rows = choose(rows)
            images.append(data.x[rows])
            labels.append(data.y[rows])
        total = sum(len(part) for part in labels)
        if self.budget is not None and total > self.budget:
            raise ConfigError(
                f"a memory must hold at most its budget of {self.budget} samples, got {total}: store fewer a class."
            )
        self.images, self.labels = torch.cat(images), torch.cat(labels)
