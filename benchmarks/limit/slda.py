"""Linear discriminants in closed form written by hand: a pass over images that lie on the device, and the answer.

Plain PyTorch, no engram. The mathematics is that of engram's ``slda`` on pixels (Hayes and Kanan, CVPR-W 2020, in its
batch form): class means and the scatter within classes by the pairwise update of Chan, Golub and LeVeque (1983),
products in float32 and sums in float64; directions from the Cholesky factor of the shrunk covariance.

    cd benchmarks; python -m limit.slda
"""

from __future__ import annotations

import time

import torch
from torch import Tensor


class Slda:
    """Counts [K], means [K, d] and scatter [d, d], float64.

    Args:
        real: images uint8 [N, C, H, W].
        labels: int64 [N].
        n_classes: K.
        batch: samples at a time.
        eps: share of the mean variance that the covariance is shrunk towards.
    """

    def __init__(
        self, real: Tensor, labels: Tensor, n_classes: int, *, batch: int = 2000, eps: float = 1e-3
    ) -> None:
        self.real, self.labels, self.batch, self.eps = real, labels, batch, eps
        d, wide = real[0].numel(), {"dtype": torch.float64, "device": real.device}
        self.counts = torch.zeros(n_classes, **wide)
        self.means, self.scatter = torch.zeros(n_classes, d, **wide), torch.zeros(d, d, **wide)

    @torch.no_grad()
    def epoch(self, order: Tensor) -> Tensor:
        """A pass over the given rows int64 [n]; no loss, 0."""
        for rows in order.split(self.batch):
            x, y = self.real[rows].float().mul_(1 / 255).flatten(1), self.labels[rows]
            n = y.bincount(minlength=len(self.counts)).double()
            sums = torch.zeros_like(self.means).index_add_(0, y, x.double())
            means = sums / n.clamp(min=1.0)[:, None]
            away = x - means.float()[y]
            self.scatter += away.T @ away
            after = (self.counts + n).clamp(min=1.0)
            shift = (means - self.means) * (n > 0)[:, None]
            between = shift * (self.counts * n / after).sqrt()[:, None]
            self.scatter += between.T @ between
            self.means += shift * (n / after)[:, None]
            self.counts += n
        return torch.zeros(())

    @torch.no_grad()
    def end(self) -> tuple[Tensor, Tensor]:
        """Directions [d, k] and offsets [k] of the classes that have samples."""
        sigma = self.scatter / self.counts.sum()
        variance = sigma.diagonal().mean()
        sigma.mul_(1.0 - self.eps).diagonal().add_(self.eps * variance)
        means = self.means[self.counts > 0]
        directions = torch.cholesky_solve(means.T, torch.linalg.cholesky(sigma))
        return directions, -0.5 * (means.T * directions).sum(0)


def main() -> None:
    """Seconds of a pass over random images, and of the answer."""
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    real = torch.randint(0, 256, (12000, 1, 28, 28), dtype=torch.uint8, generator=g)
    slda = Slda(real, torch.randint(2, 4, (12000,), generator=g), 4)
    for _ in range(3):
        began = time.process_time()
        slda.epoch(torch.arange(12000))
        passed = time.process_time()
        slda.end()
        print(f"a pass {passed - began:.4f} s, the answer {time.process_time() - passed:.4f} s")


if __name__ == "__main__":
    main()
