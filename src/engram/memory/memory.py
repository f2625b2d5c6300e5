"""A memory that lives on disk: it learns new classes when they arrive, without the old images, and answers for all.

>>> memory = engram.Memory.create("photos")  # doctest: +SKIP
>>> memory.learn({"cat": cats, "dog": dogs})  # doctest: +SKIP
>>> engram.Memory.open("photos").predict(["new.jpg"])  # doctest: +SKIP
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import engram
from engram.core.files import os_errors, sealed, unsealed, write_atomically
from engram.core.options import options_of
from engram.core.samples import Samples
from engram.core.stored import MemoryState, check
from engram.core.values import typed_all
from engram.errors import CheckpointError, ConfigError, DataError, DivergedError, PrivacyError, printable
from engram.learning.learner import checkpoint_folder, fingerprint
from engram.memory import folder
from engram.memory.model import Model, Tell, now, silent
from engram.memory.privacy import Audit
from engram.memory.rule import given
from engram.memory.settings import Settings
from engram.streams.labels import number as numbered
from engram.streams.sources import Arrival


@dataclass(frozen=True)
class Learned:
    """What a `learn` did.

    Args:
        generation: its number; that of before where nothing was to be done.
        call: its record, as in `Memory.calls`.
        notes: what a reader should know, such as which images were changed to fit.
        bytes_before, bytes_after: size of what is known.
        again: these images were the last ones learned already, and nothing was done.
    """

    generation: int
    call: Mapping[str, Any]
    notes: tuple[str, ...]
    bytes_before: int
    bytes_after: int
    again: bool = False


class Memory:
    """A memory in a folder. Make one with `create`, or `open` one that is there.

    Attributes:
        path: its folder.
        generation: number of the state that was read, 0 before the first.
        record: what is written of that state, see `engram.memory.folder`.
    """

    def __init__(self, path: str | os.PathLike[str], model: Model, generation: int = 0) -> None:
        self.path, self.model, self.generation = Path(path), model, generation
        self.record: dict[str, Any] = {}

    @classmethod
    @os_errors()
    def create(cls, path: str | os.PathLike[str], **settings: Any) -> Memory:
        """A memory that is made in ``path`` when it first learns.

        Args:
            path: a folder that is not there yet, or empty.
            settings: see `engram.memory.settings.Settings`.

        Raises:
            ConfigError: something else is there, or a setting cannot be used.
        """
        root = Path(path)
        if folder.is_memory(root):
            raise ConfigError(f"a new memory must have a place of its own, {root} is one already: open it.")
        folder.check_new(root)
        typed_all("memory", options_of(Settings()), settings)  # refuses other names
        return cls(root, Model(Settings(**settings)))

    @classmethod
    @os_errors()
    def open(cls, path: str | os.PathLike[str]) -> Memory:
        """The memory in ``path``. Takes no lock, so it may be read while another process writes.

        A damaged newest state is said in a warning, and the one before it is used.

        Raises:
            ConfigError: not a memory.
            CheckpointError: a newer version wrote it, or no state of it is whole.
        """
        return folder.read(Path(path), lambda record, files: cls._of(path, record, files))

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> Memory:
        """The memory in ``path``; also one of which there is only the first `learn`, unfinished."""
        root = Path(path)
        begun = not folder.is_memory(root) and (root / folder.WORK).is_dir()
        return cls(root, Model(Settings())) if begun else cls.open(root)

    @classmethod
    def _of(
        cls, path: str | os.PathLike[str], record: Mapping[str, Any], files: Mapping[str, bytes]
    ) -> Memory:
        check(record, MemoryState, "a state's record")
        memory = cls(path, Model.of_files(record["known"], files), record["number"])
        memory.record = dict(record)
        return memory

    # What it knows -----------------------------------------------------------------------------------------------
    @property
    def classes_(self) -> NDArray[np.str_]:
        """Names of the classes known, in order of arrival; the columns of `predict_proba`."""
        return np.array(self.model.classes, dtype=str)

    @property
    def calls(self) -> list[dict[str, Any]]:
        """What each `learn` did, in order."""
        return self.model.calls

    @property
    def n_bytes(self) -> int:
        """Bytes of the files of the state that was read."""
        return sum(int(facts["bytes"]) for facts in self.record.get("files", {}).values())

    # Learning ----------------------------------------------------------------------------------------------------
    def learn(self, images: Any, labels: Any = None, *, refine: bool = False, tell: Tell = silent) -> Learned:
        """Learn new classes from their images, and keep the new state.

        Interrupted, it goes on when it is called with the same images; until then readers see the state of before.

        Args:
            images: by class name, in any form of `engram.memory.rule.given`; or all, with ``labels``; or what
                `engram.streams.sources.arriving` found.
            labels: one an image: text or whole numbers, which become the names of classes.
            refine: known classes may be among them, where the method can: what is known of these is then that of all
                their images together, up to rounding, and no one run equals it bit for bit.
            tell: told how far it is.

        Raises:
            ConfigError: the classes cannot be learned now, or another process writes.
            DataError: images that cannot be used.
            DivergedError: training failed; the memory is as before.
            PrivacyError: what would be kept holds an image, and the method must not; the memory is as before.
            EngramError: the disk is full, or what else the system refuses; the memory is as before.
        """
        with folder.held(self.path):
            self._renew()
            arrival, y, names = _arrived(images, labels)
            if not len(y):
                raise DataError("images must be given to be learned, got none: give some of each class.")
            base, model = self.generation, self.model
            last = self.record.get("data")
            tell("reading images", 0, len(y))
            if set(names) - set(
                model.classes
            ):  # else it is the last call again, or an error that needs no pixels
                model.check(y, names, refine=refine)
            x, notes = model.prepare(arrival)
            data = fingerprint(Samples(x, y))
            if last == data and set(names) == set(self.calls[-1]["classes"]):
                return Learned(base, self.calls[-1], tuple(notes), self.n_bytes, self.n_bytes, again=True)
            model.check(y, names, refine=refine)
            self._begin_or_go_on(base, data, names)
            before, audit = self.n_bytes, Audit()
            try:
                call = model.learn(x, y, names, work=self.path / folder.WORK, tell=tell, audit=audit)
                tell("auditing", 0, 0)
                self._keep(base, {"data": data, "action": "learn"}, audit=audit)
            except (ConfigError, DataError, DivergedError, PrivacyError):
                self._drop_work()
                self.model = Model(self.model.settings)  # what was begun is spoiled
                self._renew()
                raise
            return Learned(self.generation, call, tuple(notes), before, self.n_bytes)

    def undo(self, to: int | None = None) -> str:
        """Go back to the state before; or drop what an interrupted `learn` left, where there is such. Says what it did.

        Args:
            to: number of a state that is kept, also of a later one that was undone.

        Raises:
            ConfigError: there is none before, that one is not kept, or another process writes.
        """
        with folder.held(self.path):
            begun = self.unfinished()
            self._drop_work()
            if begun is not None and to is None:
                return f"dropped the unfinished learn of {', '.join(begun['classes'])}"
            manifest = folder.repaired(self.path)
            earlier = [n for n in manifest.generations if n < manifest.current]
            if to is None and not earlier:
                raise ConfigError(
                    f"a state before must be kept to go back to, {self.path} keeps none before {manifest.current}: "
                    "delete the folder to forget everything."
                )
            target = max(earlier) if to is None else to
            if target not in manifest.generations:
                kept = ", ".join(map(str, sorted(manifest.generations)))
                raise ConfigError(f"--to must be a state that is kept, {kept}, got {to}: give one of them.")
            record, _ = folder.read_generation(self.path, target, manifest.generations[target])
            folder.swap(self.path, folder.Manifest(target, manifest.generations))
            self._renew()
            return f"state {manifest.current} undone, state {target} of {record['date'][:10]} is current"

    def forget(self, name: str) -> None:
        """Remove a class exactly, as if its images had never come; earlier states, which know it, go too.

        Raises:
            ConfigError: it is not known, the method cannot, a `learn` is unfinished, or another process writes.
        """
        with folder.held(self.path):
            self._renew()
            if self.unfinished() is not None:
                raise ConfigError(
                    f"nothing must be in progress, {self.path} has an unfinished learn: end it with the same command, "
                    f"or drop it with engram undo {self.path}."
                )
            base, self.generation = self.generation, -1  # spoiled until it is written
            self.model.forget(name)
            self._keep(base, {"data": "", "action": "forget"}, alone=True)

    def partial_fit(self, images: Any, labels: Any) -> Memory:
        """`learn` under the name that scikit-learn gives it; classes may be known already, where the method can."""
        self.learn(images, labels, refine=True)
        return self

    def _renew(self) -> None:
        """Read what is current: another process may have written since, or what is here was spoiled."""
        if folder.is_memory(self.path):
            newest = Memory.open(self.path)
            self.model, self.generation, self.record = newest.model, newest.generation, newest.record
        elif self.generation:
            raise ConfigError(f"{self.path} must be the memory that was opened, it is gone: open it again.")

    def _begin_or_go_on(self, base: int, data: str, names: Any) -> None:
        """Note what begins now, or that the same goes on; ``CheckpointError`` if it is another."""
        begun = self.unfinished()
        this = {"base": base, "data": data, "classes": list(names), "settings": self.model.settings.to_json()}
        if begun is not None and begun["base"] == base:
            if {**begun, "since": ""} == {
                **json.loads(json.dumps(this)),
                "since": "",
                "sha256": begun["sha256"],
            }:
                return
            raise CheckpointError(
                f"what was begun must be learned to its end, {self.path} is at {', '.join(begun['classes'][:5])} since "
                f"{begun['since']}: give the same images and options again, or drop it with engram undo {self.path}."
            )
        self._drop_work()
        body = json.dumps({**this, "since": now()})
        write_atomically(self.path / folder.WORK / folder.BEGUN, sealed(body))

    def unfinished(self) -> dict[str, Any] | None:
        """What an interrupted `learn` was at: base, classes, since; None where there is none worth going on with."""
        work = self.path / folder.WORK
        if checkpoint_folder(work).is_symlink() or not any(checkpoint_folder(work).glob("*.json")):
            return None
        try:
            begun = unsealed(folder.read_inside(self.path, f"{folder.WORK}/{folder.BEGUN}", folder.MOST_JSON))
        except (OSError, ValueError, RecursionError, CheckpointError):
            return None
        fields = {"base": int, "data": str, "classes": list, "settings": dict, "since": str}
        if begun is None or any(not isinstance(begun.get(name), kind) for name, kind in fields.items()):
            return None
        return begun

    def _drop_work(self) -> None:
        with os_errors(self.path):
            if (self.path / folder.WORK).exists():
                shutil.rmtree(self.path / folder.WORK)

    def _keep(
        self, parent: int, more: Mapping[str, Any], *, alone: bool = False, audit: Audit | None = None
    ) -> None:
        """Write the model as the next generation; ``alone`` keeps none beside it."""
        known, files = self.model.files()
        outcome = audit and self._audited(audit, files)
        kept: dict[int, str] = {}
        if parent and not alone:
            kept = dict(folder.repaired(self.path).generations)
            for later in [n for n in kept if n > parent]:  # undone before: this generation takes their place
                del kept[later]
            for old in sorted(kept)[: max(0, len(kept) + 1 - self.model.settings.keep)]:
                del kept[old]
        record: dict[str, Any] = {
            "number": max([parent, *folder.on_disk(self.path)]) + 1,
            "parent": parent,
            "date": now(),
            "versions": {"engram": engram.__version__, "torch": str(torch.__version__)},
            "known": known,
            "audit": outcome,
            **more,
        }
        folder.write(self.path, record, files, kept)
        self._drop_work()
        self._renew()

    def _audited(self, audit: Audit, files: Mapping[str, bytes]) -> dict[str, Any]:
        """The outcome of an audit; ``PrivacyError`` where a method that must keep no sample has kept one."""
        found = audit.outcome(files)
        assert self.model.learner is not None
        if found["found"] and self.model.learner.method.reads == "task":
            raise PrivacyError(
                f"a memory of {self.model.settings.method} must hold no image that it learned, {found['found']} "
                f"{'row is' if found['found'] == 1 else 'rows are'} one ({found['where'][0]}): give more, and "
                "different, images of each class."
            )
        return found

    def keep(self) -> None:
        """Write what is known as the first state of a new memory."""
        with folder.held(self.path):
            self._keep(0, {"data": "", "action": "save"})

    # Answering ---------------------------------------------------------------------------------------------------
    def predict(self, images: Any, *, reject: float | None = None) -> NDArray[np.str_]:
        """The name of the most probable class of each image, in any form of `engram.memory.rule.given`.

        With ``reject``, "" where an image shows none of the known classes, see `answers`.
        """
        probabilities, rejected = self.answers(images, reject)
        names: NDArray[np.str_] = np.where(rejected, "", self.classes_[probabilities.argmax(1)])
        return names

    def predict_proba(self, images: Any) -> NDArray[np.float64]:
        """Probabilities [N, classes], in the order of `classes_`; ``model.uncalibrated`` says where they are none."""
        return self.answers(images)[0]

    def answers(
        self, images: Any, reject: float | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Probabilities [N, classes], and whether each image shows none of the known classes [N]; all False without
        ``reject``, the share of images of known classes that may be rejected.

        Warns where fewer images of a class were held out than that share needs: see `Model.rejected`.

        Raises:
            ConfigError: ``reject`` is not in (0, 1).
        """
        logits = self.model.logits(self.model.prepare(given(images))[0])
        rejected = torch.zeros(len(logits), dtype=torch.bool)
        if reject is not None:
            rejected = self.model.rejected(logits, reject)
        return self.model.calibrated(logits).numpy(), rejected.numpy()


@dataclass(frozen=True)
class State:
    """A kept state, as `verify` finds it.

    Args:
        number, current: which, and whether it is what readers see.
        date, action: when it was made, and by what.
        n_classes, n_bytes: what it holds.
        audit: its outcome in words.
        fault: why it cannot be used; empty where it is whole.
    """

    number: int
    current: bool
    date: str = ""
    action: str = ""
    n_classes: int = 0
    n_bytes: int = 0
    audit: str = ""
    fault: str = ""


def verify(path: str | os.PathLike[str]) -> list[State]:
    """Look at all that is kept: checksums, whether it makes a memory that answers, and what its audit found.

    Raises:
        ConfigError, CheckpointError: not a memory, of a newer version, or its manifest is damaged.
    """
    root = Path(path)
    manifest = folder.read_manifest(root)
    states = []
    for number, sha256 in sorted(manifest.generations.items()):
        current = number == manifest.current
        try:
            found = folder.made(root, number, sha256, lambda record, files: Memory._of(root, record, files))
        except folder.Damaged as error:
            states.append(State(number, current, fault=str(error)))
            continue
        record = found.record
        states.append(
            State(
                number,
                current,
                record["date"],
                record["action"],
                len(found.classes_),
                found.n_bytes,
                audit_words(found),
                _audit_fault(found),
            )
        )
    return states


def audit_words(memory: Memory) -> str:
    """What the audit of the state that was read found."""
    audit = memory.record.get("audit")
    if audit is None:
        return f"none, {memory.record['action']} has no images"
    found = f"{audit['found']:,}" if audit["found"] else "none"
    return f"{found} of {audit['images']:,} images in {audit['rows']:,} rows"


def _audit_fault(memory: Memory) -> str:
    """Why the outcome of an audit cannot stand; empty where it can."""
    audit, files = memory.record.get("audit"), memory.record["files"]
    assert memory.model.learner is not None
    if audit is None:
        return ""
    if audit["files"] != {name: f["sha256"] for name, f in files.items() if name.endswith(".safetensors")}:
        return f"generation {memory.generation}: its audit is of other files"
    if audit["found"] and memory.model.learner.method.reads == "task":
        return (
            f"generation {memory.generation}: it holds images, which {memory.model.settings.method} must not"
        )
    return ""


def _arrived(images: Any, labels: Any) -> tuple[Any, Tensor, tuple[str, ...]]:
    """Images as `Model.prepare` takes them, their labels 0.. and the names of these, in order of arrival."""
    if isinstance(images, Arrival):
        return images.images, images.labels, images.class_names
    if isinstance(images, Mapping):
        if labels is not None:
            raise ConfigError(
                "labels must be left out where images come by class name, got both: leave them out."
            )
        parts = {printable(str(name)): given(one) for name, one in images.items()}
        vectors = [part for part in parts.values() if isinstance(part, Tensor)]
        y = [label for label, part in enumerate(parts.values()) for _ in range(len(part))]
        if not vectors:
            return (
                [one for part in parts.values() for one in part],
                torch.tensor(y, dtype=torch.int64),
                tuple(parts),
            )
        if len(vectors) < len(parts) or len({part.shape[1:] for part in vectors}) > 1:
            raise DataError(
                "images must be of one kind in all classes, got vectors and others: give one kind."
            )
        return torch.cat(vectors), torch.tensor(y, dtype=torch.int64), tuple(parts)
    if labels is None:
        raise ConfigError(
            "labels must be given with images that do not come by class name: give one an image."
        )
    found = given(images)
    (y,), names = numbered({"labels": np.asarray(labels).tolist()})
    if len(y) != len(found):
        raise DataError(f"labels must be one an image, got {len(y)} for {len(found)} images: give as many.")
    return found, torch.tensor(y, dtype=torch.int64), tuple(map(printable, names))
