"""From settings to a stream and a network."""

from __future__ import annotations

from typing import Any

from engram import networks
from engram.core.data_names import SHORT_NAMES
from engram.core.network import Network
from engram.core.options import closest, options_of
from engram.core.values import typed_all
from engram.errors import ConfigError, DataError
from engram.streams.builders import class_incremental, permuted, rotated, sequence
from engram.streams.images import ImageData, resize, to_channels
from engram.streams.sources import load
from engram.streams.stream import Stream
from engram.studies.settings import DataSettings, NetworkSettings, plain

__all__ = ["build_network", "network_options", "prepare"]

MOST_TASKS = 10  # by default
SMALL_IMAGE = 12  # pixels; up to this size the small network is the default


def network_name(settings: DataSettings, image_shape: tuple[int, ...]) -> str:
    """The network for data when none is named.

    Permuted pixels have no neighbours, so they get the perceptron; images whose size was asked for get what
    fits that size; everything else a convolutional pair, to whose size the images are brought.
    """
    if settings.scenario == "domain" and settings.domain == "permuted":
        return "mlp"
    if settings.image_size is not None:
        return networks.default_for(image_shape).name
    return "dcgan8" if max(image_shape[1:]) <= SMALL_IMAGE else "dcgan"


def build_network(settings: NetworkSettings, name: str) -> Network:
    """The network called ``name`` with the options given.

    Raises:
        ConfigError: an unknown network or option, or a value out of range.
    """
    return networks.by_name(name)(**typed_all(name, networks.about(name).options, settings.options))


def load_data(settings: DataSettings, name: str | None) -> tuple[list[ImageData], str]:
    """The data sets at the size that the network called ``name`` needs, and the network's name."""
    sets = [_load(settings, one) for one in settings.sets]
    name = name or network_name(settings, sets[0].image_shape)
    size = networks.about(name).image_size
    if settings.image_size is None and size is not None:
        sets = [resize(one, size) for one in sets]  # says so in the notes
    channels = max(one.image_shape[0] for one in sets)
    return [to_channels(one, channels) for one in sets], name


def _load(settings: DataSettings, name: str) -> ImageData:
    try:
        return load(
            name,
            data_dir=settings.data_dir,
            cache_dir=settings.cache_dir,
            image_size=settings.image_size,
            image_column=settings.image_column,
            label_column=settings.label_column,
        )
    except DataError as error:
        hint = closest(name, ["digits", *SHORT_NAMES])
        if not hint or name in SHORT_NAMES or "data must be" not in str(error):
            raise
        raise DataError(f"{str(error).rstrip('.')}{hint}.") from error


def prepare(settings: DataSettings, network: NetworkSettings) -> tuple[Stream, Network]:
    """The stream and the network that fit together; errors: ``DataError``, ``ConfigError``."""
    if network.name is not None:
        build_network(network, network.name)  # before any data are read
    data, name = load_data(settings, network.name)
    return _stream(settings, data), build_network(network, name)


def _stream(settings: DataSettings, sets: list[ImageData]) -> Stream:
    s, data = settings, sets[0]
    more: dict[str, Any] = {
        "seed": s.stream_seed,
        "valid_fraction": s.valid_fraction,
        "max_per_class": s.max_per_class,
    }
    if len(sets) > 1:
        return sequence(sets, **more)
    if s.scenario != "domain":
        tasks = s.tasks
        if tasks is None and s.groups is None:
            tasks = min(MOST_TASKS, data.n_classes)
        return class_incremental(data, n_tasks=tasks, groups=s.groups, class_order=s.class_order, **more)
    tasks = MOST_TASKS if s.tasks is None else s.tasks
    if s.domain == "permuted":
        return permuted(data, tasks, **more)
    if s.angles is not None:
        if s.tasks is not None:
            raise ConfigError(
                f"only one of tasks and angles may be given, got {s.tasks} and {list(s.angles)}."
            )
        return rotated(data, angles=s.angles, **more)
    return rotated(data, tasks, max_angle=s.max_angle, **more)


def network_options(network: Network) -> dict[str, Any]:
    """All options of a network as JSON."""
    return {o.name: plain(o.default) for o in options_of(network)}
