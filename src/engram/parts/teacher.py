"""A network's frozen copy, which answers as the network did when the copy was made."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Teacher(nn.Module):
    """A deep copy of ``module``: no gradients, and in evaluation mode whatever mode its owner is put into.

    So its answers hold no dropout noise and no batch statistics, and its running statistics never move.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Teacher:
        """Evaluation mode, always."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, *args: object) -> Tensor:
        return self.module(*args)
