"""Networks by name. A network is one line here; its class is imported when it is used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from engram.core.index import About, index
from engram.core.options import closest, options_of
from engram.errors import ConfigError

if TYPE_CHECKING:
    from engram.core.network import Network as Network
    from engram.networks.cifar_cnn import CifarCnn as CifarCnn
    from engram.networks.dcgan import Dcgan as Dcgan
    from engram.networks.dcgan import Dcgan8 as Dcgan8
    from engram.networks.mlp import Mlp as Mlp
    from engram.networks.plain_cnn import PlainCnn as PlainCnn
    from engram.networks.preact_resnet import PreactResnet as PreactResnet

#: By name, the module and class.
NETWORKS = {
    "cifar-cnn": "engram.networks.cifar_cnn:CifarCnn",
    "dcgan": "engram.networks.dcgan:Dcgan",
    "dcgan8": "engram.networks.dcgan:Dcgan8",
    "mlp": "engram.networks.mlp:Mlp",
    "plain-cnn": "engram.networks.plain_cnn:PlainCnn",
    "preact-resnet": "engram.networks.preact_resnet:PreactResnet",
}


def __getattr__(name: str) -> Any:  # classes are imported when first used: names alone cost no torch
    for place in ("engram.core.network:Network", *NETWORKS.values()):
        module, _, cls = place.partition(":")
        if name == cls:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def check_name(name: str) -> None:
    """``ConfigError`` with the known names unless there is a network of this name."""
    if name not in NETWORKS:
        raise ConfigError(
            f"network must be one of {', '.join(sorted(NETWORKS))}, got {name!r}{closest(name, NETWORKS)}: "
            "choose one of them."
        )


def by_name(name: str) -> type[Network]:
    """The class registered under ``name``; ``ConfigError`` as `check_name`."""
    check_name(name)
    module, _, cls = NETWORKS[name].partition(":")
    found: type[Network] = getattr(importlib.import_module(module), cls)
    return found


def about(name: str) -> About:
    """The network in words, without torch; ``ConfigError`` as `check_name`."""
    check_name(name)
    return index("networks")[name]


def described(cls: type[Network]) -> About:
    """A network's class in words."""
    summary = (cls.__doc__ or "").strip().splitlines()[0]
    return About(summary, options_of(cls()), image_size=cls.image_size)


def default_for(image_shape: tuple[int, ...]) -> Network:
    """The network that fits an image shape (C, H, W): ``dcgan8`` for 8x8, ``dcgan`` for 32x32, else the MLP."""
    convolutional: dict[tuple[int, ...], str] = {(8, 8): "dcgan8", (32, 32): "dcgan"}
    return by_name(convolutional.get(image_shape[1:], "mlp"))()
