"""A plain generator whose batch norm is the label's own: the one of memory replay GANs.

Wu et al.: "Memory Replay GANs", NeurIPS 2018, arXiv 1809.02058, and its released code: a linear layer, transposed
convolutions, batch norm with a scale and an offset for each label, tanh. While it learns, the samples of each label in
a batch are normalised by themselves, as in the released code, whose batches hold one label each. To generate, each
label has stored statistics, which :meth:`ConditionalGenerator.settle` takes, so that an image does not depend on its
batch.

Shapes: B batch, L labels known, C channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engram import seeds
from engram.core.contract import n_bytes
from engram.core.network import GeneratorShape

EPS = 1e-5


class ConditionalNorm(nn.Module):
    """Batch norm of [B, C, H, W] with scale, offset and statistics [L, C], a row a label."""

    weight: nn.Parameter
    bias: nn.Parameter
    mean: Tensor
    var: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(0, width))
        self.bias = nn.Parameter(torch.zeros(0, width))
        self.register_buffer("mean", torch.zeros(0, width))
        self.register_buffer("var", torch.ones(0, width))

    def grow(self, n_labels: int) -> None:
        """Have rows for ``n_labels`` labels; new ones scale by 1 and move by 0."""
        new = (n_labels - len(self.weight), self.weight.shape[1])
        self.weight = nn.Parameter(torch.cat([self.weight.detach(), self.weight.new_ones(new)]))
        self.bias = nn.Parameter(torch.cat([self.bias.detach(), self.bias.new_zeros(new)]))
        self.mean = torch.cat([self.mean, self.mean.new_zeros(new)])
        self.var = torch.cat([self.var, self.var.new_ones(new)])

    def forward(self, h: Tensor, hot: Tensor, statistics: bool) -> Tensor:
        """``hot`` [B, L]: one-hot labels. ``statistics``: each label's own in this batch; else stored ones."""
        mean, var = self.mean, self.var
        if statistics:
            n = hot.sum(0).clamp(min=1.0)[:, None]
            mean = hot.T @ h.mean((2, 3)) / n
            var = hot.T @ (h - (hot @ mean)[:, :, None, None]).square().mean((2, 3)) / n
        scale = hot @ (self.weight * (var + EPS).rsqrt())
        return (h - (hot @ mean)[:, :, None, None]) * scale[:, :, None, None] + (hot @ self.bias)[
            :, :, None, None
        ]


class ConditionalGenerator(nn.Module):
    """Images [B, C, H, W] in [-1, 1] from noise [B, n_z] and labels.

    Weights N(0, 0.02^2), biases 0 (DCGAN, Radford et al., 2015; the paper names none).

    Args:
        shape: of the layers. The first is linear, with the outputs of the transposed convolution that it describes.
        seed: names the generator that weights are drawn from.
    """

    def __init__(self, shape: GeneratorShape, seed: int) -> None:
        super().__init__()
        self.shape = shape
        first, *rest = shape.layers
        self.norms = nn.ModuleList(ConditionalNorm(layer.out) for layer in shape.layers)
        with seeds.seeded(seed, "generator"):
            self.first = nn.Linear(shape.n_z, first.out * first.kernel**2)
            widths = [first.out, *(layer.out for layer in rest)]
            self.layers = nn.ModuleList(
                nn.ConvTranspose2d(n, to.out, to.kernel, to.stride, to.padding, to.output_padding)
                for n, to in zip(widths, [*rest, shape.output], strict=True)
            )
            for layer in (self.first, *self.layers):
                nn.init.normal_(layer.weight, 0.0, 0.02)
                nn.init.zeros_(layer.bias)

    @property
    def _norms(self) -> list[ConditionalNorm]:
        return [norm for norm in self.norms if isinstance(norm, ConditionalNorm)]

    @property
    def n_labels(self) -> int:
        """Labels known."""
        return len(self._norms[0].weight)

    def grow(self, n_labels: int) -> None:
        """Know labels 0 .. ``n_labels`` - 1."""
        for norm in self._norms:
            norm.grow(n_labels)

    def hot(self, y: Tensor) -> Tensor:
        """One-hot [B, L] of labels [B]."""
        return F.one_hot(y, self.n_labels).to(self.first.weight.dtype)

    def forward(self, z: Tensor, hot: Tensor, *, statistics: bool = False) -> Tensor:
        """Images; ``hot`` and ``statistics`` as in :class:`ConditionalNorm`."""
        return self._through(z, lambda norm, h: norm(h, hot, statistics))

    def _through(self, z: Tensor, normed: Callable[[ConditionalNorm, Tensor], Tensor]) -> Tensor:
        k = self.shape.layers[0].kernel
        h = self.first(z).view(len(z), -1, k, k)
        for norm, layer in zip(self._norms, self.layers, strict=True):
            h = layer(normed(norm, h).relu())
        return h.tanh()

    @torch.no_grad()
    def settle(self, noise: torch.Generator, n: int) -> None:
        """Take the statistics of every label from ``n`` images of it."""
        for label in range(self.n_labels):
            z = torch.randn((n, self.shape.n_z), generator=noise, device=noise.device)
            hot = self.hot(torch.full((n,), label, device=noise.device))

            def taken(norm: ConditionalNorm, h: Tensor, label: int = label, hot: Tensor = hot) -> Tensor:
                norm.mean[label], norm.var[label] = h.mean((0, 2, 3)), h.var((0, 2, 3), unbiased=False)
                return norm(h, hot, False)

            self._through(z, taken)

    def structure(self) -> int:
        """Number of labels known."""
        return self.n_labels

    def rebuild(self, n_labels: int) -> None:
        """Room for their rows, for a state dict to fill."""
        self.norms = nn.ModuleList(ConditionalNorm(layer.out) for layer in self.shape.layers)
        self.grow(n_labels)

    def storage_bytes(self) -> dict[str, int]:
        """Bytes of the layers, and of the norms of all labels."""
        norms = n_bytes(self.norms.state_dict().values())
        return {"weights": n_bytes(self.state_dict().values()) - norms, "norms_and_heads": norms}
