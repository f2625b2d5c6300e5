"""The loops by hand with each step as one compiled graph, from the rows on: the bound of compiled steps.

Plain PyTorch, no engram. Loss and gradient are those of the loop; Adam is written out, so that the compiler can put it
into the same kernels, except its powers, which would be taken anew for every few weights. Needs a release that takes
gradients within a compiled function.
"""

from __future__ import annotations

from typing import Any

import torch
from limit.finetune import LR
from torch import Tensor

ONE, TWO = 0.9, 0.999  # of Adam


class Compiled:
    """Epochs of a loop in compiled steps.

    Args:
        loop: has ``net``, ``real``, ``labels``, ``batch`` and ``loss``, and where its method touches gradients or
            movements ``pulled`` and ``moved``.
    """

    def __init__(self, loop: Any) -> None:
        self.loop, self.labels = loop, loop.labels
        self.theta = list(loop.net.parameters())
        self.mean, self.square = (
            [torch.zeros_like(p, requires_grad=False) for p in self.theta] for _ in range(2)
        )
        self.count, self.rate, self.share = 0, *(torch.zeros((), device=loop.real.device) for _ in range(2))
        torch._dynamo.config.trace_autograd_ops = True
        torch._inductor.config.size_asserts = False
        self.step = torch.compile(self.whole, fullgraph=True, dynamic=False)

    def epoch(self, order: Tensor) -> Tensor:
        """A step for each batch of the given rows int64 [n], a multiple of the batch; the mean loss []."""
        total = torch.zeros((), device=order.device)
        parts = order.view(-1, self.loop.batch)
        for rows in parts:
            self.count += 1
            self.rate.fill_(LR / (1 - ONE**self.count))
            self.share.fill_((1 - TWO**self.count) ** -0.5)
            self.step(self.loop.real, self.labels, rows, total)
        return total / len(parts)

    def whole(self, real: Tensor, labels: Tensor, rows: Tensor, total: Tensor) -> None:
        """One step; writes to weights and sums in place."""
        loss = self.loop.loss(real[rows].float().mul(1 / 255).flatten(1), labels[rows])
        grads = torch.autograd.grad(loss, self.theta)
        with torch.no_grad():
            total.add_(loss.detach())
            for i, (p, g) in enumerate(zip(self.theta, grads, strict=True)):
                pulled = self.loop.pulled(i, p, g) if hasattr(self.loop, "pulled") else g
                mean = self.mean[i].lerp_(pulled, 1 - ONE)
                square = self.square[i].mul_(TWO).addcmul_(pulled, pulled, value=1 - TWO)
                step = self.rate * mean / (square.sqrt() * self.share + 1e-8)
                p.sub_(step)
                if hasattr(self.loop, "moved"):
                    self.loop.moved(i, g, step)
