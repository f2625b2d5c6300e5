"""Fine-tuning written by hand: an epoch of a perceptron on images that lie on the device.

Plain PyTorch, no engram.

    python benchmarks/limit/finetune.py
"""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LR = 1e-3


def perceptron(real: Tensor, width: int, n_outputs: int) -> nn.Sequential:
    """Two hidden layers, for the entries of images ``real`` [N, ...] and on their device."""
    return nn.Sequential(
        nn.Linear(real[0].numel(), width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, n_outputs),
    ).to(real.device)


class Finetune:
    """A perceptron with two hidden layers, its optimiser, and an epoch of training.

    Args:
        real: images uint8 [N, C, H, W].
        labels: int64 [N].
        n_classes: outputs.
        width: units of a hidden layer.
        batch: samples a step.
    """

    def __init__(
        self, real: Tensor, labels: Tensor, n_classes: int, *, width: int = 256, batch: int = 64
    ) -> None:
        self.real, self.labels, self.batch = real, labels, batch
        self.net = perceptron(real, width, n_classes)
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=LR, fused=True)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Cross entropy [] of inputs [B, D] and labels [B]."""
        return F.cross_entropy(self.net(x), y)

    def epoch(self, order: Tensor) -> Tensor:
        """One pass over the samples in the given order int64 [N]; the mean loss []."""
        total = torch.zeros((), device=order.device)
        parts = order.split(self.batch)
        for rows in parts:
            loss = self.loss(self.real[rows].float().mul_(1 / 255).flatten(1), self.labels[rows])
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            total += loss.detach()
        return total / len(parts)


def main() -> None:
    """Seconds an iteration on random images."""
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    real = torch.randint(0, 256, (12000, 1, 28, 28), dtype=torch.uint8, generator=g)
    finetune = Finetune(real, torch.randint(0, 2, (12000,), generator=g), 2)
    for _ in range(3):
        began = time.perf_counter()
        loss = float(finetune.epoch(torch.randperm(12000, generator=g)))
        print(f"{(time.perf_counter() - began) / 188:.6f} s an iteration, loss {loss:.4f}")


if __name__ == "__main__":
    main()
