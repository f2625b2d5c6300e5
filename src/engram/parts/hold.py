"""Weights that an earlier task needs, held bit for bit while others learn."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Hold:
    """Cuts gradients of held weights, and puts back what moments or weight decay moved without one.

    Args:
        masks: by parameter name, bool [*]; True is held.
        theta: the parameters by name, at the values that they are held at.
    """

    def __init__(self, masks: Mapping[str, Tensor], theta: Mapping[str, Tensor]) -> None:
        self.masks = masks
        self.theta = {name: theta[name].detach() for name in masks}
        self.kept = {name: value.clone() for name, value in self.theta.items()}

    def cut(self, grads: Mapping[str, Tensor]) -> None:
        """Set gradients of held weights to 0, in place; a select, for 0 times not-a-number is not-a-number."""
        for name, mask in self.masks.items():
            grads[name].masked_fill_(mask, 0.0)

    def put_back(self) -> None:
        """Give held weights the values that they are held at."""
        for name, mask in self.masks.items():
            torch.where(mask, self.kept[name], self.theta[name], out=self.theta[name])
