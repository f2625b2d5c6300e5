"""Synaptic Intelligence written by hand: an epoch of a perceptron on images that lie on the device.

Plain PyTorch, no engram. The mathematics is that of engram's ``si`` (Zenke et al., ICML 2017): cross entropy among
the task's labels, the path integral of Eq. 3 with the gradient of the loss alone, the gradient of the penalty of
Eq. 4, Adam; at the task's end the importance of Eq. 5, clamped at 0.

    cd benchmarks; python -m limit.si [width] [batch]
"""

from __future__ import annotations

import sys
import time

import torch
from limit.finetune import LR, perceptron
from torch import Tensor
from torch.nn import functional as F


class Si:
    """A perceptron with two hidden layers, what Synaptic Intelligence keeps of each weight, and an epoch of training.

    Args:
        real: images uint8 [N, C, H, W].
        labels: int64 [N], all in ``active``.
        n_classes: outputs.
        active: labels a .. b - 1 that compete in the softmax.
        width: units of a hidden layer.
        batch: samples a step.
        c, xi: strength and damping.
    """

    def __init__(
        self,
        real: Tensor,
        labels: Tensor,
        n_classes: int,
        active: tuple[int, int],
        *,
        width: int = 256,
        batch: int = 64,
        c: float = 1.0,
        xi: float = 1e-3,
    ) -> None:
        self.real, self.labels, self.active = real, labels, active
        self.batch, self.c, self.xi = batch, c, xi
        self.net = perceptron(real, width, n_classes)
        self.theta = list(self.net.parameters())
        self.omega, self.importance, self.reference, self.work, self.pull = (
            [torch.zeros_like(p, requires_grad=False) for p in self.theta] for _ in range(5)
        )
        self.optimiser = torch.optim.Adam(self.theta, lr=LR, fused=True)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Cross entropy [] among the active labels, of inputs [B, D] and labels [B]."""
        a, b = self.active
        return F.cross_entropy(self.net(x)[:, a:b], y - a)

    def epoch(self, order: Tensor) -> Tensor:
        """A step for each batch of the given rows int64 [n]; the mean loss []."""
        total = torch.zeros((), device=order.device)
        parts = order.split(self.batch)
        for rows in parts:
            loss = self.loss(self.real[rows].float().mul_(1 / 255).flatten(1), self.labels[rows])
            self.optimiser.zero_grad()
            loss.backward()
            with torch.no_grad():
                self.step()
            total += loss.detach()
        return total / len(parts)

    def step(self) -> None:
        """From the gradient of the loss to the weights' next values and their path integrals."""
        g = [p.grad for p in self.theta]
        for p, r, pull in zip(self.theta, self.reference, self.pull, strict=True):
            torch.sub(p, r, out=pull)
        for p, w, pull in zip(self.theta, self.importance, self.pull, strict=True):
            p.grad = torch.addcmul(p.grad, w, pull, value=2.0 * self.c, out=pull)
        torch._foreach_copy_(self.work, self.theta)
        self.optimiser.step()
        torch._foreach_sub_(self.work, self.theta)  # theta(t) - theta(t+1)
        torch._foreach_addcmul_(self.omega, g, self.work)

    def pulled(self, i: int, p: Tensor, g: Tensor) -> Tensor:
        """The gradient ``g`` of parameter ``i``, at ``p``, with that of the penalty: for a compiled step."""
        return g + 2.0 * self.c * self.importance[i] * (p - self.reference[i])

    def moved(self, i: int, g: Tensor, step: Tensor) -> None:
        """Parameter ``i``, whose gradient of the loss was ``g``, has moved by minus ``step``."""
        self.omega[i].add_(g * step)

    @torch.no_grad()
    def end(self) -> None:
        """After the task: importances, the new reference, and path integrals from 0 again."""
        for p, w, omega, r in zip(self.theta, self.importance, self.omega, self.reference, strict=True):
            w.add_(omega / ((p - r).square() + self.xi)).clamp_(min=0.0)
            r.copy_(p)
            omega.zero_()


def main(width: int = 256, batch: int = 64) -> None:
    """Seconds an iteration on random images, in a task that penalises."""
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    real = torch.randint(0, 256, (12000, 1, 28, 28), dtype=torch.uint8, generator=g)
    si = Si(real, torch.randint(2, 4, (12000,), generator=g), 4, (2, 4), width=width, batch=batch)
    for w, r, p in zip(si.importance, si.reference, si.theta, strict=True):
        w.fill_(0.1)
        r.copy_(p.detach())
    for _ in range(4):
        began = time.process_time()
        loss = float(si.epoch(torch.randperm(12000, generator=g)[: 20 * batch]))
        print(f"{(time.process_time() - began) / 20:.6f} s of processor time an iteration, loss {loss:.4f}")


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:]))
