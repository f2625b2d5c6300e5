"""A run of a blink on noisy stripes, and what tests look at in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engram.studies.settings import DataSettings, NetworkSettings
from engram.studies.study import Outcome

# Three tasks, few samples, a small perceptron.
SMALL = ["--data", "stripes", "--tasks", "3", "--network", "mlp"]
SMALL += ["--mlp.hidden", "[16]", "--finetune.epochs", "3"]
DATA = DataSettings(data="stripes", tasks=3)
NETWORK = NetworkSettings("mlp", {"hidden": [16]})
OPTIONS = {"epochs": 3}


@dataclass
class Killed:
    """A comparison of one method and two seeds, of which one worker was killed after its first task."""

    out: Path
    outcome: Outcome


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but for the empty lock."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != ".lock"
    }
