"""A variational autoencoder of linear layers: Kingma and Welling, ICLR 2014, arXiv 1312.6114.

Two hidden layers either way, as in van de Ven and Tolias (2019, arXiv 1904.07734). Pixels in [0, 1].
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from engram import seeds
from engram.core.samples import Shape


class Vae(nn.Module):
    """Encoder to a normal distribution [B, n_z] by mean and log variance, decoder to the logits of pixels.

    Args:
        image_shape: (C, H, W).
        hidden: width of the four hidden layers.
        n_z: entries of the code.
        seed: names the generator that weights are drawn from.
    """

    def __init__(self, image_shape: Shape, hidden: int, n_z: int, seed: int) -> None:
        super().__init__()
        self.image_shape, n = image_shape, math.prod(image_shape)
        with seeds.seeded(seed, "vae"):
            self.encoder = nn.Sequential(
                nn.Linear(n, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
            )
            self.mean, self.log_var = nn.Linear(hidden, n_z), nn.Linear(hidden, n_z)
            layers = (
                nn.Linear(n_z, hidden),
                nn.ReLU(),
                nn.Linear(hidden, hidden),
                nn.ReLU(),
                nn.Linear(hidden, n),
            )
            self.decoder = nn.Sequential(*layers)

    def loss(self, x: Tensor, noise: Tensor) -> Tensor:
        """Minus the evidence lower bound in nats, mean over the batch [], of pixels [B, C, H, W], noise [B, n_z]."""
        h = self.encoder(x.flatten(1))
        mean, log_var = self.mean(h), self.log_var(h)
        z = mean + noise * (0.5 * log_var).exp()
        reconstruction = F.binary_cross_entropy_with_logits(self.decoder(z), x.flatten(1), reduction="sum")
        # KL(N(mean, var) || N(0, 1)), Appendix B of Kingma and Welling.
        divergence = -0.5 * (1.0 + log_var - mean.square() - log_var.exp()).sum()
        return (reconstruction + divergence) / len(x)

    def error(self, x: Tensor) -> Tensor:
        """Reconstruction error in nats [B] of pixels [B, C, H, W], from the mean of the code."""
        logits = self.decoder(self.mean(self.encoder(x.flatten(1))))
        return F.binary_cross_entropy_with_logits(logits, x.flatten(1), reduction="none").sum(1)

    def forward(self, z: Tensor) -> Tensor:
        """Pixels [B, C, H, W] of codes [B, n_z]."""
        return self.decoder(z).sigmoid().view(-1, *self.image_shape)

    def structure(self) -> dict[str, Any]:
        """It never changes its size."""
        return {}

    def rebuild(self, structure: dict[str, Any]) -> None:
        """Nothing to do."""
