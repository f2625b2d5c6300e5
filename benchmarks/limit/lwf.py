"""Learning without Forgetting written by hand: an epoch of a perceptron on images that lie on the device.

Plain PyTorch, no engram. The mathematics is that of engram's ``lwf`` (Li and Hoiem, ECCV 2016) where classes arrive and
no task label is given: cross entropy among all labels, strength times the distillation at temperature T of the labels
known before, Adam.

    cd benchmarks; python -m limit.lwf
"""

from __future__ import annotations

import time

import torch
from limit.finetune import LR, perceptron
from torch import Tensor
from torch.nn import functional as F


class Lwf:
    """A perceptron with two hidden layers, and one as it was before the task, which has ``n_old`` outputs.

    Args:
        real: images uint8 [N, C, H, W].
        labels: int64 [N].
        n_classes, n_old: outputs now, and before.
        width: units of a hidden layer.
        batch: samples a step.
        strength, temperature: lambda_o and T.
    """

    def __init__(
        self,
        real: Tensor,
        labels: Tensor,
        n_classes: int,
        n_old: int,
        *,
        width: int = 256,
        batch: int = 64,
        strength: float = 1.0,
        temperature: float = 2.0,
    ) -> None:
        self.real, self.labels, self.n_old = real, labels, n_old
        self.batch, self.strength, self.temperature = batch, strength, temperature
        self.net = perceptron(real, width, n_classes)
        self.teacher = perceptron(real, width, n_old).requires_grad_(False)
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=LR, fused=True)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Cross entropy and distillation [] of inputs [B, D] and labels [B]."""
        with torch.no_grad():
            target = (self.teacher(x) / self.temperature).softmax(1)
        logits = self.net(x)
        kept = F.cross_entropy(logits[:, : self.n_old] / self.temperature, target)
        return F.cross_entropy(logits, y) + self.strength * kept

    def epoch(self, order: Tensor) -> Tensor:
        """A step for each batch of the given rows int64 [n]; the mean loss []."""
        total = torch.zeros((), device=order.device)
        parts = order.split(self.batch)
        for rows in parts:
            x = self.real[rows].float().mul_(1 / 255).flatten(1)
            loss = self.loss(x, self.labels[rows])
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            total += loss.detach()
        return total / len(parts)


def main() -> None:
    """Seconds an iteration on random images, in a second task of two classes."""
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    real = torch.randint(0, 256, (12000, 1, 28, 28), dtype=torch.uint8, generator=g)
    lwf = Lwf(real, torch.randint(2, 4, (12000,), generator=g), 4, 2)
    for _ in range(3):
        began = time.process_time()
        loss = float(lwf.epoch(torch.randperm(12000, generator=g)))
        print(f"{(time.process_time() - began) / 188:.6f} s an iteration, loss {loss:.4f}")


if __name__ == "__main__":
    main()
