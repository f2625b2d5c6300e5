"""Elastic Weight Consolidation written by hand: an epoch of a perceptron, and the Fisher information at a task's end.

Plain PyTorch, no engram. The mathematics is that of engram's ``ewc`` (Kirkpatrick et al., PNAS 2017): cross entropy
among the task's labels, the gradient of the penalties of Eq. 3, one for each earlier task, Adam. The Fisher information
is per sample, with labels drawn from the prediction; backward passes of single samples are never made, since for a
linear layer the sum of squared outer products is one product of squares.

    cd benchmarks; python -m limit.ewc
"""

from __future__ import annotations

import time

import torch
from limit.finetune import LR, perceptron
from torch import Tensor
from torch.nn import functional as F


class Ewc:
    """A perceptron with two hidden layers, Fisher information and weights of each task that has ended.

    Args:
        real: images uint8 [N, C, H, W].
        labels: int64 [N], all in ``active``.
        n_classes: outputs.
        active: labels a .. b - 1 that compete in the softmax.
        width: units of a hidden layer.
        batch: samples a step.
        strength: lambda in Eq. 3.
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
        strength: float = 1000.0,
    ) -> None:
        self.real, self.labels, self.active = real, labels, active
        self.batch, self.strength = batch, strength
        self.net = perceptron(real, width, n_classes)
        self.theta = list(self.net.parameters())
        self.fishers: list[list[Tensor]] = []
        self.anchors: list[list[Tensor]] = []
        self.pull = [torch.zeros_like(p, requires_grad=False) for p in self.theta]
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
            x = self.real[rows].float().mul_(1 / 255).flatten(1)
            loss = self.loss(x, self.labels[rows])
            self.optimiser.zero_grad()
            loss.backward()
            with torch.no_grad():
                grads = [p.grad for p in self.theta]
                for fisher, anchor in zip(self.fishers, self.anchors, strict=True):
                    for p, a, pull in zip(self.theta, anchor, self.pull, strict=True):
                        torch.sub(p, a, out=pull)
                    torch._foreach_addcmul_(grads, fisher, self.pull, value=self.strength)
            self.optimiser.step()
            total += loss.detach()
        return total / len(parts)

    def pulled(self, i: int, p: Tensor, g: Tensor) -> Tensor:
        """The gradient ``g`` of parameter ``i``, at ``p``, with those of the penalties: for a compiled step."""
        for fisher, anchor in zip(self.fishers, self.anchors, strict=True):
            g = g + self.strength * fisher[i] * (p - anchor[i])
        return g

    @torch.no_grad()
    def end(self, u: Tensor) -> None:
        """After the task: its Fisher information and weights. ``u`` float64 [N, 1] in [0, 1) draws the labels."""
        (a, b), n = self.active, len(self.real)
        one, two, three = (self.net[i] for i in (0, 2, 4))
        fisher = [torch.zeros_like(p) for p in self.theta]
        for rows in torch.arange(n, device=self.real.device).split(500):
            x = self.real[rows].float().mul_(1 / 255).flatten(1)
            h1 = one(x).relu()
            h2 = two(h1).relu()
            logits = three(h2)[:, a:b]
            y = (logits.double().softmax(1).cumsum(1) < u[rows]).sum(1).clamp(max=b - a - 1)
            d3 = F.pad(F.one_hot(y, b - a) - logits.softmax(1), (a, three.out_features - b))
            d2 = (d3 @ three.weight) * (h2 > 0)
            d1 = (d2 @ two.weight) * (h1 > 0)
            for i, (delta, z) in enumerate(((d1, x), (d2, h1), (d3, h2))):
                square = delta.square()
                fisher[2 * i].addmm_(square.T, z.square())
                fisher[2 * i + 1] += square.sum(0)
        self.fishers.append([f / n for f in fisher])
        self.anchors.append([p.clone() for p in self.theta])


def main() -> None:
    """Seconds an iteration on random images, with four earlier tasks, and of a task's end."""
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    real = torch.randint(0, 256, (12000, 1, 28, 28), dtype=torch.uint8, generator=g)
    ewc = Ewc(real, torch.randint(8, 10, (12000,), generator=g), 10, (8, 10))
    for _ in range(4):
        began = time.process_time()
        ewc.end(torch.rand((12000, 1), dtype=torch.float64, generator=g))
        ended = time.process_time()
        loss = ewc.epoch(torch.randperm(12000, generator=g))
        step = (time.process_time() - ended) / 188
        print(f"{step:.6f} s an iteration, end {ended - began:.4f} s, loss {float(loss):.4f}")


if __name__ == "__main__":
    main()
