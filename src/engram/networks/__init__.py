"""Networks by name."""

from __future__ import annotations

from engram.core.network import Network
from engram.errors import ConfigError
from engram.networks.cifar_cnn import CifarCnn
from engram.networks.dcgan import Dcgan, Dcgan8
from engram.networks.mlp import Mlp
from engram.networks.plain_cnn import PlainCnn
from engram.networks.preact_resnet import PreactResnet

NETWORKS: dict[str, type[Network]] = {
    cls.name: cls for cls in (CifarCnn, Dcgan, Dcgan8, Mlp, PlainCnn, PreactResnet)
}

__all__ = [
    "NETWORKS",
    "CifarCnn",
    "Dcgan",
    "Dcgan8",
    "Mlp",
    "Network",
    "PlainCnn",
    "PreactResnet",
    "default_for",
]


def default_for(image_shape: tuple[int, int, int]) -> Network:
    """The network that fits an image shape (C, H, W): ``dcgan8`` for 8x8, ``dcgan`` for 32x32, else the MLP."""
    for cls in (Dcgan8, Dcgan):
        if image_shape[1:] == (cls.image_size, cls.image_size):
            return cls()
    return Mlp()


def by_name(name: str) -> type[Network]:
    """The class registered under ``name``; ``ConfigError`` lists the known ones."""
    if name not in NETWORKS:
        raise ConfigError(
            f"network must be one of {', '.join(sorted(NETWORKS))}, got {name!r}: choose one of them."
        )
    return NETWORKS[name]
