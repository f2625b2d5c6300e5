"""What is said of methods, networks and features without torch is what their classes say.

``make index`` writes the file anew.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import engram
from engram import features, networks
from engram.core.index import FILE, About, index
from engram.methods.registry import METHODS, entry


def described() -> dict[str, dict[str, About]]:
    """Everything as the classes say it."""
    return {
        "methods": {name: entry(name).about() for name in METHODS},
        "networks": {name: networks.described(networks.by_name(name)) for name in networks.NETWORKS},
        "features": {name: features.described(features.by_name(name)) for name in features.FEATURES},
    }


def test_the_index_is_what_the_classes_say():
    for kind, expected in described().items():
        assert index(kind) == expected, "run make index"


def write() -> None:
    """Write the index."""
    kinds: dict[str, dict[str, Any]] = {
        kind: {name: about.to_json() for name, about in found.items()} for kind, found in described().items()
    }
    text = json.dumps(kinds, indent=1, ensure_ascii=False)
    text = re.sub(
        r'(?ms)^    "\w+": \[\n.*?^    \]', lambda m: re.sub(r"\n *", " ", m[0]), text
    )  # an option a line
    Path(engram.__file__).with_name(FILE).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
