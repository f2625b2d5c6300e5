"""Fine-tuning written by hand: an epoch of a perceptron on images that lie on the device.

Plain PyTorch, no engram.

    python benchmarks/limit/finetune.py
"""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BATCH, LR = 64, 1e-3


class Finetune:
    """A perceptron with two hidden layers of 256 units, its optimiser, and an epoch of training.

    Args:
        real: images uint8 [N, C, H, W].
        labels: int64 [N].
        n_classes: outputs.
    """

    def __init__(self, real: Tensor, labels: Tensor, n_classes: int) -> None:
        self.real, self.labels = real, labels
        n_inputs = real[0].numel()
        self.net = nn.Sequential(
            nn.Linear(n_inputs, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, n_classes)
        ).to(real.device)
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=LR, fused=True)

    def epoch(self, order: Tensor) -> Tensor:
        """One pass over the samples in the given order int64 [N]; the mean loss []."""
        total = torch.zeros((), device=order.device)
        parts = order.split(BATCH)
        for rows in parts:
            x = self.real[rows].float().mul_(1 / 255)
            loss = F.cross_entropy(self.net(x.flatten(1)), self.labels[rows])
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
