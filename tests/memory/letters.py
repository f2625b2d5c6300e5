"""Folders of small images, a folder a class; classes are called by letters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

#: What keeps a test short.
QUICK = {"method": "finetune", "network": "mlp", "method_options": {"epochs": 2}}
WORDS = ("--method", "finetune", "--network", "mlp", "--finetune.epochs", "2")


def draw(root: Path, classes: str, n: int = 12, size: int = 8) -> Path:
    """Images of classes that are called by letters, in folders of a class each."""
    for name in classes:
        rng = np.random.default_rng(ord(name))
        place = root / name
        place.mkdir(parents=True, exist_ok=True)
        for i in range(n):
            pixels = rng.integers(0, 80, (size, size))
            pixels[ord(name) % size, :: 1 + ord(name) // size % 2] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i:02d}.png")
    return root


def contents(root: Path) -> dict[str, bytes]:
    """What lies in a folder, the file that locks it left out."""
    files = (p for p in root.rglob("*") if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(root)): p.read_bytes() for p in files}
