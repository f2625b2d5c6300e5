"""A plain multi-layer perceptron on flattened pixels in [0, 1], or on feature vectors."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from engram.core.network import Deconv, GeneratorShape, Masking, Network, Norm
from engram.core.options import Count
from engram.core.samples import Shape
from engram.errors import ConfigError

Init = Literal["pytorch", "glorot"]


class Flat(nn.Module):
    """Images or vectors to their entries [B, D]."""

    def __init__(self, n_inputs: int) -> None:
        super().__init__()
        self.n_features = n_inputs

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


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
        hidden: numbers of units of the hidden layers, at least one.
        init: how the hidden layers start. ``pytorch``: weights and biases uniform within 1 / sqrt(n_in). ``glorot``:
            weights uniform within sqrt(6 / (n_in + n_out)), biases 0 (Glorot and Bengio, AISTATS 2010, Eq. 16).
        n_f: units of each of a vector generator's two masked layers; None takes 128 for masks per weight, 256 per
            unit.
        n_z: noise entries of a vector generator, the label's one-hot included.
    """

    name: ClassVar[str] = "mlp"
    hidden: tuple[Count, ...] = (256, 256)
    init: Init = "pytorch"
    n_f: Count | None = None
    n_z: Count = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.hidden:
            raise ConfigError("hidden must hold at least one width, got none: give for example [256, 256].")

    def trunk(self, image_shape: Shape, *, norm: Norm = "batch") -> nn.Module:
        """The perceptron without its output layer; it has no normalisation, so ``norm`` does not matter."""
        return MlpTrunk(math.prod(image_shape), tuple(self.hidden), self.init)

    def generator(self, image_shape: Shape, *, mask: Masking) -> GeneratorShape:
        """n_z -> n_f -> n_f -> D, dense, of vectors; ``ConfigError`` for images, and for a method without masks."""
        if len(image_shape) != 1:
            return super().generator(image_shape, mask=mask)
        if mask == "none":
            raise ConfigError(
                "samples must be images for a generator without masks, got vectors: use dgmw or dgma, or images and "
                "dcgan."
            )
        layer = Deconv(self.n_f or (128 if mask == "weight" else 256), 1, 1, 0)
        return GeneratorShape(self.n_z, (layer, layer), Deconv(image_shape[0], 1, 1, 0), vectors=True)


@dataclass(frozen=True)
class Linear(Network):
    """No hidden layer: methods train the output layer alone, on pixels in [0, 1] or on feature vectors."""

    name: ClassVar[str] = "linear"

    def trunk(self, image_shape: Shape, *, norm: Norm = "batch") -> nn.Module:
        """Entries as they are; there is nothing to normalise."""
        return Flat(math.prod(image_shape))
