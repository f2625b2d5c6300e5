"""A running average of weights, as state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage(nn.Module):
    """Exponential average of named parameters; its decay warms up, so that it soon forgets the values at the start.

    Each parameter's average is a buffer; between phases there is none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[str] = []
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def start(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Forget everything and begin at the parameters' present values."""
        self._clear()
        self.keys = list(parameters)
        for i, p in enumerate(parameters.values()):
            self.register_buffer(f"mean_{i}", p.detach().clone())
        self.get_buffer("count").zero_()

    def _clear(self) -> None:
        for i in range(len(self.keys)):
            delattr(self, f"mean_{i}")
        self.keys = []

    @property
    def means(self) -> list[Tensor]:
        """The averages, in order of ``keys``."""
        return [self.get_buffer(f"mean_{i}") for i in range(len(self.keys))]

    @torch.no_grad()
    def update(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        """Move towards the present values; early steps use min(decay, (1 + n) / (10 + n))."""
        n = self.get_buffer("count").add_(1).double()  # not read: no step waits for the device
        weight = 1.0 - ((1 + n) / (10 + n)).clamp(max=decay)
        for mean, key in zip(self.means, self.keys, strict=True):
            mean.lerp_(parameters[key].detach(), weight.to(mean.dtype))

    @torch.no_grad()
    def finish(
        self, parameters: Mapping[str, nn.Parameter], held: Mapping[str, Tensor] | None = None
    ) -> None:
        """Put the averages into the parameters, except where ``held`` (bool, same shape) is True, and forget them."""
        for key, mean in zip(self.keys, self.means, strict=True):
            p = parameters[key]
            if held and key in held:
                p.copy_(torch.where(held[key], p, mean))
            else:
                p.copy_(mean)
        self._clear()

    def structure(self) -> list[list[Any]]:
        """Parameter names and shapes in order; a list, since the order is that of the buffers."""
        return [[k, list(m.shape)] for k, m in zip(self.keys, self.means, strict=True)]

    def rebuild(self, shapes: Sequence[Sequence[Any]]) -> None:
        """Empty averages of the given shapes, for a state dict to fill."""
        self._clear()
        self.keys = [name for name, _ in shapes]
        for i, (_, shape) in enumerate(shapes):
            self.register_buffer(f"mean_{i}", torch.zeros(shape))
