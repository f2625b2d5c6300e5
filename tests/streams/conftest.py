"""Small data sets, and the files they come in."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from engram.streams import ImageData, from_arrays


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the developer's data or cache."""
    monkeypatch.delenv("ENGRAM_DATA", raising=False)
    monkeypatch.setenv("ENGRAM_CACHE", str(tmp_path / "default-cache"))


@pytest.fixture
def make_data() -> Callable[..., ImageData]:
    """Random data: n_classes, samples a class in train and test, image shape."""

    def make(
        n_classes: int = 4,
        n_train: int = 6,
        n_test: int = 3,
        shape: tuple[int, int, int] = (1, 4, 4),
        seed: int = 0,
        name: str = "tiny",
        class_names: list[str] | None = None,
    ) -> ImageData:
        generator = torch.Generator().manual_seed(seed)
        arrays = []
        for count in (n_train, n_test):
            y = torch.arange(n_classes).repeat(count)
            y = y[torch.randperm(len(y), generator=generator)]
            x = torch.randint(0, 256, (len(y), *shape), dtype=torch.uint8, generator=generator)
            arrays += [x, y]
        names = class_names or [f"c{k}" for k in range(n_classes)]
        return from_arrays(*arrays, class_names=names, name=name, layout="NCHW")

    return make


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """root/<class>/<n>.png: "cat" and "dog", 8 grey images of 5x6 each, all pixels 10 * class + n."""
    root = tmp_path / "pets"
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for n in range(8):
            Image.fromarray(np.full((5, 6), 10 * label + n, np.uint8)).save(root / name / f"{n}.png")
    return root


@pytest.fixture
def write_parquet() -> Callable[..., Path]:
    """Writes a Parquet file without feature metadata: path, cells (bytes or None), labels."""

    def write(path: Path, cells: list, labels: list, **more: list) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        images = pa.array(
            [None if c is None else {"bytes": c, "path": None} for c in cells],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        )
        pq.write_table(pa.table({"image": images, "label": labels, **more}), path)
        return path

    return write


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets; skips the test where there is none."""
    root = Path(REAL_DATA)
    if not (root / "mnist" / "train.parquet").is_file():
        pytest.skip(f"no mnist/train.parquet in {root}: set ENGRAM_DATA to a folder of data sets")
    return root


REAL_DATA = os.environ.get("ENGRAM_DATA") or Path(__file__).parents[3] / "shared" / "data"
