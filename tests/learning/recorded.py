"""A stand-in for CUDA graphs on a processor: operations are recorded, and done again over the same addresses.

As on an accelerator, everything that is not the content of a tensor is what it was when it was recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")


class Tape(TorchDispatchMode):
    """Keeps each operation, its arguments and what it returned."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.done.append((func, args, kwargs or {}, tensors(found)))
        return found

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, outs in self.done:
            held = {t.untyped_storage().data_ptr() for t in tensors((args, kwargs))}
            for into, value in zip(outs, tensors(func(*args, **kwargs)), strict=True):
                if into.untyped_storage().data_ptr() not in held:  # neither a view nor written in place
                    into.copy_(value.view_as(into))


def tensors(of: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(of) if isinstance(leaf, Tensor)]


def record(steps: Callable[[], T]) -> tuple[T, Callable[[], None]]:
    with Tape() as tape:
        found = steps()
    return found, tape.replay
