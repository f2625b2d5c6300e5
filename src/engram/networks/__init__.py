"""Networks by name. A network is one line here; its class is imported when it is used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from engram.core.index import About, index
from engram.core.options import closest, made_of_defaults, options_of
from engram.core.sources import is_place, load_object
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
    """``ConfigError`` with the known names unless there is a network of this name, or it is ``FILE.py:NAME``."""
    if name not in NETWORKS and not is_place(name):
        raise ConfigError(
            f"network must be one of {', '.join(sorted(NETWORKS))}, got {name!r}{closest(name, NETWORKS)}: "
            "choose one of them."
        )


def by_name(name: str) -> type[Network]:
    """The class registered under ``name`` or at ``FILE.py:NAME``; ``ConfigError`` as `check_name`, or of the file."""
    check_name(name)
    if is_place(name):
        return _own(name)
    module, _, cls = NETWORKS[name].partition(":")
    found: type[Network] = getattr(importlib.import_module(module), cls)
    return found


def about(name: str) -> About:
    """The network in words, without torch; ``ConfigError`` as `check_name`."""
    check_name(name)
    return described(_own(name)) if is_place(name) else index("networks")[name]


def source_of(name: str) -> dict[str, str] | None:
    """File name and checksum of a network at ``FILE.py:NAME``; None for a registered one."""
    return load_object(name)[1].describe() if is_place(name) else None


def _own(place: str) -> type[Network]:
    """The class at ``FILE.py:NAME``."""
    from engram.core.network import Network  # torch: the file needs it anyway

    found, _ = load_object(place)
    if not (isinstance(found, type) and issubclass(found, Network)):
        raise ConfigError(f"network {place} must be a subclass of engram's Network, got {found!r}.")
    made_of_defaults(found, f"network {place}")
    if not isinstance(getattr(found, "name", None), str):
        raise ConfigError(f'network {place} must have a name, got none: add name: ClassVar[str] = "...".')
    return found


def described(cls: type[Network]) -> About:
    """A network's class in words."""
    summary = ((cls.__doc__ or "").strip().splitlines() or [""])[0]
    return About(summary, options_of(cls()), image_size=cls.image_size)


def default_for(image_shape: tuple[int, ...]) -> Network:
    """The network that fits an image shape (C, H, W): ``dcgan8`` for 8x8, ``dcgan`` for 32x32, else the MLP."""
    convolutional: dict[tuple[int, ...], str] = {(8, 8): "dcgan8", (32, 32): "dcgan"}
    return by_name(convolutional.get(image_shape[1:], "mlp"))()
