"""What a recipe is, and where recipes are registered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from engram.core.options import closest
from engram.errors import ConfigError

#: Options that only images can have, of whatever method.
OF_IMAGES = frozenset(
    f"{prefix}{name}" for prefix in ("", "solver_") for name in ("shift", "rotate", "mirror", "colour")
)

__all__ = ["DEFAULT_FOR_DATA", "RECIPES", "Recipe", "Values", "chosen_recipe", "recipe", "register"]

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """Settings of a run.

    Args:
        name: as given to ``--recipe``.
        summary: one line.
        origin: where the numbers come from.
        data: fields of :class:`engram.studies.settings.DataSettings`.
        network: a network's name; None for the one that fits.
        network_options: options of that network.
        features: fixed ones by name; None for images.
        feature_options: options of those.
        methods: options by method; a method that is not named keeps its defaults.
        beside: variant that ``engram compare`` shows beside a method, unless ``--alone`` is given: where the recipe
            departs from a paper, the paper's way.
    """

    name: str
    summary: str
    origin: str
    data: Values = field(default_factory=dict)
    network: str | None = None
    network_options: Values = field(default_factory=dict)
    features: str | None = None
    feature_options: Values = field(default_factory=dict)
    methods: Mapping[str, Values] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("data", "network_options", "feature_options", "beside"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        methods = {k: MappingProxyType(dict(v)) for k, v in self.methods.items()}
        object.__setattr__(self, "methods", MappingProxyType(methods))

    def for_vectors(self) -> Recipe:
        """What holds of it where methods see features: not its network, and no option that only images can have."""
        methods = {
            name: {k: v for k, v in values.items() if k not in OF_IMAGES}
            for name, values in self.methods.items()
        }
        return replace(self, network=None, network_options={}, methods=methods)


RECIPES: dict[str, Callable[[], Recipe]] = {}

# The recipe used when none is named, by name of the data.
DEFAULT_FOR_DATA = {"digits": "digits"}


def recipe(name: str) -> Recipe:
    """The recipe registered under ``name``.

    Raises:
        ConfigError: there is none.
    """
    if name not in RECIPES:
        raise ConfigError(
            f"recipe must be none or one of {', '.join(RECIPES)}, got {name!r}{closest(name, RECIPES)}: "
            "see engram list."
        )
    return RECIPES[name]()


def chosen_recipe(name: str | None, data: str, features: object = None) -> Recipe | None:
    """The recipe to use: the one named, none for ``"none"``, for None the data's default, if any.

    ``features`` are those asked for beside it; one for images then lends what holds of vectors too.
    """
    if name == "none" or (name is None and data not in DEFAULT_FOR_DATA):
        return None
    found = recipe(DEFAULT_FOR_DATA[data] if name is None else name)
    return found if features in (None, "none", found.features) else found.for_vectors()


def register(make: Callable[[], Recipe]) -> Callable[[], Recipe]:
    RECIPES[make().name] = make
    return make
