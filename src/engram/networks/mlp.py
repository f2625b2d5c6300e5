"""A plain multi-layer perceptron on flattened pixels in [0, 1], or on feature vectors."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from engram.core.network import Network, Norm
from engram.core.options import Count
from engram.core.samples import Shape
from engram.errors import ConfigError

Init = Literal["pytorch", "glorot"]


class MlpTrunk(nn.Module):
    """Linear layers with ReLU, from images [B, C, H, W] to features [B, hidden[-1]]."""

    def __init__(self, n_inputs: int, hidden: tuple[int, ...], init: Init = "pytorch") -> None:
        super().__init__()
        widths = (n_inputs, *hidden)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.n_features = hidden[-1]
        if init == "glorot":
            for layer in self.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.xavier_uniform_(layer.weight)
                    nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in self.layers:
            x = layer(x).relu()
        return x


@dataclass(frozen=True)
class Mlp(Network):
    """Multi-layer perceptron.

    Args:
        hidden: widths of the hidden layers, at least one.
        init: of the hidden layers. ``pytorch``: weights and biases uniform within 1 / sqrt(n_in). ``glorot``: weights
            uniform within sqrt(6 / (n_in + n_out)), biases 0 (Glorot and Bengio, AISTATS 2010, Eq. 16).
    """

    name: ClassVar[str] = "mlp"
    hidden: tuple[Count, ...] = (256, 256)
    init: Init = "pytorch"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.hidden:
            raise ConfigError("hidden must hold at least one width, got none: give for example [256, 256].")

    def trunk(self, image_shape: Shape, *, norm: Norm = "batch") -> nn.Module:
        """The perceptron without its output layer; it has no normalisation, so ``norm`` does not matter."""
        return MlpTrunk(math.prod(image_shape), tuple(self.hidden), self.init)
