"""Networks by name. A network is one line here; its class is imported when it is used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from engram.core.index import About, index
from engram.core.options import closest, options_of
from engram.core.sources import is_place, load_object
from engram.core.values import made_of_defaults
from engram.errors import ConfigError

if TYPE_CHECKING:
    from engram.core.network import Network as Network
    from engram.networks.cifar_cnn import CifarCnn as CifarCnn
    from engram.networks.dcgan import Dcgan as Dcgan
    from engram.networks.dcgan import Dcgan8 as Dcgan8
    from engram.networks.mlp import Linear as Linear
    from engram.networks.mlp import Mlp as Mlp
    from engram.networks.plain_cnn import PlainCnn as PlainCnn
    from engram.networks.preact_resnet import PreactResnet as PreactResnet
    from engram.networks.resgan import Resgan as Resgan
    from engram.networks.resgan import Resgan64 as Resgan64

OWN: dict[str, type[Network]] = {}  # networks that this process was given as objects, by name

#: By name, the module and class.
NETWORKS = {
    "cifar-cnn": "engram.networks.cifar_cnn:CifarCnn",
    "dcgan": "engram.networks.dcgan:Dcgan",
    "dcgan8": "engram.networks.dcgan:Dcgan8",
    "linear": "engram.networks.mlp:Linear",
    "mlp": "engram.networks.mlp:Mlp",
    "plain-cnn": "engram.networks.plain_cnn:PlainCnn",
    "preact-resnet": "engram.networks.preact_resnet:PreactResnet",
    "resgan": "engram.networks.resgan:Resgan",
    "resgan64": "engram.networks.resgan:Resgan64",
}


def __getattr__(name: str) -> Any:  # classes are imported when first used: names alone cost no torch
    for place in ("engram.core.network:Network", *NETWORKS.values()):
        module, _, cls = place.partition(":")
        if name == cls:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def check_name(name: str) -> None:
    """``ConfigError`` with the known names unless there is a network of this name, or it is ``FILE.py:NAME``."""
    if name not in NETWORKS and name not in OWN and not is_place(name):
        hint = f"give {name}:NAME of what it defines" if name.endswith(".py") else "choose one of them"
        raise ConfigError(
            f"network must be one of {', '.join(sorted(NETWORKS))}, or FILE.py:NAME, got {name!r}"
            f"{closest(name, NETWORKS)}: {hint}."
        )


def by_name(name: str) -> type[Network]:
    """The class registered under ``name`` or at ``FILE.py:NAME``; ``ConfigError`` as `check_name`, or of the file."""
    check_name(name)
    if name in OWN:
        return OWN[name]
    if is_place(name):
        return class_of(load_object(name), name)
    module, _, cls = NETWORKS[name].partition(":")
    found: type[Network] = getattr(importlib.import_module(module), cls)
    return found


def about(name: str) -> About:
    """The network in words, without torch; ``ConfigError`` as `check_name`."""
    check_name(name)
    return index("networks")[name] if name in NETWORKS else described(by_name(name))


def source_of(name: str | None) -> dict[str, str] | None:
    """What code of one's own a network is; None for a registered one, or none."""
    return None if name is None or name in NETWORKS else by_name(name)().source()


def class_of(given: Any, place: str) -> type[Network]:
    """The class of a network of one's own: a subclass of `Network`, or of a module, its class, or what makes one.

    Raises:
        ConfigError: it is none of these; ``place`` names it in the error.
    """
    from engram.core.network import Network  # torch: what is given needs it anyway

    if not (isinstance(given, type) and issubclass(given, Network)):
        made: type[Network] = importlib.import_module("engram.networks.modules").of_module(given, place)
        return made
    made_of_defaults(given, f"network {place}")
    if not isinstance(getattr(given, "name", None), str):
        raise ConfigError(f'network {place} must have a name, got none: add name: ClassVar[str] = "...".')
    return given


def registered(given: Any) -> tuple[str, dict[str, Any]]:
    """Name and options of a network given as an object, by which this process knows it from now on.

    Args:
        given: a `Network` or its class, a module, its class, or what makes one.

    Raises:
        ConfigError: as `class_of`, or the name is taken.
    """
    from engram.core.network import Network  # as above

    cls = class_of(type(given) if isinstance(given, Network) else given, str(given))
    options: dict[str, Any] = given.describe()["options"] if isinstance(given, Network) else {}
    if cls.name not in NETWORKS:
        OWN[cls.name] = cls
    elif by_name(cls.name) is not cls:
        raise ConfigError(f"a network of one's own must have a name of its own, got {cls.name}: rename it.")
    return cls.name, options


def described(cls: type[Network]) -> About:
    """A network's class in words."""
    summary = ((cls.__doc__ or "").strip().splitlines() or [""])[0]
    return About(summary, options_of(cls()), image_size=cls.image_size)


def default_for(image_shape: tuple[int, ...]) -> Network:
    """The network that fits an image shape (C, H, W): ``dcgan8`` for 8x8, ``dcgan`` for 32x32, else the MLP."""
    convolutional: dict[tuple[int, ...], str] = {(8, 8): "dcgan8", (32, 32): "dcgan"}
    return by_name(convolutional.get(image_shape[1:], "mlp"))()
