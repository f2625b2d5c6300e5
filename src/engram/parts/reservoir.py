"""A memory that holds a random sample of everything presented so far, filled while a task is learned."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from engram.core.samples import Samples, Shape
from engram.parts.memory import SampleMemory


class Reservoir(SampleMemory):
    """Reservoir sampling (Vitter, ACM TOMS 11(1), 1985, Algorithm R): each presentation is as likely to be held.

    An image that is presented twice may be held twice, and counts as often.

    Args:
        image_shape: (C, H, W), or (D,).
        budget: most samples ever held, >= 1.
    """

    seen: Tensor

    def __init__(self, image_shape: Shape, budget: int) -> None:
        super().__init__(image_shape, budget)
        self.size = budget
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def admit(self, u: Tensor) -> dict[int, int]:
        """Count a batch as presented, with one uniform number [B] in [0, 1) a sample.

        Returns:
            For each slot that gets a new sample, which row of the batch; slots behind those held follow them directly.
        """
        n, chosen = int(self.seen), {}
        for row, draw in enumerate(u.tolist()):
            n += 1
            slot = n - 1 if n <= self.size else int(draw * n)
            if slot < self.size:
                chosen[slot] = row
        self.seen.fill_(n)
        return chosen

    def put(self, slots: Mapping[int, int], x: Tensor, y: Tensor) -> Tensor:
        """Store samples ``x`` [n, ...], as they are kept, with labels ``y`` [n] in the slots of :meth:`admit`.

        Returns:
            The slots, int64 [n].
        """
        at = torch.tensor(list(slots), dtype=torch.int64, device=self.labels.device)
        grown = max([len(self), *(slot + 1 for slot in slots)]) - len(self)
        if grown:
            self.images = torch.cat([self.images, self.images.new_zeros((grown, *self.image_shape))])
            self.labels = torch.cat([self.labels, self.labels.new_zeros(grown)])
        self.images[at], self.labels[at] = x, y
        return at

    def rows(self, u: Tensor) -> Tensor:
        """Rows [B] of samples drawn with replacement by uniform numbers [B] in [0, 1); not of an empty memory."""
        return (u * len(self)).long().clamp(max=len(self) - 1)

    def at(self, rows: Tensor) -> Samples:
        """The samples at ``rows``, as they are kept."""
        return Samples(self.images[rows], self.labels[rows])
