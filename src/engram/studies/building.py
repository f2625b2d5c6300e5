"""From settings to a stream and a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from engram import features, networks
from engram.core.data_names import SHORT_NAMES
from engram.core.network import Network
from engram.core.options import closest
from engram.core.values import typed_all
from engram.errors import ConfigError, DataError
from engram.features.extractor import Extractor
from engram.streams.builders import class_incremental, permuted, rotated, sequence
from engram.streams.cache import default_cache_dir
from engram.streams.given import as_data
from engram.streams.images import ImageData, resize, to_channels
from engram.streams.sources import load
from engram.streams.stream import Stream
from engram.studies.settings import DataSettings, FeatureSettings, NetworkSettings, Size

__all__ = ["build_network", "hold", "prepare"]

Held = Mapping[str, ImageData | Stream]
READING = ("data_dir", "cache_dir", "image_column", "label_column")  # how named data are read
JUDGING = ("data", "scenario", "selection")

MOST_TASKS = 10  # by default
SMALL_IMAGE = 12  # pixels; up to this size the small network is the default


def network_name(settings: DataSettings, image_shape: tuple[int, ...]) -> str:
    """The network for data when none is named.

    Permuted pixels have no neighbours, so they get the perceptron; images whose size was asked for get what
    fits that size; everything else a convolutional pair, to whose size the images are brought.
    """
    if len(image_shape) != 3 or (settings.scenario == "domain" and settings.domain == "permuted"):
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


def hold(given: Any, settings: DataSettings | None, name: str = "arrays") -> tuple[DataSettings, Held]:
    """Settings that name data given as an object, and the object by that name.

    Args:
        given: a stream, a data set, arrays or a torch `Dataset`, see :func:`engram.streams.given.as_data`.
        settings: of how the data arrive; all but scenario and selection must be left out with a stream. None are those
            of a stream, or the default ones.
        name: of arrays in results.

    Raises:
        ConfigError, DataError: it is none of these, or settings that cannot apply to it.
    """
    found = as_data(given, name)
    stream = isinstance(found, Stream)
    if settings is None:
        shared = isinstance(found, Stream) and found.label_space == "shared"
        settings = DataSettings(scenario="domain" if shared else "class")
    idle = [f.name for f in fields(settings) if f.name not in JUDGING] if stream else READING
    for field in fields(settings):
        if field.name in idle and getattr(settings, field.name) != field.default:
            what = "a stream, which has its tasks" if stream else "data that are read"
            raise ConfigError(
                f"{field.name} must be left out with {what} already, got {getattr(settings, field.name)!r}."
            )
    more: dict[str, Any] = {}
    if isinstance(found, Stream):
        name = " and ".join(one for one, _ in found.data)
        more = {"tasks": found.n_tasks, "stream_seed": found.seed}
        more["valid_fraction"] = float(found.options.get("valid_fraction", 0.0))
    else:
        name = found.name
    key = f"{name.replace('+', ' and ')}@{found.fingerprint[:16]}"
    return replace(settings, data=key, **more), {key: found}


def _load(settings: DataSettings, name: str, held: Held, size: int | None) -> ImageData:
    found = held.get(name)
    if isinstance(found, ImageData):
        return found if size is None else resize(found, size)
    try:
        return load(
            name,
            data_dir=settings.data_dir,
            cache_dir=settings.cache_dir,
            image_size=size,
            image_column=settings.image_column,
            label_column=settings.label_column,
        )
    except DataError as error:
        hint = closest(name, ["digits", *SHORT_NAMES])
        if not hint or name in SHORT_NAMES or "data must be" not in str(error):
            raise
        raise DataError(f"{str(error).rstrip('.')}{hint}.") from error


def prepare(
    settings: DataSettings,
    network: NetworkSettings | Network,
    held: Held | None = None,
    seen: FeatureSettings | None = None,
    size: Size = "network",
) -> tuple[Stream, Network]:
    """The stream, through fixed features where there are any, and the network that fit together.

    Args:
        settings, network: as told.
        held: data that were given as objects, by name.
        seen: the features.
        size: pixels squared that images are brought to where the settings leave it open; None leaves them as they come;
            "network" is what the network needs, or the features.

    Raises:
        DataError, ConfigError: something cannot be used, or does not fit.
    """
    held, seen = held or {}, seen or FeatureSettings()
    features.check_given(seen.name, seen.options, seen.weights, seen.trained_on)
    given = network if isinstance(network, NetworkSettings) else NetworkSettings()
    chosen = network if isinstance(network, Network) else None
    if given.name is not None:
        chosen = build_network(given, given.name)  # before any data are read
    fixed = None
    if seen.name is not None:
        fixed = features.make(seen.name, seen.options, weights=seen.weights, trained_on=seen.trained_on)
    stream = held.get(settings.data)
    if not isinstance(stream, Stream):
        named, known = fixed or chosen, None
        if size == "network" and named is not None:
            size = known = named.image_size  # images are decoded one by one, and kept at this size
        sets = [_load(settings, one, held, settings.image_size or known) for one in settings.sets]
        if size == "network":
            chosen = build_network(given, network_name(settings, sets[0].image_shape))
            size = chosen.image_size
        if settings.image_size is None and isinstance(size, int):
            sets = [resize(one, size) for one in sets]  # says so in the notes
        if len(sets) > 1:
            channels = max(one.image_shape[0] for one in sets)
            sets = [to_channels(one, channels) for one in sets]
        stream = _stream(settings, sets)
    again = next((n for k, n in enumerate(stream.class_names) if n in stream.class_names[:k]), None)
    if again is not None:
        raise ConfigError(
            f'data sets of a sequence must bring classes of their own, got "{again}" twice: give other classes, such '
            "as NAME:0-4 and NAME:5-9, or another name."
        )
    if fixed is not None:
        folder = Path(settings.cache_dir).expanduser() if settings.cache_dir else default_cache_dir()
        stream = stream.through(Extractor(fixed, stream.image_shape, None if held else folder / "features"))
    return stream, chosen or build_network(given, networks.default_for(stream.image_shape).name)


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
