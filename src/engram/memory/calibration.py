"""Probabilities that mean what they say: one temperature, fitted on samples that were held out.

Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

LOWEST, HIGHEST = 1e-3, 1e3
FEWEST = 20  # samples held out, below which the temperature stays 1


def temperature_of(logits: Tensor, labels: Tensor) -> float:
    """The temperature T under which softmax(logits / T) has the lowest mean negative log-likelihood.

    That is convex in 1 / T, so its slope is bisected. Where every sample is right it falls without end; T then is the
    one under which the mean probability of the truth is (n + 1) / (n + 2), Laplace's estimate of n right of n.

    Args:
        logits: [n, K].
        labels: int64 [n].

    Returns:
        T in [`LOWEST`, `HIGHEST`]; 1 where n is below `FEWEST` or there is one class.
    """
    n = len(labels)
    if n < FEWEST or logits.shape[1] < 2:
        return 1.0
    z = logits.double()
    truth = z.gather(1, labels[:, None])[:, 0]
    all_right = bool((z.argmax(1) == labels).all())

    def too_hot(t: float) -> bool:
        p = torch.softmax(z / t, 1)
        if all_right:
            return bool(p.gather(1, labels[:, None]).mean() < (n + 1) / (n + 2))
        return bool((p * z).sum(1).mean() < truth.mean())  # the slope in 1 / T: E_p[z] - z_y

    low, high = LOWEST, HIGHEST
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if too_hot(middle) else (middle, high)
    return (low * high) ** 0.5
