"""iCaRL written by hand: an epoch of a perceptron on images that lie on the device, and a task's end.

Plain PyTorch, no engram. The mathematics is that of engram's ``icarl`` (Rebuffi et al., CVPR 2017): binary cross
entropy of new labels, and of the old network's outputs for old ones, on new samples and exemplars (Algorithm 3), Adam;
at the task's end exemplars by herding (Algorithms 4 and 5) and their means, which classify (Algorithm 1).

    cd benchmarks; python -m limit.icarl
"""

from __future__ import annotations

import time

import torch
from limit.finetune import LR, perceptron
from torch import Tensor
from torch.nn import functional as F


class Icarl:
    """A perceptron with two hidden layers, the one before the task, and exemplars by class.

    Args:
        real: images uint8 [N, C, H, W] of the task.
        labels: int64 [N].
        exemplars: images uint8 [m, C, H, W] of each earlier class, in order of their choice.
        n_classes: outputs.
        width: units of a hidden layer.
        batch: samples a step.
        budget: exemplars K over all classes.
    """

    def __init__(
        self,
        real: Tensor,
        labels: Tensor,
        exemplars: list[Tensor],
        n_classes: int,
        *,
        width: int = 256,
        batch: int = 64,
        budget: int = 2000,
    ) -> None:
        self.exemplars, self.n_classes, self.n_old = exemplars, n_classes, len(exemplars)
        self.batch, self.budget = batch, budget
        old = [torch.full((len(e),), k, device=labels.device) for k, e in enumerate(exemplars)]
        self.real, self.labels = torch.cat([real, *exemplars]), torch.cat([labels, *old])
        self.net = perceptron(real, width, n_classes)
        self.teacher = perceptron(real, width, self.n_old).requires_grad_(False)
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=LR, fused=True)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The mean [] over samples and outputs, of inputs [B, D] and labels [B]."""
        with torch.no_grad():
            old = self.teacher(x).sigmoid()
        new = F.one_hot(y, self.n_classes)[:, self.n_old :].float()
        return F.binary_cross_entropy_with_logits(self.net(x), torch.cat([old, new], 1))

    def epoch(self, order: Tensor) -> Tensor:
        """A step for each batch of the given rows int64 [n] of samples, then exemplars; the mean loss []."""
        total = torch.zeros((), device=order.device)
        parts = order.split(self.batch)
        for rows in parts:
            loss = self.loss(self.real[rows].float().mul_(1 / 255).flatten(1), self.labels[rows])
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            total += loss.detach()
        return total / len(parts)

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Of length 1, [B, F], of images uint8 [B, C, H, W]."""
        parts = [self.net[:4](part.float().mul_(1 / 255).flatten(1)) for part in x.split(1000)]
        return F.normalize(torch.cat(parts))

    def end(self) -> Tensor:
        """After the task: exemplars of its classes, fewer of the others; the means [C, F] of all."""
        m = self.budget // self.n_classes
        self.exemplars = [e[:m] for e in self.exemplars]
        for label in range(self.n_old, self.n_classes):
            images = self.real[self.labels == label]
            self.exemplars.append(images[herd(self.features(images), m)])
        return F.normalize(torch.stack([self.features(e).mean(0) for e in self.exemplars]))


def herd(features: Tensor, m: int) -> Tensor:
    """Rows of ``features`` [N, F]: each the one that brings the mean so far closest to the mean of all."""
    mean, total = features.mean(0), torch.zeros_like(features[0])
    free = torch.ones(len(features), dtype=torch.bool, device=features.device)
    chosen = []
    for k in range(1, min(m, len(features)) + 1):
        distance = ((total + features) / k - mean).square().sum(1)
        best = distance.where(free, torch.inf).argmin()
        free[best] = False
        total = total + features[best]
        chosen.append(best)
    return torch.stack(chosen)


def main() -> None:
    """Seconds an iteration on random images, in a second task of two classes, and of a task's end."""
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    real = torch.randint(0, 256, (14000, 1, 28, 28), dtype=torch.uint8, generator=g)
    icarl = Icarl(real[2000:], torch.randint(2, 4, (12000,), generator=g), list(real[:2000].split(1000)), 4)
    for _ in range(3):
        began = time.process_time()
        loss = float(icarl.epoch(torch.randperm(14000, generator=g)))
        print(f"{(time.process_time() - began) / 219:.6f} s an iteration, loss {loss:.4f}")
    began = time.process_time()
    icarl.end()
    print(f"end {time.process_time() - began:.4f} s")


if __name__ == "__main__":
    main()
