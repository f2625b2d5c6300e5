"""Two networks of one architecture combined layer by layer, and folded into one of the same size.

J. Lee, D. Joo, H. G. Hong, J. Kim: "Residual Continual Learning", AAAI 2020, arXiv 2002.06774 ("ResCL"), the
combination layer and its Fig. 2. Each linear stretch y_s, y_t of the two networks, which read the same input, becomes

    y = (1 + alpha_s) * y_s + alpha_t * y_t                                                                      (1)

channel by channel. (alpha_s, alpha_t) = (0, 0) is the source network, (-1, 1) the target network. Since everything
between the input of a stretch and its combination is linear in evaluation mode, the two branches fold into one.

A stretch is a convolution or fully connected layer with the batch norms that follow it, or batch norms alone (the first
of a pre-activation unit). It ends before anything else: a non-linearity, a sum, a second reader of its output, or the
next layer that mixes channels, since two of those do not fold into two of the same size. A layer that is called more
than once is a stretch of its own, with one pair of alphas. The stretches are found by tracing (`torch.fx`), so a
network needs no rewriting.

Folding keeps every layer and every key of the state dict: a convolution takes the gains of its batch norms, which stay
with scale 1, mean 0 and variance 1 - eps, and carry the offsets. Combining weights and batch norms separately would be
wrong: the product of two combinations is not the combination of the products.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from engram.errors import ConfigError
from engram.parts.statistics import norm_map
from engram.parts.tracing import (
    NORMS,
    POOLS,
    Stretch,
    check_alike,
    check_same_computation,
    find_stretches,
    trace,
)


class Combiner(nn.Module):
    """The alphas of two networks, and how to run and fold their combination. It holds neither network.

    Args:
        source, target: the networks; same layers, same shapes, same computation. Traced here and given again in every
            call.
        start: first values of alpha_s and alpha_t (paper, Algorithm 1: -1/2 and 1/2).
        per_channel: an alpha a channel; otherwise one for each stretch.

    Raises:
        ConfigError: the networks differ, cannot be traced, or hold a layer that cannot be combined (named).
    """

    def __init__(
        self,
        source: nn.Module,
        target: nn.Module,
        *,
        start: tuple[float, float] = (-0.5, 0.5),
        per_channel: bool = True,
    ) -> None:
        super().__init__()
        check_alike(source, target)
        self.graph = trace(source)
        stretches = find_stretches(self.graph, source)
        if target is not source:
            check_same_computation(self.graph, source, target)
        self._by_first = {s.nodes[0]: s for s in stretches}
        self._later = {node for s in stretches for node in s.nodes[1:]}
        device = next((t.device for t in source.state_dict().values()), None)
        self.alpha_s, self.alpha_t = nn.ParameterDict(), nn.ParameterDict()
        for stretch in stretches:
            for alphas, value in zip((self.alpha_s, self.alpha_t), start, strict=True):
                size = stretch.channels if per_channel else 1
                dtype = next(source.get_submodule(stretch.layers[0]).parameters()).dtype
                alphas[stretch.name] = nn.Parameter(torch.full((size,), value, dtype=dtype, device=device))

    def __deepcopy__(self, memo: dict[int, Any]) -> Combiner:
        # Nodes are keys, and a trace never changes: a copy shares it.
        memo |= {id(shared): shared for shared in (self.graph, self._by_first, self._later)}
        made = memo[id(self)] = type(self).__new__(type(self))
        made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return made

    @property
    def stretches(self) -> list[Stretch]:
        """One a pair of alphas, in order of the first call."""
        return list({s.name: s for s in self._by_first.values()}.values())

    @property
    def n_channels(self) -> int:
        """Channels over all stretches, n of the paper's L1 term."""
        return sum(s.channels for s in self.stretches)

    def forward(self, source: nn.Module, target: nn.Module, x: Tensor) -> Tensor:
        """The combined network's output for ``x``.

        Batch norms run in the mode that their network is in: the source's belong in evaluation mode. Layers without
        parameters are the target's, so that its mode decides on dropout.
        """
        values: dict[fx.Node, Any] = {}
        for node in self.graph.nodes:
            if node in self._later:
                continue
            if node in self._by_first:
                # The whole stretch here: what it reads may be changed in place before its last layer is due.
                stretch = self._by_first[node]
                h = values[node.all_input_nodes[0]]
                combined = self._combined(stretch, _run(stretch, source, h), _run(stretch, target, h))
                values[stretch.nodes[-1]] = combined
                continue
            args = fx.map_arg(node.args, values.__getitem__)
            kwargs = fx.map_arg(node.kwargs, values.__getitem__)
            if node.op == "placeholder":
                values[node] = x
            elif node.op == "call_module":
                values[node] = target.get_submodule(str(node.target))(*args, **kwargs)
            elif node.op == "call_method":
                values[node] = getattr(args[0], str(node.target))(*args[1:], **kwargs)
            elif node.op == "call_function":
                values[node] = cast(Any, node.target)(*args, **kwargs)
            else:
                return cast(Tensor, args[0])
        raise ConfigError("a network must return something to be combined, this one has no output.")

    def _combined(self, stretch: Stretch, s: Tensor, t: Tensor) -> Tensor:
        """Equation (1)."""
        a_s, a_t = self.alpha_s[stretch.name], self.alpha_t[stretch.name]
        if stretch.axis == -1 and s.dim() > 2 and len(stretch.layers) > 1:
            raise ConfigError(
                f"a batch norm behind a linear layer must read [B, C] to be combined, {stretch.name} has "
                f"{s.dim()} axes: flatten its input."
            )
        shape = (-1, *(1,) * (-stretch.axis - 1 if stretch.axis < 0 else s.dim() - 2))
        a_s, a_t = a_s.view(shape), a_t.view(shape)
        return (1.0 + a_s) * s + a_t * t

    @torch.no_grad()
    def fold(self, source: nn.Module, target: nn.Module) -> dict[str, Tensor]:
        """State dict of a network of the source's size that answers as the combined one in evaluation mode.

        For a stretch with layers 1 .. n, gains A_i and offsets B_i (a batch norm is z -> A z + B with
        A = gamma / sqrt(v + eps), B = beta - m A), layer i's offset and layer 1's gain or weight are multiplied by
        the later gains and combined as (1). Computed in float64. Layers that the trace never calls are the source's.
        """
        own: dict[int, Tensor] = {}  # a layer with two names has one tensor under two keys
        folded = {k: own.setdefault(id(v), v.clone()) for k, v in source.state_dict(keep_vars=True).items()}
        for stretch in self.stretches:
            a_s, a_t = (a[stretch.name].double() for a in (self.alpha_s, self.alpha_t))
            parts = [_scaled(stretch, net) for net in (source, target)]
            for path, s, t in zip(stretch.layers, *parts, strict=True):
                for key, value in s.items():
                    shape = (-1, *(1,) * (value.dim() - 1))
                    new = (1.0 + a_s).view(shape) * value + a_t.view(shape) * t[key]
                    if key == "gain":
                        key = "weight"
                    folded[f"{path}.{key}"].copy_(new.expand_as(folded[f"{path}.{key}"]))
                if isinstance(norm := source.get_submodule(path), NORMS):
                    if path != stretch.layers[0]:
                        folded[f"{path}.weight"].fill_(1.0)
                    folded[f"{path}.running_mean"].zero_()
                    folded[f"{path}.running_var"].fill_(1.0 - norm.eps)
        return folded


def _run(stretch: Stretch, net: nn.Module, h: Tensor) -> Tensor:
    for node in stretch.nodes:
        layer = net.get_submodule(str(node.target))
        axes = POOLS.get(type(layer), h.dim())
        if h.dim() != axes:
            raise ConfigError(
                f"average pooling in front of a batch norm must read {axes} axes to be combined, {node.target} reads "
                f"{h.dim()}: it would mix the channels of {stretch.name}."
            )
        h = layer(h)
    return h


def _scaled(stretch: Stretch, net: nn.Module) -> list[dict[str, Tensor]]:
    """For each layer its tensors in float64, multiplied by the gains of the layers after it in the stretch."""
    later: Tensor | float = 1.0
    parts: list[dict[str, Tensor]] = []
    for path in reversed(stretch.layers):
        layer = net.get_submodule(path)
        if isinstance(layer, NORMS):
            gain, offset = norm_map(layer)
            part = {"bias": offset * later}
            later = gain * later
            if path == stretch.layers[0]:
                part["gain"] = later
        else:
            tensors = {n: p.detach().double() for n, p in layer.named_parameters()}
            part = {n: p * _over_channels(later, p) for n, p in tensors.items()}
        parts.append(part)
    return parts[::-1]


def _over_channels(gain: Tensor | float, p: Tensor) -> Tensor | float:
    return gain if isinstance(gain, float) else gain.view(-1, *(1,) * (p.dim() - 1))
