"""Frozen copies of networks, which answer as these did when the copy was made."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from engram.core.contract import n_bytes

if TYPE_CHECKING:
    from typing_extensions import Self


class FrozenCopy(nn.Module):
    """A deep copy of a network: no gradients, and in evaluation mode whatever mode its owner is put into.

    So its answers hold no dropout noise and no batch statistics, and its running statistics never move. It holds none
    until :meth:`learn` is called.

    Args:
        make: an empty network of the same kind, with ``structure`` and ``rebuild``, for a stored copy to fill.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        super().__init__()
        self.make = make
        self.module: Any = None

    def learn(self, net: nn.Module) -> None:
        """Hold a copy of ``net`` as it is now."""
        self.module = copy.deepcopy(net).requires_grad_(False).eval()

    def forget(self) -> None:
        """Hold none."""
        self.module = None

    @property
    def net(self) -> Any:
        """The copy."""
        if self.module is None:
            raise RuntimeError("a frozen copy must have been given a network, it has none")
        return self.module

    def train(self, mode: bool = True) -> Self:
        """Evaluation mode, always."""
        return super().train(False)

    def structure(self) -> Any:
        """That of the copy, if there is one."""
        return None if self.module is None else self.module.structure()

    def rebuild(self, structure: Any) -> None:
        """The shapes of ``structure``, for a state dict to fill."""
        self.module = None
        if structure is not None:
            old = self.make()
            old.rebuild(structure)
            self.learn(old)

    def storage_bytes(self) -> dict[str, int]:
        """Bytes of the copy."""
        return {"other": n_bytes(self.state_dict().values())}


class Teacher(FrozenCopy):
    """The frozen copy of a classifier."""

    @torch.no_grad()
    def forward(self, x: Tensor, active: tuple[int, int]) -> Tensor:
        """The copy's logits [B, b - a] of the labels a .. b - 1."""
        return self.net(x, active)
