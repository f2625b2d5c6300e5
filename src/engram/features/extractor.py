"""Features of one stream: fitted where they need it, computed once, and kept on disk where that is allowed.

Files are named by what decides their content, images and features, so that any stream, run or process that meets the
same images finds them, and a wrong one is never read. Deleting any of them is safe; the oldest go by themselves.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

import engram
from engram.core.files import checksum, open_own, write_atomically
from engram.core.samples import Samples, Shape
from engram.errors import EngramError, PlaceError
from engram.features.contract import Features, extract, kept_bytes

_FORMAT = 3  # raise it when some features change, and old files are left alone
IN_MEMORY = 1 << 30  # bytes of vectors that are kept where there is no folder
ON_DISK = 20 << 30  # bytes of files that a folder may hold


class Extractor:
    """The view of a stream's images that some features give.

    Args:
        features: which.
        image_shape: (C, H, W) of every image.
        folder: where vectors are kept; None keeps the latest in memory.

    Attributes:
        module: uint8 [N, C, H, W] to float32 [N, D]; its state dict is what a learner must keep.
        shape: (D,).
        seconds: it took to compute the vectors that were asked for last, when they were computed.
        fit_seconds: it took to fit the features.

    Raises:
        ConfigError: images of that shape do not fit.
    """

    def __init__(self, features: Features, image_shape: Shape, folder: Path | None = None) -> None:
        self.features, self.image_shape, self.folder = features, tuple(image_shape), folder
        self.module = features.module(image_shape).eval().requires_grad_(False)
        self.shape: Shape = (int(self.module.n_features),)  # type: ignore[arg-type]
        self.seconds, self.fit_seconds = 0.0, 0.0
        self.fitted_to = "" if features.learns else "nothing"
        self._memory: dict[str, tuple[Tensor, float]] = {}

    @property
    def digest(self) -> str:
        """In one word, what decides the vectors beside the images."""
        return checksum(self.describe())

    def describe(self) -> dict[str, Any]:
        """Name, options, what they were trained on, and the code where it is one's own; as JSON."""
        source = self.features.source()
        return {**self.features.describe(), **({"source": source} if source else {})}

    def storage_bytes(self) -> int:
        """Bytes that must be kept beside the learner."""
        return kept_bytes(self.module)

    def fit(self, first: Samples) -> None:
        """Learn from the first task's training samples, where the features need it and have not."""
        if self.fitted_to:
            return
        key = self._key("fitted", first.x, first.y)
        found, self.fit_seconds = self._kept(key, lambda: self._fitted(first))
        self.module.load_state_dict({k: v.to(first.x.device) for k, v in found.items()})
        self.module.to(first.x.device)
        self.fitted_to = key

    def _fitted(self, first: Samples) -> Mapping[str, Tensor]:
        self.features.fit(self.module, first)
        self.module.eval().requires_grad_(False)
        return self.module.state_dict()

    def __call__(self, x: Tensor, first: Callable[[], Samples] | None = None) -> Tensor:
        """Vectors float32 [N, D] of images uint8 [N, C, H, W]; fits itself to ``first`` where it must and has not."""
        if not self.fitted_to and first is not None:
            self.fit(first())
        if not self.fitted_to:
            raise EngramError(
                f"features {self.features.name} must be fitted before they are used: call fit first."
            )

        def compute() -> Mapping[str, Tensor]:
            return {"vectors": extract(self.module.to(x.device), x, self.features.block)}

        found, self.seconds = self._kept(self._key("vectors", x), compute)
        return found["vectors"].to(x.device)

    # What is kept ------------------------------------------------------------------------------------------------
    def _key(self, *what: str | Tensor) -> str:
        made = hashlib.sha256(
            f"{_FORMAT} {engram.__version__} {torch.__version__} {self.digest} {self.fitted_to}".encode()
        )
        for one in what:
            if isinstance(one, str):
                made.update(one.encode())
            else:
                made.update(f"{one.device.type} {one.dtype} {list(one.shape)}".encode())
                made.update(one.cpu().contiguous().numpy().data)
        return made.hexdigest()[:32]

    def _kept(
        self, key: str, compute: Callable[[], Mapping[str, Tensor]]
    ) -> tuple[Mapping[str, Tensor], float]:
        """Tensors by name, and the seconds that they took when they were computed."""
        if self.folder is None:
            return self._in_memory(key, compute)
        path = self.folder / f"{self.features.name.rpartition(':')[2]}-{key}.safetensors"
        try:
            with _alone(
                path.with_suffix(".lock")
            ):  # a process beside this one computes the same: wait for it
                kept = _read(path)
                if kept is None:
                    kept = _timed(compute)
                    _write(path, *kept)
            return kept
        except (OSError, PlaceError) as fault:
            warnings.warn(
                f"features could not be kept in {self.folder} ({fault}); they are computed each time: "
                "set cache_dir or ENGRAM_CACHE to a folder that can be written.",
                stacklevel=2,
            )
            self.folder = None
            return self._in_memory(key, compute)

    def _in_memory(
        self, key: str, compute: Callable[[], Mapping[str, Tensor]]
    ) -> tuple[Mapping[str, Tensor], float]:
        if key in self._memory:
            kept, seconds = self._memory[key]
            return {"vectors": kept.clone()}, seconds
        found, seconds = _timed(compute)
        if "vectors" in found:
            vectors = found["vectors"]
            held = sum(v.nbytes for v, _ in self._memory.values())
            if held + vectors.nbytes <= IN_MEMORY:
                self._memory[key] = vectors.clone(), seconds
        return found, seconds


def _timed(compute: Callable[[], Mapping[str, Tensor]]) -> tuple[Mapping[str, Tensor], float]:
    began = time.perf_counter()
    found = compute()
    return found, time.perf_counter() - began


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(open_own(path, os.O_WRONLY), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    made = hashlib.sha256()
    for name in sorted(tensors):
        made.update(f"{name} {tensors[name].dtype} {list(tensors[name].shape)}".encode())
        made.update(tensors[name].contiguous().reshape(-1).numpy().data)
    return made.hexdigest()


def _read(path: Path) -> tuple[Mapping[str, Tensor], float] | None:
    """What a file holds; None where there is none, or a damaged one."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        if _sha256(tensors) != facts["sha256"]:
            raise ValueError("its numbers do not match their checksum")
        os.utime(path)  # the oldest are those used longest ago
        return tensors, float(facts["seconds"])
    except (SafetensorError, OSError, KeyError, ValueError) as fault:
        warnings.warn(f"kept features {path} are damaged ({fault}); computing them again.", stacklevel=2)
        return None


def _write(path: Path, tensors: Mapping[str, Tensor], seconds: float) -> None:
    plain = {name: t.cpu().contiguous() for name, t in tensors.items()}
    facts = {"sha256": _sha256(plain), "seconds": repr(seconds)}
    size = sum(t.nbytes for t in plain.values())
    there = sorted(path.parent.glob("*.safetensors"), key=lambda file: file.stat().st_mtime)
    total = size + sum(file.stat().st_size for file in there)
    for file in there:
        if total <= ON_DISK:
            break
        total -= file.stat().st_size
        file.unlink(missing_ok=True)
    write_atomically(path, save(plain, facts), sync=False)
