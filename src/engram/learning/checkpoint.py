"""Checkpoints: tensors as safetensors, the rest as JSON; written atomically, checksummed, never pickled.

They keep a learner, alone or in a run: method, cursor, optimisers, and a record beside them.

A checkpoint is a pair ``N.safetensors`` and ``N.json``. The JSON is moved into place last and holds the checksum of
the tensors and of itself, so a pair is either whole or not there. The newest two are kept; when the newest is damaged
the one before it is used, and that is said.

A checkpoint is due after an epoch when training since the last one took fifty times as long as writing that did, and a
second at least. So writing takes at most 2 % of training, and a killed process loses no more than that much training
and the epoch in progress: a second where a checkpoint takes less than 20 ms, 22 s where it takes 0.43 s.

Waiting for the disk costs more than a small network's epoch, so it is done at most every ten seconds, and the newest
pair that was waited for is kept as well: a power cut loses no more.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from engram.core.contract import Method
from engram.core.files import (
    digest,
    drop_leftovers,
    os_errors,
    read_regular,
    sealed,
    unsealed,
    write_atomically,
)
from engram.core.stored import Checkpoint, check
from engram.errors import CheckpointError, reason
from engram.learning.state import Cursor, LoopState

FORMAT = 2
KEEP = 2
SYNC_SECONDS = 10.0
LEAST_SECONDS = 1.0  # of training between two checkpoints
SHARE = 0.02  # of training that writing them may take


class Checkpoints:
    """The checkpoints of one learner or run.

    Args:
        folder: made when the first one is written; temporary files of dead processes are removed before it is.
        identity: what makes it this one (method, network, seed and so on; for a run also its stream), as JSON; a
            checkpoint with another identity is refused.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self.identity = json.loads(json.dumps(identity, sort_keys=True))
        with os_errors():
            numbers = self._numbers()
        self.number = max(numbers, default=-1)
        self.seconds = 0.0  # that writing took
        self.next = time.perf_counter() + LEAST_SECONDS  # when the next one is due, on this process's clock
        self.synced: tuple[int, float] | None = None  # the newest pair that was waited for, and when
        self._done: list[
            tuple[object, str]
        ] = []  # finished tasks of the record and their JSON, which never changes

    def _numbers(self) -> list[int]:
        names = {p.stem for p in self.folder.glob("*.json")} if self.folder.is_dir() else set()
        return sorted(int(name) for name in names if re.fullmatch(r"[0-9]{8,18}", name))

    def _paths(self, number: int) -> tuple[Path, Path]:
        return self.folder / f"{number:08d}.safetensors", self.folder / f"{number:08d}.json"

    def due(self) -> bool:
        """Whether it is time for the next one."""
        return time.perf_counter() >= self.next

    @os_errors()
    def save(self, method: Method, state: LoopState, record: Mapping[str, Any]) -> None:
        """Write the next checkpoint, then drop all but the newest two.

        Args:
            method: its structure and state dict are stored.
            state: cursor and optimisers.
            record: results so far, as JSON.
        """
        began = time.perf_counter()
        content, meta = packed(
            self.identity, method, state, {k: v for k, v in record.items() if k != "tasks"}
        )
        body = json.dumps(meta, sort_keys=True)
        if "tasks" in record:
            body = f'{{"tasks": [{", ".join(self._encoded(record["tasks"]))}], {body[1:]}'
        if self.synced is None:
            drop_leftovers(self.folder)
        now = time.monotonic()
        sync = self.synced is None or now - self.synced[1] >= SYNC_SECONDS
        self.number += 1
        tensor_path, meta_path = self._paths(self.number)
        write_atomically(tensor_path, content, sync=sync)
        write_atomically(meta_path, sealed(body), sync=sync)
        if sync:
            self.synced = self.number, now
        for old in self._numbers()[:-KEEP]:
            if self.synced is None or old != self.synced[0]:
                for path in reversed(self._paths(old)):
                    path.unlink(missing_ok=True)
        took = time.perf_counter() - began
        self.seconds += took
        self.next = began + took + max(LEAST_SECONDS, took / SHARE)

    def _encoded(self, tasks: Sequence[Mapping[str, Any]]) -> list[str]:
        """The JSON of each finished task; encoded once, as their number times their epochs grows large."""
        known = self._done
        same = sum(1 for task, (seen, _) in zip(tasks, known, strict=False) if task is seen)
        known[:] = [*known[:same], *((task, json.dumps(task, sort_keys=True)) for task in tasks[same:])]
        return [text for _, text in known]

    @os_errors()
    def restore(self, method: Method, state: LoopState, *, shared: bool = False) -> dict[str, Any] | None:
        """Load the newest whole checkpoint into ``method`` and ``state``.

        Args:
            method: freshly built.
            state: where training stands, overwritten.
            shared: others read this folder too, so that nothing in it is removed.

        Returns:
            The stored record, or None when there is no checkpoint.

        Raises:
            CheckpointError: it belongs to another run, or every checkpoint is damaged.
        """
        if not shared:
            drop_leftovers(self.folder)
        numbers = self._numbers()
        problems: list[str] = []
        for number in reversed(numbers):
            try:
                meta, tensors = self._read(number)
            except CheckpointError as error:
                problems.append(str(error))
                continue
            self._check_identity(meta["identity"])
            if problems:
                warnings.warn(f"{problems[0]} The one before it is used.", stacklevel=2)
            unpack(meta, tensors, method, state)
            if not shared:
                self._drop_after(number)
            return meta["record"]
        if problems:
            raise CheckpointError(f"{problems[0]} No other one is left: delete the folder and start again.")
        return None

    def newest(self) -> dict[str, Any] | None:
        """The JSON of the newest checkpoint whose JSON is whole, whoever's it is; loads no tensors."""
        for number in reversed(self._numbers()):
            try:
                meta = unsealed(read_regular(self._paths(number)[1]))
            except (OSError, ValueError):
                continue  # damaged: restore() deals with it
            if meta is not None:
                return this_format(meta, self._paths(number)[1])
        return None

    def check(self) -> None:
        """Raise ``CheckpointError`` when the newest readable checkpoint belongs to another run; loads no tensors."""
        meta = self.newest()
        if meta is not None:
            self._check_identity(meta["identity"])

    def _drop_after(self, number: int) -> None:
        for later in self._numbers():
            if later > number:
                for path in reversed(self._paths(later)):
                    with contextlib.suppress(OSError):
                        path.unlink()
        self.number = number

    def _read(self, number: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
        tensor_path, meta_path = self._paths(number)
        damaged = f"a checkpoint must match its checksums, {meta_path.stem} in {self.folder.name} is damaged"
        try:
            meta = unsealed(read_regular(meta_path))
            content = read_regular(tensor_path)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{damaged} ({type(error).__name__}).") from error
        if meta is None:
            raise CheckpointError(f"{damaged} (its JSON).")
        if this_format(meta, meta_path)["tensors_sha256"] != digest(content):
            raise CheckpointError(f"{damaged} (its tensors).")
        if "tasks" in meta:
            meta["record"]["tasks"] = meta.pop("tasks")
        try:
            return meta, load_tensors(content)
        except SafetensorError as error:
            raise CheckpointError(f"{damaged} ({reason(error)}).") from error

    def _check_identity(self, identity: Mapping[str, Any]) -> None:
        differing = [
            k for k in sorted({*identity, *self.identity}) if identity.get(k) != self.identity.get(k)
        ]
        if differing:
            key = differing[0]
            raise CheckpointError(
                f"a checkpoint can be resumed only by the run that wrote it, its {', '.join(differing)} differ "
                f"({difference(identity.get(key), self.identity.get(key))}): "
                "give the same options, or another --out."
            )


def packed(
    identity: Mapping[str, Any], method: Method, state: LoopState, record: Mapping[str, Any]
) -> tuple[bytes, dict[str, Any]]:
    """The content of a safetensors file, and the JSON beside it with its checksum; the arguments as in `save`."""
    tensors = {f"method/{k}": v for k, v in method.state_dict().items()}
    for player, by_name in state.optimisers.items():
        for name, entries in by_name.items():
            for key, value in entries.items():
                tensors[f"optimiser/{player}/{key}/{name}"] = value
    content = save_tensors({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()})
    return content, {
        "format": FORMAT,
        "identity": identity,
        "structure": method.structure(),
        "cursor": vars(state.cursor),
        "record": record,
        "tensors_sha256": digest(content),
    }


def unpack(meta: Mapping[str, Any], tensors: Mapping[str, Tensor], method: Method, state: LoopState) -> None:
    """Bring a freshly built method and its state to where `packed` found them; ``CheckpointError`` if it cannot be."""
    device = next((t.device for t in method.state_dict().values()), torch.device("cpu"))
    try:
        method.rebuild(meta["structure"])
    except Exception as error:  # whatever a method makes of sizes that are none of its own
        raise CheckpointError(
            f"a checkpoint must have a structure of {type(method).__name__}, it has not ({type(error).__name__}: "
            f"{reason(error)}): use the engram version that wrote it."
        ) from error
    method.to(device)
    own = {k.removeprefix("method/"): v for k, v in tensors.items() if k.startswith("method/")}
    sizes = [{k: list(v.shape) for k, v in state.items()} for state in (own, method.state_dict())]
    if sizes[0] != sizes[1]:
        raise CheckpointError(
            f"a checkpoint must hold the tensors of {type(method).__name__}, it does not "
            f"({difference(*sizes)}): use the engram version that wrote it."
        )
    try:
        method.load_state_dict(own)
    except RuntimeError as error:
        raise CheckpointError(f"a checkpoint must fit its method, it does not ({reason(error)}).") from error
    optimisers: dict[str, dict[str, dict[str, Tensor]]] = {}
    for key, value in tensors.items():
        if key.startswith("optimiser/"):
            _, player, entry, name = [*key.split("/", 3), "", "", ""][:4]
            optimisers.setdefault(player, {}).setdefault(name, {})[entry] = value
    state.cursor = Cursor(**meta["cursor"])
    state.optimisers = optimisers


def this_format(meta: dict[str, Any], where: object) -> dict[str, Any]:
    """The JSON of a checkpoint; ``CheckpointError`` where another version wrote it, or it has another form."""
    if meta.get("format") != FORMAT:
        raise CheckpointError(
            f"a checkpoint must have format {FORMAT}, got {meta.get('format')}: use the engram version that wrote it."
        )
    check(meta, Checkpoint, f"{where} is no checkpoint", CheckpointError)
    return meta


def difference(stored: Any, given: Any) -> str:
    """The first place where two JSON values differ, in words."""
    if isinstance(stored, Mapping) and isinstance(given, Mapping):
        for key in sorted({*stored, *given}):
            if stored.get(key) != given.get(key):
                return f"{key}: {difference(stored.get(key), given.get(key))}"
    if isinstance(stored, list) and isinstance(given, list) and len(stored) == len(given):
        for a, b in zip(stored, given, strict=True):
            if a != b:
                return difference(a, b)

    def short(value: Any) -> str:
        text = json.dumps(value)
        return text if len(text) <= 60 else text[:57] + "..."

    return f"{short(stored)} stored, {short(given)} given"
