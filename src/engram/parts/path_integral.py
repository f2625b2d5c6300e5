"""What each parameter contributed to lowering the loss, step by step (SI and RWalk)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from engram.parts.tables import Scratch, Table


class PathIntegral:
    """Sums of -g (theta(t+1) - theta(t)) over steps, with the optimiser's real displacement; it holds no state itself.

    ``names`` and ``g`` are of the step under way: parameters with a gradient, and the gradients of the loss alone.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.g: list[Tensor] = []
        self._theta: list[Tensor] = []
        self._before: list[Tensor] = []
        self._scratch = Scratch()

    @torch.no_grad()
    def before_step(self, grads: Mapping[str, Tensor], theta: Mapping[str, Tensor]) -> None:
        """Note gradients, which nobody may write to until the step is over, and where the parameters stand."""
        self.names, self.g = list(grads), list(grads.values())
        self._theta = [theta[n] for n in self.names]
        self._before = self._scratch.likes(self.names, self._theta)
        torch._foreach_copy_(self._before, self._theta)

    @torch.no_grad()
    def after_step(self, total: Table) -> None:
        """total <- total - g (theta(t+1) - theta(t)) for every parameter with a gradient."""
        torch._foreach_sub_(self._before, self._theta)
        torch._foreach_addcmul_(total.pick(self.names), self.g, self._before)
        self.g, self._before = [], []
