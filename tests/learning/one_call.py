"""One call of ``learn``, as a process of its own makes it.

A folder holds the samples of one task and a learner for each method.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from safetensors.torch import load_file

from engram.checks import SMALL
from engram.core.contract import Scenario
from engram.core.samples import Samples
from engram.learning import checkpoint
from engram.learning.learner import Learner
from engram.learning.loop import EpochEnd
from engram.methods.registry import MethodSpec, method
from engram.networks import Dcgan8

NETWORK = Dcgan8(n_f=4, n_d=4, n_z=16)
SEED = 3

#: By method: a variant that carries more than weights from task to task (optimiser, memory), and the scenario.
CASES: dict[str, tuple[str, Scenario]] = {
    "dgmw": ("separate", "class"),
    "dgma": ("shared", "class"),
    "si": ("stored", "class"),
    "ewc": ("stored", "task"),
    "rwalk": ("stored", "class"),
    "lwf": ("stored", "class"),
    "rescl": ("sgd", "task"),
    "hat": ("adam", "task"),
}


class Cut(Exception):
    """Stops learning between two epochs."""


def spec(name: str) -> MethodSpec:
    """The method with small options that need no knowledge of the future."""
    known = {"label": "within_task"} if name.startswith("dgm") else {}
    return method(name, {**SMALL[name][CASES[name][0]], **known})


def learn(root: Path, cut: int) -> None:
    """Each learner learns the task; with ``cut`` > 0 it stops after as many epochs, and the process kills itself."""
    checkpoint.LEAST_SECONDS, checkpoint.SHARE = 0.0, float("inf")  # one after every epoch
    task, tensors = json.loads((root / "task.json").read_text()), load_file(root / "task.safetensors")
    for name, (_, scenario) in CASES.items():
        kept = root / name
        if kept.exists():
            learner = Learner.load(kept)
        else:
            learner = Learner(spec(name), NETWORK, image_shape=(1, 8, 8), scenario=scenario, seed=SEED)
        told: list[EpochEnd] = []

        def stop(event: EpochEnd, told: list[EpochEnd] = told) -> None:
            told.append(event)
            if len(told) == cut:
                raise Cut

        try:
            learner.learn(Samples(tensors["x"], tensors["y"]), task["classes"], folder=kept, on_epoch=stop)
        except Cut:
            continue
        if cut:
            raise RuntimeError(f"{name} was not cut: it has {len(told)} epochs")
    if cut:
        os.kill(os.getpid(), signal.SIGKILL)
