"""A Gaussian over every weight of a classifier, each by itself: what Bayesian methods keep instead of weights.

q(theta) = prod_k N(m_k, exp(v_k)). Logits are drawn by drawing all weights, or each layer's outputs: what these are for
one sample is Gaussian too (D. P. Kingma, T. Salimans, M. Welling, NIPS 2015, "local reparameterisation").

Shapes: K draws, B batch, C labels; * is a parameter's shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from engram.core.contract import Context, TaskInfo
from engram.parts.classifier import Classifier
from engram.parts.ordered import Ordered
from engram.parts.tables import Table


class Gaussian(nn.Module):
    """q: means, which are the parameters of a network, and a log-variance for each."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.net = Classifier(context, norm="none")
        self.v = nn.ParameterDict()

    @property
    def m(self) -> dict[str, nn.Parameter]:
        """Means [*] by name."""
        return dict(self.net.named_parameters())

    def variance(self, name: str) -> Tensor:
        """Log-variance [*] of the mean ``name``."""
        return self.v[name.replace(".", "/")]

    def fit_variances(self, start: float) -> None:
        """A log-variance for each mean: old entries stay, new ones are ``start``."""
        for name, m in self.m.items():
            key, new = name.replace(".", "/"), torch.full_like(m, start, requires_grad=False)
            if key in self.v:
                old = self.v[key].detach()
                new[tuple(slice(0, n) for n in old.shape)] = old
            self.v[key] = nn.Parameter(new)

    def names(self, task: TaskInfo) -> list[str]:
        """Names of the means that the task's logits depend on."""
        return [n for n in self.m if n.startswith(self.net.taking_part(task))]

    def drawn(
        self, x: Tensor, names: Sequence[str], active: tuple[int, int], k: int, g: torch.Generator
    ) -> Tensor:
        """Logits [K, B, C] with ``k`` draws of all weights, each for the whole batch."""
        m, weights = self.m, {}
        for name in names:
            noise = torch.randn((k, *m[name].shape), generator=g, device=g.device)
            weights[name] = m[name] + (0.5 * self.variance(name)).exp() * noise.to(m[name])
        run = vmap(lambda w: functional_call(self.net, w, (x, active)), randomness="different")
        return cast(Tensor, run(weights))

    def drawn_locally(
        self, x: Tensor, order: Ordered, active: tuple[int, int], k: int, g: torch.Generator
    ) -> Tensor:
        """Logits [K, B, C], every layer's outputs drawn for every sample: N(m x + b, s^2 x^2 + s_b^2)."""
        trunk, heads = self.net.trunk, self.net.head
        h = order.lead(trunk, 0, x.repeat(k, *(1,) * (x.dim() - 1)))
        for i, path in enumerate(order.layers):
            h = order.lead(trunk, i + 1, self._outputs(f"trunk.{path}", order.layer(trunk, i), h, g))
        parts, first = [], 0
        for i, layer in enumerate(heads.layers):
            a, b = max(active[0] - first, 0), min(active[1] - first, layer.out_features)
            if a < b:
                parts.append(self._outputs(f"head.parts.{i}", layer, h, g)[:, a:b])
            first += layer.out_features
        return torch.cat(parts, 1).unflatten(0, (k, -1))

    def _outputs(self, path: str, layer: nn.Linear | nn.Conv2d, h: Tensor, g: torch.Generator) -> Tensor:
        mean = layer(h)
        s = {f"{n}": self.variance(f"{path}.{n}").exp() for n, _ in layer.named_parameters()}
        variance = functional_call(layer, s, (h.square(),))
        noise = torch.randn(mean.shape, generator=g, device=g.device).to(mean)
        return mean + variance.clamp(min=1e-16).sqrt() * noise

    def divergence(
        self, m0: Mapping[str, Tensor] | Table, v0: Mapping[str, Tensor] | Table, names: Sequence[str]
    ) -> Tensor:
        """KL(q || p) [] over the weights ``names``, p with means ``m0`` and log-variances ``v0``.

        (1/2) sum v0 - v + exp(v - v0) + (m - m0)^2 exp(-v0) - 1; value and gradient are exactly 0 where q is p.
        """
        known = self.m
        m, v = _flat(known[n] for n in names), _flat(self.variance(n) for n in names)
        before_m, before_v = _flat(m0[n] for n in names), _flat(v0[n] for n in names)
        d = v - before_v
        return 0.5 * (d.exp() - d - 1.0 + (m - before_m).square() * (-before_v).exp()).sum()

    def structure(self) -> dict[str, Any]:
        """That of the network."""
        return self.net.structure()

    def rebuild(self, structure: dict[str, Any]) -> None:
        """The shapes of ``structure``, for a state dict to fill."""
        self.net.rebuild(structure)
        self.v = nn.ParameterDict()
        if structure["head"]:
            self.fit_variances(0.0)

    def storage_bytes(self) -> dict[str, int]:
        """Bytes of means and log-variances."""
        return {kind: 2 * size for kind, size in self.net.storage_bytes().items()}


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    """All entries in one row: a few operations on many numbers cost less than many on a few."""
    return torch.cat([t.flatten() for t in tensors])
