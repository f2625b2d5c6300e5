"""What a run needs, as plain frozen values that JSON can hold: data, network, method, seed and place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engram.core.options import closest, options_of
from engram.core.values import typed_all
from engram.errors import ConfigError, DataError

if TYPE_CHECKING:
    from engram.core.network import Network
    from engram.methods.registry import MethodSpec
    from engram.protocols.evaluation import Protocol
    from engram.streams import ImageData, Stream

__all__ = ["DataSettings", "Job", "NetworkSettings", "build_network", "build_stream", "prepare"]

MOST_TASKS = 10  # by default
VALID_FRACTION = 0.1  # of a sweep, by default
# Of a trade-off:
RECIPE = "tradeoff-small"  # where none is named
FINETUNE = "finetune"  # its target accuracy is what others are required to come near
POINTS, WIDEN = 9, 3
SMALL_IMAGE = 12  # pixels; up to this size the small network is the default

Selection = Literal["last", "val_real_all"]

# Settings that say where things lie on this machine: not part of what a run is.
PLACES = ("data_dir", "cache_dir")


@dataclass(frozen=True)
class DataSettings:
    """The data, how they arrive, and how a run is judged.

    Args:
        data: digits, mnist, fashion_mnist, cifar10, cifar100, svhn, a folder, or a Hugging Face name
            "user/name"; ":FIRST-LAST" behind it keeps these classes; several with "+" between them are a task
            each, such as cifar10+cifar100:0-9.
        data_dir: folder with data sets as sub-folders; by default $ENGRAM_DATA.
        cache_dir: folder for decoded data; by default $ENGRAM_CACHE or ~/.cache/engram.
        scenario: class (new classes, no task label at test time), task (new classes, label given) or domain
            (same classes, other images).
        selection: the test accuracy that is reported: last, after a task's last epoch; or val_real_all, at the
            epoch that is best on real validation data of all tasks so far, as DGM's released code (not strict).
        tasks: number of tasks; by default one a class, at most 10.
        groups: or the number of classes of each task, such as [5, 3, 2].
        class_order: order of arrival, as labels such as [3, 1, 0, 2] or as class names such as [dog, cat]; random; by
            default 0, 1, 2, ...
        stream_seed: of a random class order, permutations and splits.
        valid_fraction: share of each class's training samples that is held out.
        max_per_class: use only so many training samples of a class.
        image_size: resize images to this many pixels squared; by default to what the network needs.
        image_column: of a table, the column of images; by default the only one there is.
        label_column: of a table, the column of labels; by default the one of class labels, or called label.
        domain: what changes from task to task in scenario domain: permuted pixels or rotated images.
        max_angle: of rotated images: angles are equally spaced from 0 to this many degrees.
        angles: of rotated images: or the angles themselves, one a task.
    """

    data: str = "digits"
    data_dir: str | None = None
    cache_dir: str | None = None
    scenario: Literal["class", "task", "domain"] = "class"
    selection: Selection = "last"
    tasks: int | None = None
    groups: tuple[int, ...] | None = None
    class_order: Literal["random"] | tuple[int, ...] | tuple[str, ...] | None = None
    stream_seed: int = 0
    valid_fraction: float = 0.0
    max_per_class: int | None = None
    image_size: int | None = None
    image_column: str | None = None
    label_column: str | None = None
    domain: Literal["permuted", "rotated"] = "permuted"
    max_angle: float = 180.0
    angles: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("groups", "class_order", "angles"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.scenario not in ("class", "task", "domain"):
            raise ConfigError(
                f"scenario must be class, task or domain, got {self.scenario!r}: give one of them."
            )
        if self.selection not in ("last", "val_real_all"):
            raise ConfigError(
                f"selection must be last or val_real_all, got {self.selection!r}: give one of them."
            )
        if self.domain not in ("permuted", "rotated"):
            raise ConfigError(f"domain must be permuted or rotated, got {self.domain!r}: give one of them.")
        if self.tasks is not None and self.groups is not None:
            raise ConfigError(
                f"only one of tasks and groups may be given, got {self.tasks} and "
                f"{list(self.groups)}: leave one out."
            )
        if len(self.sets) > 1:
            self._check_sequence()
        if self.scenario == "domain":
            self._refuse("groups", "class_order", why="scenario domain keeps all classes in every task")
        if self.scenario != "domain" or self.domain != "rotated":
            self._refuse("angles", why="only --scenario domain --domain rotated turns images")

    def _check_sequence(self) -> None:
        if self.scenario == "domain":
            raise ConfigError(
                f"scenario must be task or class where data sets follow one another, got domain with {self.data}: "
                "give --scenario task."
            )
        self._refuse("groups", "class_order", why="each data set of a sequence is a task")
        if self.tasks not in (None, len(self.sets)):
            raise ConfigError(
                f"tasks must be left out where each data set is a task, got {self.tasks} with {len(self.sets)} "
                "data sets: leave it out."
            )

    @property
    def sets(self) -> tuple[str, ...]:
        """The names of the data sets, in order; a folder whose name holds a plus sign is one."""
        if "+" not in self.data or Path(self.data).expanduser().exists():
            return (self.data,)
        return tuple(self.data.split("+"))

    def _refuse(self, *names: str, why: str) -> None:
        for name in names:
            if getattr(self, name) is not None:
                value = getattr(self, name)
                raise ConfigError(f"{name} must be left out ({why}), got {value!r}: leave it out.")

    def protocol(self) -> Protocol:
        """How the run is judged."""
        from engram.protocols.evaluation import Protocol

        return Protocol(self.scenario, selection=self.selection)

    def what(self) -> dict[str, Any]:
        """The settings that decide what is learned, as JSON; where files lie is left out."""
        return {k: v for k, v in plain(asdict(self)).items() if k not in PLACES}


@dataclass(frozen=True)
class NetworkSettings:
    """The network.

    Args:
        name: dcgan (32x32), dcgan8 (8x8), cifar-cnn (32x32), preact-resnet (32x32), plain-cnn (32x32) or mlp; by
            default the one that fits the images.
        options: of that network; those left out keep their defaults.
    """

    name: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One seed of one method, complete: what a worker process is told.

    Args:
        data: the data and how they arrive.
        network: with its name resolved.
        method: a registered name.
        options: all of its options.
        seed: of everything random in training.
        device: cpu or cuda.
        folder: of this seed; gets checkpoints, samples and the result.
        resume: continue from the checkpoints in the folder.
        label: what the method is called in tables and messages.
        method_file: of a method of one's own, where it is loaded from.
        record_valid: measure validation samples too, see :class:`engram.protocols.evaluation.Protocol`.
        identity: checksum of what makes the run this run; the seed's entry carries it.
        start: folder of a common start, from which a job without checkpoints of its own begins.
        common: this job is a common start: it ends where the method's trade-off option begins to matter.
    """

    data: DataSettings
    network: NetworkSettings
    method: str
    options: Mapping[str, Any]
    seed: int
    device: str
    folder: str
    resume: bool = False
    label: str = ""
    record_valid: bool = False
    identity: str = ""
    start: str = ""
    common: bool = False
    method_file: str = ""

    def to_json(self) -> str:
        """The job as JSON text."""
        return json.dumps(asdict(replace(self, options=dict(self.options))), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The job that ``to_json`` wrote."""
        values = json.loads(text)
        values["data"] = DataSettings(**values["data"])
        values["network"] = NetworkSettings(**values["network"])
        return cls(**values)

    def protocol(self) -> Protocol:
        """How the run is judged."""
        return replace(self.data.protocol(), record_valid=self.record_valid)

    def spec(self) -> MethodSpec:
        """The method with its options; ``ConfigError`` for unknown ones."""
        from engram.methods.registry import add_file, entry, method

        if self.method_file:
            add_file(self.method_file)
        found = entry(self.method)
        options = {k: v for k, v in self.options.items() if k not in found.fixed}
        return method(self.method, options)


def section(name: str) -> str:
    """The name of a method's or network's options in files, where no hyphen may be."""
    return name.replace("-", "_")


def plain(value: Any) -> Any:
    """Tuples to lists, mappings to dictionaries: what JSON and YAML hold."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value


def network_name(settings: DataSettings, image_shape: tuple[int, ...]) -> str:
    """The network for data when none is named.

    Permuted pixels have no neighbours, so they get the perceptron; images whose size was asked for get what
    fits that size; everything else a convolutional pair, to whose size the images are brought.
    """
    from engram.networks import default_for

    if settings.scenario == "domain" and settings.domain == "permuted":
        return "mlp"
    if settings.image_size is not None:
        return default_for(image_shape).name
    return "dcgan8" if max(image_shape[1:]) <= SMALL_IMAGE else "dcgan"


def build_network(settings: NetworkSettings, name: str) -> Network:
    """The network called ``name`` with the options given.

    Raises:
        ConfigError: an unknown network or option, or a value out of range.
    """
    from engram import networks

    return networks.by_name(name)(**typed_all(name, networks.about(name).options, settings.options))


def load_data(settings: DataSettings, name: str | None) -> tuple[list[ImageData], str]:
    """The data sets at the size that the network called ``name`` needs, and the network's name."""
    from engram import networks
    from engram.streams import resize, to_channels

    sets = [_load(settings, one) for one in settings.sets]
    name = name or network_name(settings, sets[0].image_shape)
    size = networks.about(name).image_size
    if settings.image_size is None and size is not None:
        sets = [resize(one, size) for one in sets]  # says so in the notes
    channels = max(one.image_shape[0] for one in sets)
    return [to_channels(one, channels) for one in sets], name


def _load(settings: DataSettings, name: str) -> ImageData:
    from engram.streams import SHORT_NAMES, load

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


def build_stream(settings: DataSettings, network_hint: str | None = None) -> Stream:
    """The stream that the settings describe.

    Args:
        settings: the data and how they arrive.
        network_hint: name of the network it is for, None for the one that fits; images are resized to its
            size unless the settings name a size, and the stream's notes say so.

    Raises:
        DataError: data that cannot be read or used.
        ConfigError: classes that cannot be split so, or another value that cannot work.
    """
    return _stream(settings, load_data(settings, network_hint)[0])


def prepare(settings: DataSettings, network: NetworkSettings) -> tuple[Stream, Network]:
    """The stream and the network that fit together; errors as `build_stream` and `build_network`."""
    if network.name is not None:
        build_network(network, network.name)  # before any data are read
    data, name = load_data(settings, network.name)
    return _stream(settings, data), build_network(network, name)


def _stream(settings: DataSettings, sets: list[ImageData]) -> Stream:
    from engram.streams import class_incremental, permuted, rotated, sequence

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
