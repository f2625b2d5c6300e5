"""Stored real samples: the only place where a method may keep them, so that they can be counted."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engram.errors import ConfigError
from engram.methods.base import Samples


class SampleMemory(nn.Module):
    """Images uint8 [M, C, H, W] and labels int64 [M], as buffers.

    Args:
        image_shape: (C, H, W).
        budget: most samples ever held; None bounds nothing.
    """

    def __init__(self, image_shape: tuple[int, int, int], budget: int | None = None) -> None:
        super().__init__()
        self.image_shape, self.budget = tuple(image_shape), budget
        self.images: Tensor
        self.labels: Tensor
        self.register_buffer("images", torch.empty((0, *self.image_shape), dtype=torch.uint8))
        self.register_buffer("labels", torch.empty((0,), dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.labels)

    def rebuild(self, size: int) -> None:
        """Room for ``size`` samples, for a state dict to fill."""
        device = self.images.device
        self.images = torch.empty((size, *self.image_shape), dtype=torch.uint8, device=device)
        self.labels = torch.empty((size,), dtype=torch.int64, device=device)

    def add_random(self, data: Samples, per_class: int, generator: torch.Generator) -> None:
        """Store ``per_class`` random samples of each class in ``data``; classes already held shrink to as many.

        A store that shrinks keeps the first ones of a random order, so what stays is a random choice too.
        """
        images, labels = [], []
        for c in self.labels.unique().tolist():
            rows = (self.labels == c).nonzero().flatten()[:per_class]
            images.append(self.images[rows])
            labels.append(self.labels[rows])
        for c in data.y.unique().tolist():
            rows = (data.y == c).nonzero().flatten()
            pick = torch.randperm(len(rows), generator=generator)[:per_class].to(rows.device)
            images.append(data.x[rows[pick]])
            labels.append(data.y[rows[pick]])
        total = sum(len(part) for part in labels)
        if self.budget is not None and total > self.budget:
            raise ConfigError(
                f"a memory must hold at most its budget of {self.budget} samples, got {total}: store fewer a class."
            )
        self.images, self.labels = torch.cat(images), torch.cat(labels)
