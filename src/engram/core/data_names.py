"""Data sets by short name, and where the Hugging Face hub has them; read without torch."""

from __future__ import annotations

import os
import re
from pathlib import Path

from engram.core.walking import walk

SHORT_NAMES: dict[str, str] = {
    "mnist": "ylecun/mnist",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "svhn": "ufldl-stanford/svhn@cropped_digits",
}


def source_identity(name: str, data_dir: str | None) -> str:
    """A word that changes when the data may have: of a folder what its readers see; else the name."""
    ranged = re.fullmatch(r"(.+):\d+-\d+", name)
    bare = ranged[1] if ranged and not Path(name).exists() else name
    root = data_dir if data_dir is not None else os.environ.get("ENGRAM_DATA")
    places = [*([Path(root).expanduser() / bare] if root else []), Path(bare).expanduser()]
    folder = next((place for place in places if bare and place.is_dir()), None)
    if folder is None:
        return name
    return f"{name} {walk(folder).identity}"
