"""What a study is told about data, network and place, as plain frozen values that JSON can hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engram.core.files import os_errors
from engram.core.options import Compile, Precision
from engram.errors import ConfigError

if TYPE_CHECKING:
    from engram.protocols.protocol import Protocol

__all__ = ["DataSettings", "FeatureSettings", "NetworkSettings", "Settings", "plain", "section"]

# By default: of a sweep; and of a trade-off, whose required target accuracies come from fine-tuning.
VALID_FRACTION = 0.1
RECIPE, FINETUNE = "tradeoff-small", "finetune"
POINTS, WIDEN = 9, 3

Selection = Literal["last", "val_real_all"]

# Pixels squared that images are brought to; None: as they come; "network": what the network needs.
Size = int | None | Literal["network"]

# Settings that say where things lie on this machine: not part of what a run is.
PLACES = ("data_dir", "cache_dir")


@dataclass(frozen=True)
class DataSettings:
    """The data, how they arrive, and how a run is judged.

    Args:
        data: the data set: digits, mnist, fashion_mnist, cifar10, cifar100, svhn, a folder, or a Hugging Face name
            "user/name"; ":FIRST-LAST" behind it keeps these classes; several with "+" between them are a task
            each, such as cifar10+cifar100:0-9.
        data_dir: folder with data sets as sub-folders; by default $ENGRAM_DATA.
        cache_dir: folder for decoded data; by default $ENGRAM_CACHE or ~/.cache/engram.
        scenario: what tasks bring: class (new classes, no task label at test time), task (new classes, label given)
            or domain (same classes, other images).
        selection: the test accuracy that is reported: last, after a task's last epoch; or val_real_all, at the
            epoch that is best on real validation data of all tasks so far, as DGM's released code (not strict).
        tasks: number of tasks; by default one a class, at most 10.
        groups: number of classes of each task, such as [5, 3, 2], in place of --tasks.
        class_order: order of arrival, as labels such as [3, 1, 0, 2] or as class names such as [dog, cat]; random; by
            default 0, 1, 2, ...
        stream_seed: seed of a random class order, permutations and splits.
        valid_fraction: share of each class's training samples that is held out.
        max_per_class: use only so many training samples of a class.
        image_size: resize images to this many pixels squared; by default to what the network needs.
        image_column: the column of a table that holds images; by default the only one there is.
        label_column: the column of a table that holds labels; by default the one of class labels, or called label.
        domain: what changes from task to task in scenario domain: permuted pixels or rotated images.
        max_angle: largest angle of rotated images: angles are equally spaced from 0 to this many degrees.
        angles: the angles of rotated images themselves, one a task.
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
        """The names of the data sets, in order; a folder whose name holds a plus sign is one, and so is an object."""
        if not isinstance(self.data, str) or "+" not in self.data or Path(self.data).expanduser().exists():
            return (self.data,)
        return tuple(self.data.split("+"))

    def _refuse(self, *names: str, why: str) -> None:
        for name in names:
            if getattr(self, name) is not None:
                value = getattr(self, name)
                raise ConfigError(f"{name} must be left out ({why}), got {value!r}: leave it out.")

    def protocol(self) -> Protocol:
        """How the run is judged."""
        from engram.protocols.protocol import Protocol  # with torch

        return Protocol(self.scenario, selection=self.selection)

    def what(self) -> dict[str, Any]:
        """The settings that decide what is learned, as JSON; where files lie is left out."""
        return {k: v for k, v in plain(asdict(self)).items() if k not in PLACES}


@dataclass(frozen=True)
class NetworkSettings:
    """The network by name, and its options.

    Args:
        name: dcgan (32x32), dcgan8 (8x8), resgan (32x32), cifar-cnn, preact-resnet, plain-cnn (32x32) or mlp; by
            default the one that fits the images.
        options: of that network; those left out keep their defaults.
    """

    name: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FeatureSettings:
    """Fixed features: what methods see of images.

    Args:
        name: pixels, fourier, scattering, first-task, FILE.py:NAME or timm:NAME; None for the images themselves.
        options: of registered features; those left out keep their defaults.
        weights: safetensors file of FILE.py:NAME or timm:NAME.
        trained_on: what those weights were trained on, for tables.
    """

    name: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None
    trained_on: str | None = None


@dataclass(frozen=True)
class Settings:
    """What every study is told beside what it compares.

    Args:
        out: folder of the study.
        data, network: what is learned, and with which network.
        features: fixed ones that methods see the images through.
        seeds: distinct integers >= 0.
        device: cpu, cuda, or auto for cuda where there is an accelerator.
        jobs: processes side by side; None is the number of cores on a CPU, 1 on an accelerator.
        resume: continue what ``out`` holds; finished seeds are not repeated.
        overwrite: replace what ``out`` holds of these variants.
        recipe: name of the recipe that settings come from, for the record.
        held: by name, data that were given as objects, see :func:`engram.studies.building.hold`.
        accept_edited: take files of ``out`` that do not match their checksum as they are.
        compile: how training steps are made graphs, see :mod:`engram.learning.compiling`.
        precision: of losses, see :mod:`engram.learning.precision`.
    """

    out: Path
    data: DataSettings
    network: NetworkSettings
    seeds: Sequence[int] = (0,)
    device: str = "cpu"
    jobs: int | None = None
    resume: bool = False
    overwrite: bool = False
    recipe: str | None = None
    held: Mapping[str, Any] = field(default_factory=dict)
    features: FeatureSettings = field(default_factory=FeatureSettings)
    accept_edited: bool = False
    compile: Compile = "eager"
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if not isinstance(self.seeds, Iterable):
            raise ConfigError(
                f"seeds must be a list of distinct integers >= 0, got {self.seeds!r}: give for example [0]."
            )
        if not isinstance(self.device, str):
            raise ConfigError(f"device must be cpu, cuda or auto, got {self.device!r}: give one of them.")
        object.__setattr__(self, "out", Path(self.out))
        seeds = (s.item() if hasattr(s, "item") else s for s in self.seeds)  # of an array too
        object.__setattr__(self, "seeds", tuple(seeds))
        good = all(isinstance(s, int) and not isinstance(s, bool) and s >= 0 for s in self.seeds)
        if not self.seeds or not good or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(
                f"seeds must be distinct integers >= 0, at least one, got {list(self.seeds)}: give for example 0 1 2."
            )
        if self.jobs is not None and (type(self.jobs) is not int or self.jobs < 1):
            raise ConfigError(
                f"jobs must be an integer >= 1, got {self.jobs!r}: leave it out for one a core."
            )
        if self.resume and self.overwrite:
            raise ConfigError("only one of resume and overwrite may be given, got both: leave one out.")
        with os_errors():
            is_file = self.out.exists() and not self.out.is_dir()
        if is_file:
            raise ConfigError(f"out must be a folder, got the file {self.out}: give another --out.")


def section(name: str) -> str:
    """The name of a method's or network's options in files and namespaces, where no hyphen may be."""
    return name.replace("-", "_")


def plain(value: Any) -> Any:
    """Tuples to lists, mappings and settings to dictionaries: what JSON and YAML hold."""
    if isinstance(value, FeatureSettings):
        value = vars(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value
