"""A learner: given one task after another, it knows nothing of those to come and answers for all classes so far.

It knows classes by name, in order of arrival, and hands methods their places in that order as labels. What makes it
this learner is its method, network, scenario and seed, and a record of each task learned: the names of its classes,
the number of its samples and their fingerprint. It keeps no samples (a method may, see `engram.parts.memory`).

Everything random is a function of the seed and of where training stands, so a learner that was saved and loaded goes
on as if it had never stopped, bit for bit, between tasks and between epochs of a task.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor
from torch.utils import deterministic

from engram.core.contract import Context, Method, Scenario, TaskInfo, evaluating
from engram.core.network import Network
from engram.core.options import Compile, Precision, options_of
from engram.core.samples import Samples, Shape
from engram.core.stored import LearnerRecord, check
from engram.core.values import typed_all
from engram.errors import CheckpointError, ConfigError, EngramError, reason
from engram.learning.checkpoint import Checkpoints, difference, packed, this_format, unpack
from engram.learning.loop import EpochEnd, train_task
from engram.learning.precision import computing
from engram.learning.state import LoopState
from engram.methods.registry import MethodSpec, entry, spec_of
from engram.networks import by_name, class_of, default_for

BATCH = 500
GONE = "\0"  # begins what stands for the name of a class that was forgotten


def as_network(network: Any, image_shape: Shape) -> Network:
    """A network by name, an object, a module or what makes one, or the one that fits the images where it is None.

    ``ConfigError`` if it cannot take them.
    """
    if network is None:
        network = default_for(image_shape)
    elif isinstance(network, str):
        network = by_name(network)()
    elif not isinstance(network, Network):
        network = class_of(network, str(network))()
    found: Network = network
    found.check(image_shape)
    return found


def check_device(name: str) -> torch.device:
    """The device called ``name``; ``ConfigError`` where there is none.

    An accelerator is put, for this process, into the mode in which the same operations give the same bits: without
    it, sums of gradients come in any order, and no seed gives the same run twice.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device must be cpu or cuda, got {name!r}: give one of them.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device cuda needs an accelerator that PyTorch can use, there is none: give --device cpu."
        )
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device must be cpu or cuda, got {name!r}: give one of them.")
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Otherwise a kernel fills each new tensor, for code that reads what it has not written.
        deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = (
            False  # unless it is asked for
        )
    return device


def fingerprint(samples: Samples) -> str:
    """sha256, as hex, of samples: their kind, shape, values, labels and order."""
    found = hashlib.sha256()
    for tensor in (samples.x, samples.y):
        found.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
        found.update(tensor.cpu().contiguous().numpy().data)
    return found.hexdigest()


def _is_integer(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _tensor(given: Any) -> Tensor:
    try:
        return torch.as_tensor(given)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"samples must be numbers, got a {type(given).__name__}: give a tensor or an array ({reason(error)})."
        ) from error


class Learner:
    """A method that learns tasks as they come, predicts, and can be kept in a folder.

    Args:
        method: a name, ``engram.method(name, option=...)``, or a class of your own with its default options.
        network: a name, a `Network`, a torch module that maps images to features, its class or a function that makes it
            (see :mod:`engram.networks.modules`), or None for the one that fits the images.
        image_shape: (C, H, W) of every image, or (D,) of every feature vector.
        scenario: class (no task label, all classes known compete), task (label given, a task's own classes compete),
            or domain (no label, every task has the same classes).
        seed: of everything random.
        n_classes, n_tasks: how many will ever come, for methods that must know (DGM with ``label=within_stream``,
            joint training with ``at``); others are not told apart by them.
        device: cpu or cuda.
        compile: ``inductor`` or ``cudagraphs`` makes graphs of steps, see :mod:`engram.learning.compiling`. Part of
            what the learner is, since the same steps as they are may give other bits.
        precision: of the losses while it learns, see :mod:`engram.learning.precision`; part of what it is as well. What
            the device cannot is refused when it learns: what was learned elsewhere can be asked anywhere.

    Attributes:
        learned: a record of each task, the one in progress included: classes, n_samples, fingerprint.
        method, state: the method, and where its training stands.

    Raises:
        ConfigError: a combination that cannot work.
    """

    def __init__(
        self,
        method: MethodSpec | type[Method] | str,
        network: Any = None,
        *,
        image_shape: Shape,
        scenario: Scenario = "class",
        seed: int = 0,
        n_classes: int | None = None,
        n_tasks: int | None = None,
        device: str = "cpu",
        compile: Compile = "eager",
        precision: Precision = "float32",
    ) -> None:
        sizes = image_shape if isinstance(image_shape, (tuple, list)) else ()
        if len(sizes) not in (1, 3) or not all(_is_integer(n, 1) for n in sizes):
            raise ConfigError(
                f"image_shape must be (C, H, W) or (D,), got {image_shape!r}: give positive integers."
            )
        if not _is_integer(seed, 0):
            raise ConfigError(f"seed must be an integer >= 0, got {seed!r}: give for example 0.")
        self.device = check_device(device)
        self.spec, self.network = spec_of(method), as_network(network, image_shape)
        context = Context(self.network, tuple(image_shape), n_classes, scenario, seed, n_tasks)
        self.method: Method = self.spec.make(self.spec.config, context).to(self.device)
        self.state = LoopState()
        if compile not in get_args(Compile):
            raise ConfigError(
                f"compile must be one of {', '.join(get_args(Compile))}, got {compile!r}: give one of them."
            )
        self.compile, self.precision = compile, precision
        if precision in get_args(Precision) and precision not in self.method.precisions:
            raise ConfigError(
                f"precision must be {' or '.join(self.method.precisions)} for {self.spec.name}, got {precision!r}: "
                "that its accuracy stays the same was not shown over five seeds."
            )
        self.learned: list[dict[str, Any]] = []
        self._between_epochs = True

    # What it is --------------------------------------------------------------------------------------------------
    @property
    def scenario(self) -> Scenario:
        """How it will be asked."""
        return self.method.context.scenario

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes known, in order of arrival, those of a task in progress included."""
        return self._arrived(len(self.learned))

    def _arrived(self, n_tasks: int) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for task in self.learned[:n_tasks] for name in task["classes"]))

    def identity(self) -> dict[str, Any]:
        """What makes it this learner beside the tasks it learned, as JSON."""
        context = self.method.context
        return {
            "method": self.spec.describe(),
            "network": self.network.describe(),
            "image_shape": list(context.image_shape),
            "scenario": context.scenario,
            "seed": context.seed,
            "capacity": self.method.capacity,
            **({"compile": self.compile} if self.compile != "eager" else {}),
            **({"precision": self.precision} if self.precision != "float32" else {}),
        }

    def task(self, index: int) -> TaskInfo:
        """The numbers of a task that is learned or in progress, counted from 0."""
        if not _is_integer(index, 0) or index >= len(self.learned):
            raise ConfigError(
                f"a task must be among the {len(self.learned)} learned, got {index}: learn it first."
            )
        own, stop = self.learned[index]["classes"], len(self._arrived(index + 1))
        return TaskInfo.of(index, stop - len(own), stop, self.scenario)

    # Learning ----------------------------------------------------------------------------------------------------
    def learn(
        self,
        samples: Mapping[str, Tensor] | Samples,
        classes: Iterable[str] = (),
        *,
        folder: str | os.PathLike[str] | None = None,
        on_epoch: Callable[[EpochEnd], None] | None = None,
    ) -> None:
        """Learn one task, or what is left of it where it was interrupted between epochs.

        Args:
            samples: images or vectors by class name, as in Samples; or Samples whose labels are places in the order of
                arrival, new classes following those known, with the names of their classes. Classes must be new; in
                scenario domain, those of the first task; for a method that reads all, those known and new ones, with
                all samples so far.
            classes: names of the classes of Samples, in order of arrival.
            folder: checkpoints are written there, after epochs (see `Checkpoints.due`) and at the end; None writes
                nothing.
            on_epoch: told after each epoch. What it raises leaves the learner at the end of that epoch.

        Raises:
            ConfigError: classes or samples that cannot be learned now.
            CheckpointError: a task is in progress and these are other samples, or ``folder`` holds another learner.
            DivergedError: a loss or a parameter is not finite; checkpoints stay as they were.
        """
        self._check_whole()
        if not isinstance(samples, (Mapping, Samples)):
            raise ConfigError(
                f"samples must be a mapping from class names or Samples, got {samples!r}: see Learner.learn."
            )
        if isinstance(classes, str):
            raise ConfigError(f"classes must be a list of names, got {classes!r}: give [{classes!r}].")
        index = self.state.cursor.task
        names = tuple(samples) if isinstance(samples, Mapping) else tuple(classes)
        before = self._arrived(index)
        own = self._own(names, before)
        known = tuple(dict.fromkeys((*before, *own)))
        data = self._labelled(samples, known) if isinstance(samples, Mapping) else samples
        self._check_samples(data, len(known), 0 if set(before) & set(names) else len(before))
        data = Samples(data.x.to(self.device), data.y.to(self.device))
        record = {"classes": list(own), "n_samples": len(data), "fingerprint": fingerprint(data)}
        if index < len(self.learned) and record != self.learned[index]:
            raise CheckpointError(
                f"a task in progress must be learned to its end with its own samples, these are others "
                f"({difference(self.learned[index], record)}): give the samples of "
                f"{', '.join(self.learned[index]['classes'])} that it began with."
            )
        kept = None if folder is None else self._checkpoints(folder)
        self.learned[index:] = [record]

        def told(event: EpochEnd) -> None:
            self._between_epochs = True
            if kept is not None and kept.due():
                self.store(kept)
            if on_epoch is not None:
                on_epoch(event)
            self._between_epochs = False

        self._between_epochs = False
        with computing(self.precision, self.device):
            train_task(
                self.method,
                self.task(index),
                data,
                self.state,
                self.method.context.seed,
                on_epoch=told,
                compile=self.compile,
                precision=self.precision,
            )
        self._between_epochs = True
        if kept is not None:
            self.store(kept)

    def forget(self, name: str) -> None:
        """Remove a class exactly, where the method can; its place stays, without a name and never the answer.

        Raises:
            ConfigError: it is not known, or the method's state does not tell classes apart.
        """
        self._check_whole()
        if name not in self.classes:
            raise ConfigError(
                f"a class must be known to be forgotten, {name!r} is not: give one of {self.classes}."
            )
        place = self.classes.index(name)
        self.method.forget(place)
        self.learned = [
            {
                **task,
                "classes": [GONE + str(place) if n == name else n for n in task["classes"]],
                "fingerprint": "",
            }
            if name in task["classes"]
            else task
            for task in self.learned
        ]

    def _own(self, names: Sequence[str], before: Sequence[str]) -> tuple[str, ...]:
        """The classes of a task whose samples are of the classes ``names``, after those of ``before``."""
        for name in names:
            if not isinstance(name, str):
                raise ConfigError(f"classes must be text, got {name!r}: give a name.")
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"classes must have names of their own, at least one, got {list(names)}.")
        old, new = [n for n in names if n in before], tuple(n for n in names if n not in before)
        if self.scenario == "domain" and before:
            if set(names) != set(before):
                raise ConfigError(
                    f"every task of scenario domain must have the classes {', '.join(before)}, got "
                    f"{', '.join(names)}: give the same classes, or use scenario class or task."
                )
            return tuple(before)
        if self.method.reads == "all" and len(old) < len(before):
            missing = next(name for name in before if name not in old)
            raise ConfigError(
                f"{self.spec.name} reads all samples so far, those of class {missing} are not there: give them too."
            )
        if self.method.refines:
            return new
        if self.method.reads != "all" and old:
            raise ConfigError(
                f"classes must be new, {old[0]} is known already: give samples of new classes only."
            )
        if not new:
            raise ConfigError(
                "a task must bring a class that is not known yet, this one brings none: give new ones."
            )
        return new

    def _labelled(self, samples: Mapping[str, Tensor], known: Sequence[str]) -> Samples:
        """Images by class name, one class after another, with the places of their classes in ``known`` as labels."""
        images = {name: _tensor(x) for name, x in samples.items()}
        for name, x in images.items():
            self._check_images(x)
            if not len(x):
                raise ConfigError(f"every class must have images, {name} has none: leave it out.")
        labels = [torch.full((len(x),), known.index(name)) for name, x in images.items()]
        return Samples(torch.cat(list(images.values())), torch.cat(labels))

    def _check_images(self, x: Tensor) -> None:
        shape = list(self.method.context.image_shape)
        kind = torch.uint8 if len(shape) == 3 else torch.float32
        if list(x.shape[1:]) != shape or x.dtype != kind:
            raise ConfigError(
                f"samples must be {str(kind)[6:]} [N, {', '.join(map(str, shape))}], got {str(x.dtype)[6:]} "
                f"{list(x.shape)}: bring them to this shape."
            )
        if x.is_floating_point() and not x.isfinite().all():
            n_bad = int((~x.isfinite()).any(1).sum())
            raise ConfigError(
                f"samples must be finite, {n_bad} of {len(x)} hold NaN or infinity: leave these out, or mend them."
            )

    def _check_samples(self, data: Samples, n_known: int, first: int) -> None:
        self._check_images(data.x)
        if not len(data) or len(data.x) != len(data.y) or data.y.dtype != torch.int64:
            raise ConfigError(
                f"a task must have samples with an int64 label each, got {len(data.x)} images and {len(data.y)} labels "
                f"{str(data.y.dtype)[6:]}: give at least one."
            )
        low, high = int(data.y.min()), int(data.y.max())
        if low < first or high >= n_known:
            raise ConfigError(
                f"labels must be places {first}..{n_known - 1} in the order of arrival, got {low}..{high}: count new "
                "classes on from those known."
            )

    def _check_whole(self) -> None:
        if not self._between_epochs:
            raise CheckpointError(
                "a learner must stand between epochs to go on, this one was stopped within one: load it from a folder."
            )

    # Answering ---------------------------------------------------------------------------------------------------
    def predict(self, images: Tensor, *, task: int | None = None) -> Tensor:
        """Logits [N, n] over ``classes`` for images uint8 [N, C, H, W]; minus infinity where a class cannot be.

        Args:
            images: any number of them, answered in batches.
            task: the task that the images are of, counted from 0; in scenario task only.

        Raises:
            ConfigError: nothing is learned yet, or the task label is missing or must not be given.
            EngramError: logits are NaN.
        """
        if not self.learned:
            raise ConfigError(
                "a learner must have learned a task to predict, this one has not: learn one first."
            )
        if (task is None) == (self.scenario == "task"):
            given = "needs the task of the images" if task is None else "gives no task label"
            raise ConfigError(f"scenario {self.scenario} {given}, got task={task}: see predict.")
        info = None if task is None else self.task(task)
        images = _tensor(images)
        self._check_images(images)
        normalise = self.network.normalise
        with evaluating(self.method):
            parts = images.to(self.device).split(BATCH)
            logits = torch.cat([self.method.predict(normalise(part), task=info) for part in parts])
        n_bad = int(logits.isnan().sum())
        if n_bad:
            raise EngramError(
                f"{self.spec.name} must predict numbers, {n_bad} of its {logits.numel()} logits are NaN: mend what "
                "computes them."
            )
        return logits

    # Keeping -----------------------------------------------------------------------------------------------------
    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write a checkpoint into ``folder``, made where it is missing; the newest two there are kept.

        Raises:
            CheckpointError: the folder holds another learner, or this one was stopped within an epoch.
        """
        self._check_whole()
        self.store(self._checkpoints(folder))

    def _checkpoints(self, folder: str | os.PathLike[str]) -> Checkpoints:
        """Those in ``folder``, which must be of this learner, now or before."""
        found = Checkpoints(checkpoint_folder(folder), self.identity())
        found.check()
        newest = found.newest()
        learned = [] if newest is None else _checked(newest["record"])["learned"]
        if learned != self.learned[: len(learned)]:
            raise CheckpointError(
                f"{folder} must hold this learner or none, its learner has learned {len(learned)} tasks that are not "
                f"the first of this one's {len(self.learned)}: give another folder."
            )
        return found

    def store(self, checkpoints: Checkpoints, record: Mapping[str, Any] | None = None) -> None:
        """Write the next checkpoint of a run that this learner is in; ``record`` stands in it beside ``learned``."""
        checkpoints.save(self.method, self.state, {"learned": self.learned, **(record or {})})

    def restore(self, checkpoints: Checkpoints, *, shared: bool = False) -> dict[str, Any] | None:
        """Stand where the newest of these checkpoints stands; its record, or None where there is none."""
        record = checkpoints.restore(self.method, self.state, shared=shared)
        self.method.to(self.device)  # a network that was made for what was stored
        if record is not None:
            self.learned = _checked(record).pop("learned")
        return record

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        *,
        method: type[Method] | None = None,
        network: Any = None,
        device: str = "cpu",
    ) -> Learner:
        """The learner kept in ``folder``, or that of a run whose folder it is.

        Args:
            folder: what `save` or `learn` was given, or the ``out`` of a run.
            method: its class, where that is your own; options are read from the folder.
            network: where that is your own, as for a new learner.
            device: cpu or cuda.

        Raises:
            CheckpointError: no learner is there, it is damaged or of another version, or it needs another method or
                network than was given.
        """
        path = checkpoint_folder(folder)
        newest = Checkpoints(path, {}).newest()
        if newest is None:
            raise CheckpointError(
                f"{folder} must hold a learner, it holds no checkpoint that can be read: give another folder."
            )
        stored = newest["identity"]
        learner = cls._made(stored, str(folder), method, network, device)
        own = learner.identity()
        Checkpoints(path, {**stored, **own}).check()
        learner.restore(Checkpoints(path, stored))
        return learner

    # The files of a learner, for those who keep them elsewhere than in a folder of checkpoints.
    def packed(self) -> tuple[bytes, dict[str, Any]]:
        """The content of a safetensors file, and the JSON beside it, from which `unpacked` makes this learner."""
        self._check_whole()
        return packed(self.identity(), self.method, self.state, {"learned": self.learned})

    @classmethod
    def unpacked(cls, content: bytes, meta: dict[str, Any], *, device: str = "cpu") -> Learner:
        """The learner that was `packed`; ``CheckpointError`` where this version cannot make it."""
        learner = cls._made(
            this_format(meta, "a packed learner")["identity"], "a packed learner", None, None, device
        )
        unpack(meta, load_tensors(content), learner.method, learner.state)
        learner.method.to(learner.device)
        learner.learned = list(_checked(meta["record"])["learned"])
        return learner

    @classmethod
    def _made(
        cls,
        stored: Mapping[str, Any],
        where: str,
        method: type[Method] | None,
        network: Any,
        device: str,
    ) -> Learner:
        """A fresh learner of an identity."""
        try:
            name, options = stored["method"]["name"], stored["method"]["options"]
            make, config = (method, method.Config()) if method else (entry(name).make, entry(name).config)
            config = dataclasses.replace(config, **typed_all(name, options_of(config), options))
            if network is None:
                kind, given = by_name(stored["network"]["name"]), stored["network"]["options"]
                network = kind(**typed_all(kind.name, options_of(kind()), given))
            return cls(
                MethodSpec(name, make, config),
                network,
                image_shape=tuple(stored["image_shape"]),
                scenario=stored["scenario"],
                seed=stored["seed"],
                device=device,
                compile=stored.get("compile", "eager"),
                precision=stored.get("precision", "float32"),
                **stored["capacity"],
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{where} must hold a learner that this version and these arguments can make, it does not ({error}): "
                "give its method and network, or another folder."
            ) from error


def _checked(record: dict[str, Any]) -> dict[str, Any]:
    check(record, LearnerRecord, "a checkpoint is not of a learner", CheckpointError)
    return record


def checkpoint_folder(folder: str | os.PathLike[str]) -> Path:
    """Where the checkpoints of a learner or run in ``folder`` lie."""
    if not isinstance(folder, (str, os.PathLike)):
        raise ConfigError(f"folder must be a path, got {folder!r}: give one.")
    return Path(folder) / "checkpoints"
