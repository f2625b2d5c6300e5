"""A trunk with gated units: its layers, its forward pass, and which weights a mask protects.

Serra et al. (ICML 2018, "HAT"), Sec. 2.3 and Eq. 2. A unit is an output of a linear layer or a channel of a
convolution; its gate acts after activation, pooling and dropout, before the next layer.

Shapes: layer l has O_l units and inputs from I_l of the layer below; gates and masks are [O_l].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engram.errors import ConfigError
from engram.networks.mlp import MlpTrunk


class GatedTrunk:
    """A view of a trunk, no module of its own: it holds no state.

    Args:
        trunk: an ``MlpTrunk``, or a trunk whose ``blocks`` are an ``nn.Sequential`` of linear layers,
            convolutions and modules without parameters (as ``ConvTrunk`` without normalisation).

    Raises:
        ConfigError: any other trunk; one with normalisation, whose statistics and offsets no mask protects.
    """

    def __init__(self, trunk: nn.Module) -> None:
        self.trunk = trunk
        if isinstance(trunk, MlpTrunk):
            self.chain: list[tuple[str, nn.Module]] = []
            for i, layer in enumerate(trunk.layers):
                self.chain += [(f"layers.{i}", layer), ("", nn.ReLU())]
        elif isinstance(blocks := getattr(trunk, "blocks", None), nn.Sequential):
            self.chain = [(f"blocks.{i}", m) for i, m in enumerate(blocks)]
        else:
            raise ConfigError(
                "masks per unit need a trunk of layers in a row (mlp, dcgan, dcgan8), got "
                f"{type(trunk).__name__}: use one of them."
            )
        self.layers = [(name, m) for name, m in self.chain if isinstance(m, (nn.Linear, nn.Conv2d))]
        known = {id(p) for _, m in self.layers for p in m.parameters()}
        if any(id(p) not in known for p in trunk.parameters()) or not self.layers:
            raise ConfigError(
                "masks per unit protect linear layers and convolutions only, the trunk has others: use a "
                "trunk without normalisation."
            )

    @property
    def widths(self) -> list[int]:
        """Units of each layer."""
        return [m.weight.shape[0] for _, m in self.layers]

    def __call__(self, x: Tensor, gates: Sequence[Tensor]) -> Tensor:
        """Features [B, F] of images [B, C, H, W], with one gate [O_l] a layer."""
        if isinstance(self.trunk, MlpTrunk):
            x = x.flatten(1)
        i, pending = -1, False
        for _, m in self.chain:
            if pending and isinstance(m, (nn.Linear, nn.Conv2d, nn.Flatten)):
                x, pending = _gated(x, gates[i]), False
            if isinstance(m, (nn.Linear, nn.Conv2d)):
                i, pending = i + 1, True
            x = m(x)
        return (_gated(x, gates[i]) if pending else x).flatten(1)

    def protection(self, reserved: Sequence[Tensor]) -> dict[str, Tensor]:
        """How much of each parameter is held, by name in the trunk, each [*] of its shape (HAT, Eq. 2).

        A weight by min(reserved output, reserved input), a bias and the first layer's weights by the output
        alone. ``reserved`` [O_l] are the cumulated masks: bool, or numbers in [0, 1].
        """
        held: dict[str, Tensor] = {}
        below: Tensor | None = None
        for (name, m), above in zip(self.layers, reserved, strict=True):
            weight: Tensor = m.weight
            part = above[:, None].expand(len(above), weight.shape[1])
            if below is not None:
                # Convolution to linear: a channel's mask counts for each of its positions.
                inputs = below.repeat_interleave(weight.shape[1] // len(below))
                part = torch.minimum(part, inputs[None, :])
            held[f"{name}.weight"] = part.reshape(*part.shape, *[1] * (weight.dim() - 2)).expand_as(weight)
            if getattr(m, "bias", None) is not None:
                held[f"{name}.bias"] = above
            below = above
        return held


def _gated(x: Tensor, gate: Tensor) -> Tensor:
    return x * gate.view(-1, *[1] * (x.dim() - 2))
