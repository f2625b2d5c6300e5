"""Synaptic Intelligence written by hand: an epoch of a perceptron on images that lie on the device.

Plain PyTorch, no engram. The mathematics is that of engram's ``si`` (Zenke et al., ICML 2017): cross entropy among
the task's labels, the path integral of Eq. 3 with the gradient of the loss alone, the gradient of the penalty of
Eq. 4, Adam; at the task's end the importance of Eq. 5, clamped at 0.

    python benchmarks/limit/si.py [width] [batch]
"""

from __future__ import annotations

import sys
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LR = 1e-3


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
        n_inputs = real[0].numel()
        self.net = nn.Sequential(
            nn.Linear(n_inputs, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, n_classes),
        ).to(real.device)
        self.theta = list(self.net.parameters())
        self.omega, self.importance, self.reference, self.work, self.pull = (
            [torch.zeros_like(p, requires_grad=False) for p in self.theta] for _ in range(5)
        )
        self.optimiser = torch.optim.Adam(self.theta, lr=LR, fused=True)

    def epoch(self, order: Tensor) -> Tensor:
        """A step for each batch of the given rows int64 [n]; the mean loss []."""
        a, b = self.active
        total = torch.zeros((), device=order.device)
        parts = order.split(self.batch)
        for rows in parts:
            x = self.real[rows].float().mul_(1 / 255)
            loss = F.cross_entropy(self.net(x.flatten(1))[:, a:b], self.labels[rows] - a)
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
    for _ in range(3):
        began = time.perf_counter()
        loss = float(si.epoch(torch.randperm(12000, generator=g)[: 20 * batch]))
        print(f"{(time.perf_counter() - began) / 20:.6f} s an iteration, loss {loss:.4f}")


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:]))
