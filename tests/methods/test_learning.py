"""A problem that any sound method must solve and that fine-tuning must fail: separable classes, in turn."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from engram.checks import tiny_stream
from engram.methods.registry import method
from engram.networks import Dcgan8
from engram.protocols.protocol import Protocol
from engram.protocols.session import run

OPTIONS: dict[str, dict[str, Any]] = {
    "finetune": {"epochs": 20, "batch_size": 16, "optimiser": "sgd", "lr": 0.1, "momentum": 0.9},
    "joint": {"epochs": 20, "batch_size": 16, "lr": 2e-3},
    "dgmw": {},
    "dgma": {"s_max": 1e3},
}
GAN: dict[str, Any] = {
    "epochs": 14,
    "batch_size": 16,
    "steps_per_epoch": 4,
    "lr_d": 2e-3,
    "lr_g": 4e-3,
    "lambda_ru": 0.01,
    "solver": "separate",
    "solver_data": "generated",
    "solver_epochs": 4,
    "solver_steps": 15,
    "solver_batch": 32,
    "solver_samples": 50,
    "solver_lr": 3e-3,
    "solver_norm": "none",
    "solver_shift": 0.0,
    "solver_rotate": 0.0,
}
GROUPS = (2, 2, 2)


@cache
def accuracy(name: str, seed: int = 0) -> float:
    """Mean test accuracy on all tasks after the last one."""
    options = {**(GAN if name.startswith("dgm") else {}), **OPTIONS[name]}
    stream = tiny_stream(GROUPS, n_train=32)
    entry = run(stream, Dcgan8(n_f=8, n_d=12, n_z=16), method(name, options), Protocol("class", 0), seed=seed)
    row = entry["accuracy_matrix"][-1]
    return sum(row) / len(row)


def test_joint_training_solves_it() -> None:
    assert accuracy("joint") > 0.95


def test_fine_tuning_fails_it() -> None:
    # Little more than the last task: 1 / 3.
    assert accuracy("finetune") < 0.5


@pytest.mark.parametrize("name", ["dgmw", "dgma"])
def test_generative_memory_remembers(name: str) -> None:
    assert accuracy(name) > accuracy("finetune") + 0.4
