"""The convolutional network of Zenke et al. (ICML 2017), Sec. 5.3, for 32x32 images in [0, 1].

Layers, initialisation and dropout are those of ``fig_transfer_cifar/train.py`` in ``ganguli-lab/pathint``: four 3x3
convolutions, the second of each pair without padding, a dense layer, weights Glorot-uniform and biases 0. With a head
of 60 outputs it has 1,276,508 parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from engram.core.network import Network, Norm
from engram.core.options import Count
from engram.core.samples import Shape

DROP_CONV, DROP_DENSE = 0.25, 0.5


class CifarCnnTrunk(nn.Module):
    """Images [B, C, 32, 32] to features [B, n_h]."""

    def __init__(self, n_channels: int, n_c: int, n_h: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(n_channels, n_c, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(n_c, n_c, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(DROP_CONV),
            nn.Conv2d(n_c, 2 * n_c, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * n_c, 2 * n_c, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(DROP_CONV),
        )
        # 32 -> 30 -> 15 -> 13 -> 6 pixels
        self.dense = nn.Sequential(nn.Linear(2 * n_c * 36, n_h), nn.ReLU(), nn.Dropout(DROP_DENSE))
        self.n_features = n_h
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.dense(self.convs(x).flatten(1))
        return features


@dataclass(frozen=True)
class CifarCnn(Network):
    """Convolutions with dropout for 32x32 images (Zenke et al. 2017).

    Args:
        n_c: channels of the first pair of convolutions; the second pair has twice as many.
        n_h: units of the dense layer.
    """

    name: ClassVar[str] = "cifar-cnn"
    image_size: ClassVar[int | None] = 32
    n_c: Count = 32
    n_h: Count = 512

    def trunk(self, image_shape: Shape, *, norm: Norm = "batch") -> nn.Module:
        """The network without its output layer; it has no normalisation, so ``norm`` does not matter."""
        return CifarCnnTrunk(image_shape[0], self.n_c, self.n_h)
