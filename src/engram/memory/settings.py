"""What a memory is set to when it is created; read without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

from engram import features, networks
from engram.core.options import BelowOne, Count, CountOrZero, Range, closest
from engram.core.values import Checked, typed_all
from engram.errors import ConfigError
from engram.methods import registry

METHOD = "slda"
FEATURES = "scattering"  # of methods in closed form, which learn none of their own
#: Options that the first images decide where they are left open, by owner: for grey ones and for colour ones. From the
#: table in docs/your-photos.md. Those of slda are for these features.
OF_IMAGES: Mapping[str, Mapping[str, tuple[Any, Any]]] = {
    "scattering": {"L": (4, 4), "mirror": (False, True)},
    "slda": {"eps": (0.01, 0.2)},
}
SMALL_IMAGE, NETWORK_SMALL, NETWORK = 12, "dcgan8", "dcgan"  # pixels; for methods that learn from images


@dataclass(frozen=True)
class Settings(Checked):
    """What a memory is set to when it is created. Nothing of it changes later.

    Args:
        method: how it learns, see engram list.
        features: what it sees of images, see engram list; none for the images themselves; auto is scattering for
            methods in closed form, else none.
        network: of methods that train one, see engram list; by default the one that fits.
        image_size: pixels squared to which images are brought; by default what network or features need, else the
            median of their shorter sides, at most 32.
        channels: 1 for grey or 3 for colour; by default colour if any of the first images is.
        valid_fraction: share of each class's images that is held out to measure it, at least one image; 0 for none.
        seed: of everything random.
        keep: how many states are kept, the current one included, to which engram undo can go back.
        method_options, features_options, network_options: by name.

    Raises:
        ConfigError: a value of another type or out of range, an unknown name, or what a memory cannot be made of.
    """

    method: str = METHOD
    features: str | None = "auto"
    network: str | None = None
    image_size: Count | None = None
    channels: Literal[1, 3] | None = None
    valid_fraction: BelowOne = 0.1
    seed: CountOrZero = 0
    keep: Annotated[int, Range(2)] = 3
    method_options: Mapping[str, Any] = field(default_factory=dict)
    features_options: Mapping[str, Any] = field(default_factory=dict)
    network_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        about = registry.about(self.method)
        if self.features == "auto":
            object.__setattr__(self, "features", FEATURES if about.refines else None)
        if self.features == "none":
            object.__setattr__(self, "features", None)
        for kind, name, known in (
            ("method", self.method, registry.METHODS),
            ("features", self.features, features.FEATURES),
            ("network", self.network, networks.NETWORKS),
        ):
            if name is not None and not isinstance(
                known.get(name), str
            ):  # code of one's own cannot be kept as tensors
                raise ConfigError(
                    f"the {kind} of a memory must be one of engram's, {', '.join(sorted(known))}, got {name!r}"
                    f"{closest(name, known)}: choose one of them."
                )
        if about.reads == "all":
            raise ConfigError(
                f"the method of a memory must do without the images of before, {self.method} reads all data again: "
                "give another one."
            )
        for options, name, found in (
            ("method_options", self.method, about.options),
            (
                "features_options",
                self.features,
                features.about(self.features).options if self.features else (),
            ),
            ("network_options", self.network, networks.about(self.network).options if self.network else ()),
        ):
            if not isinstance(getattr(self, options), Mapping):
                raise ConfigError(
                    f"{options} must be names with values, got {getattr(self, options)!r}: give a dictionary."
                )
            object.__setattr__(self, options, typed_all(str(name), found, getattr(self, options)))

    def open_options(self) -> dict[str, Mapping[str, tuple[Any, Any]]]:
        """Of `OF_IMAGES` those that these settings leave to the first images, by field."""
        if self.features != FEATURES:
            return {}
        return {
            options: {k: v for k, v in OF_IMAGES.get(name, {}).items() if k not in given}
            for options, name, given in (
                ("features_options", self.features, self.features_options),
                ("method_options", self.method, self.method_options),
            )
        }

    def decided(self, channels: int) -> Settings:
        """With what images of 1 or 3 channels decide."""
        found: dict[str, Any] = {}
        for name, options in self.open_options().items():
            found[name] = {**getattr(self, name), **{k: v[channels == 3] for k, v in options.items()}}
        return replace(self, **found)

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


OPTION_FIELDS = ("method_options", "features_options", "network_options")
