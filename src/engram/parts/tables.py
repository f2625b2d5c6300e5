"""One tensor for each named parameter, as state: importances, anchors, running sums; also work tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

Shapes = list[list[Any]]


class Table(nn.Module):
    """Tensors by parameter name, each [*] of its parameter's shape, kept as buffers.

    An entry that was never put is absent, which readers take for zero.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    @staticmethod
    def _key(name: str) -> str:
        return name.replace(".", "/")

    def __contains__(self, name: str) -> bool:
        return self._key(name) in self._buffers

    def __getitem__(self, name: str) -> Tensor:
        value = self._buffers[self._key(name)]
        assert value is not None
        return value

    def put(self, name: str, value: Tensor) -> None:
        """Hold ``value`` itself, not a copy, under ``name``."""
        if name not in self:
            self.names.append(name)
        self.register_buffer(self._key(name), value)

    def pick(self, names: Iterable[str]) -> list[Tensor]:
        """The tensors of ``names``, in their order."""
        return [self[n] for n in names]

    def values(self) -> list[Tensor]:
        """All tensors, in the order in which they came."""
        return self.pick(self.names)

    @torch.no_grad()
    def pad(
        self,
        parameters: Mapping[str, Tensor],
        fill: float | Literal["value"],
        *,
        only_known: bool = False,
    ) -> None:
        """Fit the shapes of ``parameters``, which may have grown: old entries stay, new ones are ``fill``.

        Args:
            parameters: by name, each [*]; rows are appended, never moved.
            fill: a number, or ``"value"`` for the parameter's own present values (the anchor of a new row).
            only_known: leave names out that have no entry yet.
        """
        for name, p in parameters.items():
            old = self._buffers.get(self._key(name))
            if (old is None and only_known) or (old is not None and old.shape == p.shape):
                continue
            new = p.detach().clone() if fill == "value" else torch.full_like(p, fill, requires_grad=False)
            if old is not None:
                new[tuple(slice(0, n) for n in old.shape)] = old
            self.put(name, new)

    def hold(self, values: Mapping[str, Tensor]) -> None:
        """Keep copies of ``values`` as they stand, and nothing else."""
        self.clear()
        for name, value in values.items():
            self.put(name, value.detach().clone())

    def clear(self) -> None:
        """Hold nothing."""
        self.rebuild([])

    @torch.no_grad()
    def zero(self) -> None:
        """Set every entry to 0, in place."""
        for value in self.values():
            value.zero_()

    @torch.no_grad()
    def copy_from(self, parameters: Mapping[str, Tensor]) -> None:
        """Hold copies of the present values, never aliases, of the names that have an entry."""
        for name in self.names:
            self[name].copy_(parameters[name])

    @torch.no_grad()
    def add(self, values: Mapping[str, Tensor], *, keep: float = 1.0, factor: float = 1.0) -> None:
        """Every entry becomes ``keep`` times itself, and those of ``values`` get ``factor`` times these on top."""
        for held in self.values() if keep != 1.0 else ():
            held.mul_(keep)
        for name, value in values.items():
            self[name].add_(value, alpha=factor)

    def structure(self) -> Shapes:
        """Names and shapes in order, as JSON: pairs, because stored JSON sorts keys."""
        return [[name, list(self[name].shape)] for name in self.names]

    def rebuild(self, shapes: Shapes) -> None:
        """Empty tensors of the given shapes, for a state dict to fill."""
        for name in self.names:
            delattr(self, self._key(name))
        self.names = []
        for name, shape in shapes:
            self.put(name, torch.zeros(shape))


class Tables(nn.ModuleList):
    """Tables that become more, such as one a task."""

    def __iter__(self) -> Iterator[Table]:
        return super().__iter__()  # type: ignore[return-value]

    def hold(self, values: Mapping[str, Tensor]) -> None:
        """One more table, with copies of ``values`` as they stand."""
        table = Table()
        table.hold(values)
        self.append(table)

    def structure(self) -> list[Shapes]:
        """That of each table."""
        return [table.structure() for table in self]

    def rebuild(self, shapes: list[Shapes]) -> None:
        """Tables of the given shapes, for a state dict to fill."""
        del self[:]
        for each in shapes:
            table = Table()
            table.rebuild(each)
            self.append(table)


class Scratch:
    """Work tensors by name, made once and written over in every step. Not state: nothing lasts beyond a
    step."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def like(self, name: str, model: Tensor) -> Tensor:
        """A tensor of ``model``'s shape, type and device, with whatever was last written there."""
        if torch.compiler.is_compiling():  # which finds places itself, and mostly needs none
            return torch.empty_like(model, requires_grad=False)
        held = self._held.get(name)
        if (
            held is None
            or held.shape != model.shape
            or held.dtype != model.dtype
            or held.device != model.device
        ):
            held = self._held[name] = torch.empty_like(model, requires_grad=False)
        return held

    def likes(self, names: Iterable[str], models: Iterable[Tensor]) -> list[Tensor]:
        """:meth:`like` for several names."""
        return [self.like(n, m) for n, m in zip(names, models, strict=True)]
