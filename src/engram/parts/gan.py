"""Losses of the Wasserstein GAN with gradient penalty: Gulrajani et al. (NIPS 2017)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def wasserstein(real: Tensor, fake: Tensor) -> Tensor:
    """Critic's loss: mean score of the fake minus mean score of the real, scores [B]."""
    return fake.mean() - real.mean()


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, u: Tensor) -> Tensor:
    """Mean of (||grad a(x^)||_2 - 1)^2 at x^ = u x + (1 - u) x~, one u in [0, 1] a sample.

    Args:
        critic: maps images [B, C, H, W] to scores [B].
        real, fake: images [B, C, H, W]; the fake needs no gradient.
        u: uniform numbers [B, 1, 1, 1].

    The square root has a small offset (1e-12), so that a zero gradient gives a finite derivative.
    """
    between = (u * real + (1.0 - u) * fake).requires_grad_(True)
    (grad,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    norm = (grad.flatten(1).square().sum(1) + 1e-12).sqrt()
    return (norm - 1.0).square().mean()
