"""Batches of one epoch: which rows of which pool each update of each step reads, and its noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from engram import seeds
from engram.core.contract import Batch, Phase, Samples, Update
from engram.errors import ConfigError


class Feeder:
    """Batches of one epoch: which rows of which pool each update of each step reads.

    Args:
        phase: declares sizes and order.
        pools: samples by name, on the device.
        normalise: maps stored pixels to the network's range and leaves feature vectors as they are.
        seed, names: name this epoch's generators.
    """

    def __init__(
        self,
        phase: Phase,
        pools: Mapping[str, Samples],
        normalise: Callable[[Tensor], Tensor],
        seed: int,
        names: tuple[object, ...],
    ) -> None:
        self.phase, self.pools, self.normalise = phase, pools, normalise
        used = {name for update in phase.updates for name in update.pools}
        missing = sorted(used - set(pools))
        if missing:
            raise ConfigError(
                f"every pool that phase {phase.name!r} reads must exist, {missing} do not: return them from pools()."
            )
        n_primary = len(pools[phase.primary])
        size = self._size(phase.primary)
        self.n_steps = phase.steps_per_epoch or math.ceil(n_primary / size)
        self.full = self.n_steps * size if phase.steps_per_epoch else n_primary
        device = pools[phase.primary].x.device
        self.noise = seeds.generator(seed, "noise", *names, device=device)
        self.shuffle = seeds.generator(seed, "chunks", *names)
        self.rows = {name: self._rows(name, seed, names).to(device) for name in sorted(used)}
        self.device = device
        self.step = -1
        self.drawn: dict[str, tuple[Tensor, Tensor]] = {}
        self.mixed: dict[tuple[str, ...], tuple[Tensor, Tensor]] = {}

    def _rows(self, name: str, seed: int, names: tuple[object, ...]) -> Tensor:
        """Row numbers of one pool for the whole epoch: as many shuffles, one after another, as it takes."""
        n = len(self.pools[name])
        if n == 0:
            raise ConfigError(
                f"pool {name!r} must hold samples, it is empty: check the stream or the method."
            )
        needed = self._stop(name, self.n_steps - 1)
        if not self.phase.shuffle:
            return torch.arange(needed) % n
        g = seeds.generator(seed, "order", name, *names)
        return torch.cat([torch.randperm(n, generator=g) for _ in range(math.ceil(needed / n))])[:needed]

    def _size(self, name: str) -> int:
        return self.phase.sizes.get(name, self.phase.batch_size)

    def _stop(self, name: str, step: int) -> int:
        """Where a step's rows end; a pool of the primary pool's size follows its short last batch."""
        stop = (step + 1) * self._size(name)
        return min(stop, self.full) if self._size(name) == self._size(self.phase.primary) else stop

    def _draw(self, name: str, step: int) -> tuple[Tensor, Tensor]:
        if name not in self.drawn:
            rows = self.rows[name][step * self._size(name) : self._stop(name, step)]
            pool = self.pools[name]
            self.drawn[name] = (self.normalise(pool.x.index_select(0, rows)), pool.y.index_select(0, rows))
        return self.drawn[name]

    def batch(self, update: Update, step: int) -> Batch:
        """The batch of ``update`` in step ``step``; steps must be asked in order."""
        if step != self.step:
            self.step, self.drawn, self.mixed = step, {}, {}
        if len(update.pools) == 1 and update.chunk is None:
            x, y = self._draw(update.pools[0], step)
        else:
            x, y = self._mixed(update, step)
        noise = {
            name: (torch.randn if n.kind == "normal" else torch.rand)(
                (len(y), *n.shape), generator=self.noise, device=self.device
            )
            for name, n in update.noise.items()
        }
        return Batch(x, y, noise)

    def _mixed(self, update: Update, step: int) -> tuple[Tensor, Tensor]:
        if update.pools not in self.mixed:
            parts = [self._draw(name, step) for name in update.pools]
            x, y = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
            if update.chunk is not None:
                order = torch.randperm(len(y), generator=self.shuffle).to(y.device)
                x, y = x[order], y[order]
            self.mixed[update.pools] = (x, y)
        x, y = self.mixed[update.pools]
        if update.chunk is None:
            return x, y
        k, n = update.chunk
        a, b = k * len(y) // n, (k + 1) * len(y) // n
        return x[a:b], y[a:b]
