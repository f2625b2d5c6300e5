"""Synaptic Intelligence written by hand: an epoch of a perceptron on images that lie on the device.

Plain PyTorch, no engram. The mathematics is that of engram's ``si`` (Zenke et al., ICML 2017): cross entropy among
the task's labels, the path integral of Eq. 3 with the gradient of the loss alone, the gradient of the penalty of
Eq. 4, Adam; at the task's end the importance of Eq. 5, clamped at 0.

`CompiledSi` is the same with all of a step, from the rows on, in one graph that PyTorch's compiler makes: the bound of
compiled steps. It writes forward, backward and Adam out by hand.

    python benchmarks/limit/si.py [width] [batch] [compiled]
"""

from __future__ import annotations

import sys
import time
from typing import Any

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


class CompiledSi(Si):
    """As `Si`; a step is one compiled graph over batches of one size."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.mean, self.square = (
            [torch.zeros_like(p, requires_grad=False) for p in self.theta] for _ in range(2)
        )
        self.count = torch.zeros((), device=self.theta[0].device)
        self.compiled = torch.compile(self.whole, fullgraph=True, dynamic=False)

    def epoch(self, order: Tensor) -> Tensor:
        total = torch.zeros((), device=order.device)
        theta = [p.detach() for p in self.theta]
        parts = order.split(self.batch)
        with torch.no_grad():
            for rows in parts:
                self.compiled(self.real, self.labels, rows, total, theta, self.count)
        return total / len(parts)

    def whole(
        self, real: Tensor, labels: Tensor, rows: Tensor, total: Tensor, theta: list[Tensor], count: Tensor
    ) -> None:
        """One step; writes to all tensors in place."""
        (a, b), (one, two), n = self.active, (0.9, 0.999), len(rows)
        w1, b1, w2, b2, w3, b3 = theta
        x = real[rows].float().mul(1 / 255).flatten(1)
        y = labels[rows] - a
        h1 = F.relu(F.linear(x, w1, b1))
        h2 = F.relu(F.linear(h1, w2, b2))
        logits = F.linear(h2, w3, b3)[:, a:b]
        logs = F.log_softmax(logits, 1)
        total.add_(-logs.gather(1, y[:, None]).mean())
        d3 = F.pad((logs.exp() - F.one_hot(y, b - a)) / n, (a, w3.shape[0] - b))
        d2 = (d3 @ w3) * (h2 > 0)
        d1 = (d2 @ w2) * (h1 > 0)
        grads = d1.t() @ x, d1.sum(0), d2.t() @ h1, d2.sum(0), d3.t() @ h2, d3.sum(0)
        count.add_(1)
        for i, (p, g) in enumerate(zip(theta, grads, strict=True)):
            pulled = g + 2.0 * self.c * self.importance[i] * (p - self.reference[i])
            mean = self.mean[i].lerp_(pulled, 1 - one)
            square = self.square[i].mul_(two).addcmul_(pulled, pulled, value=1 - two)
            root = (square / (1 - two**count)).sqrt()
            moved = LR / (1 - one**count) * mean / (root + 1e-8)
            p.sub_(moved)
            self.omega[i].add_(g * moved)


def main(width: int = 256, batch: int = 64, compiled: str = "") -> None:
    """Seconds an iteration on random images, in a task that penalises."""
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    real = torch.randint(0, 256, (12000, 1, 28, 28), dtype=torch.uint8, generator=g)
    si = (CompiledSi if compiled else Si)(
        real, torch.randint(2, 4, (12000,), generator=g), 4, (2, 4), width=width, batch=batch
    )
    for w, r, p in zip(si.importance, si.reference, si.theta, strict=True):
        w.fill_(0.1)
        r.copy_(p.detach())
    for _ in range(4):
        began = time.process_time()
        loss = float(si.epoch(torch.randperm(12000, generator=g)[: 20 * batch]))
        print(f"{(time.process_time() - began) / 20:.6f} s of processor time an iteration, loss {loss:.4f}")


if __name__ == "__main__":
    main(*(int(a) if a.isdigit() else a for a in sys.argv[1:]))
