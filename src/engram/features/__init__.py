"""Fixed features by name: what turns images into vectors once, before anything is learned class by class.

A feature extractor is one line here; its class is imported when it is used.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engram.core.index import About, index
from engram.core.options import closest, options_of
from engram.core.sources import is_place
from engram.core.values import split_variant, typed_all
from engram.errors import ConfigError

if TYPE_CHECKING:
    from engram.features.contract import Features

OWN: dict[str, Features] = {}  # features that this process was given as objects, by name

#: By name, the module and class.
FEATURES = {
    "pixels": "engram.features.pixels:Pixels",
    "fourier": "engram.features.fourier:Fourier",
    "scattering": "engram.features.scattering:Scattering",
    "first-task": "engram.features.first_task:FirstTask",
}
TIMM = "timm:"


def check_name(name: str) -> None:
    """``ConfigError`` with the known names unless there are features of this name."""
    if name not in FEATURES and name not in OWN and not is_place(name) and not name.startswith(TIMM):
        hint = f"give {name}:NAME of what it defines" if name.endswith(".py") else "choose one of them"
        raise ConfigError(
            f"features must be one of {', '.join(FEATURES)}, FILE.py:NAME or timm:NAME, got {name!r}"
            f"{closest(name, FEATURES)}: {hint}."
        )


def check_given(
    name: str | None, options: Mapping[str, Any], weights: str | None, trained_on: str | None
) -> None:
    """``ConfigError`` where something is given that features of this name, None for images, have no use for."""
    here = "without features" if name is None else f"with features {name}"
    for what, value in (("weights", weights), ("trained_on", trained_on)):
        if value is not None and (name is None or name in FEATURES or name in OWN):
            raise ConfigError(
                f"{what} must be left out {here}, it is of FILE.py:NAME or timm:NAME, got {value!r}: leave it out."
            )
    if options and name not in FEATURES:
        raise ConfigError(
            f"options of features must be left out {here}, only {', '.join(FEATURES)} have some, got "
            f"{', '.join(options)}: leave them out."
        )


def about(name: str) -> About:
    """Registered features in words, without torch."""
    return index("features")[name]


def by_name(name: str) -> type[Features]:
    """The class registered under ``name``; ``ConfigError`` as `check_name`."""
    check_name(name)
    module, _, cls = FEATURES[name].partition(":")
    found: type[Features] = getattr(importlib.import_module(module), cls)
    return found


def parse(text: str) -> tuple[str, dict[str, str]]:
    """``NAME`` or ``NAME[option=value,option=value]`` to the name and the values as text; errors as `check_name`."""
    name, bracket, rest = text.partition("[")
    check_name(name)
    if not bracket:
        return name, {}
    if not rest.endswith("]"):
        raise ConfigError(f"features with options must be written NAME[option=value,...], got {text!r}.")
    return name, split_variant(f"{name.rpartition(':')[2]}:{rest[:-1]}")[1]


def make(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    weights: str | None = None,
    trained_on: str | None = None,
) -> Features:
    """Features by name.

    Args:
        name: one of `FEATURES`; ``FILE.py:NAME`` for a torch module of your own that maps images to vectors, its class,
            a function that makes it, or a subclass of `Features`; or ``timm:NAME`` for a network of the package timm.
        options: of registered features.
        weights: safetensors file with the weights of FILE.py:NAME or timm:NAME.
        trained_on: what those weights were trained on, for tables.

    Raises:
        ConfigError: an unknown name or option, weights where there are none to load or that do not fit, timm is absent;
            as `check_given`.
    """
    check_name(name)
    check_given(name, options or {}, weights, trained_on)
    if name in OWN:
        return OWN[name]
    if name in FEATURES:
        return by_name(name)(**typed_all(name, about(name).options, options or {}))
    place = "engram.features.pretrained" if name.startswith(TIMM) else "engram.features.own"
    found: Features = importlib.import_module(place).of(name, weights, trained_on)
    return found


def fixed_features(name: str, **options: Any) -> Features:
    """Features by name with options: ``engram.fixed_features("scattering", J=3)``.

    ``weights`` and ``trained_on`` are among the options, see `make`; errors as there.
    """
    where = {k: options.pop(k) for k in ("weights", "trained_on") if k in options}
    return make(name, options, **where)


def registered(given: Any) -> tuple[str, dict[str, Any]]:
    """Name and options of features given as an object, by which this process knows them from now on."""
    from engram.features.contract import Features  # torch: what is given needs it anyway
    from engram.features.own import of_object

    found = given if isinstance(given, Features) else of_object(given)
    if found.name in FEATURES and type(found) is by_name(found.name):
        return found.name, found.describe()["options"]
    if found.name in FEATURES:
        raise ConfigError(
            f"features of one's own must have a name of their own, got {found.name}: rename them."
        )
    OWN[found.name] = found
    return found.name, {}


def described(cls: type[Features]) -> About:
    """The class of features in words."""
    return About(((cls.__doc__ or "").strip().splitlines() or [""])[0], options_of(cls()))
