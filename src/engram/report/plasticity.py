"""Plasticity as functions of a result: how a masked generator grows, what a task reserves and reuses, how gates settle.

Ostapenko et al. (CVPR 2019), Fig. 3 and 6.

Shape legend: S finished seeds, T tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engram.core.stored import Gates, Growth, MaskUse, fits
from engram.protocols.entry import done_seeds

__all__ = [
    "gate_trajectories",
    "generator_sizes",
    "has_gates",
    "has_growth",
    "has_mask_use",
    "newly_shares",
    "reserved_weights",
]

Result = Mapping[str, Any]


def _tasks_with(result: Result, key: str, form: Any) -> list[list[Mapping[str, Any]]]:
    """Per finished seed the task logs, if every task of every finished seed has `key` in its form; else empty."""
    logs = [list(s.get("tasks") or []) for s in done_seeds(result)]
    n = len(result["tasks"])
    good = all(len(tasks) == n and all(t.get(key) and fits(t[key], form) for t in tasks) for tasks in logs)
    return logs if logs and good else []


def has_growth(result: Result) -> bool:
    """Whether the finished seeds recorded the size of a growing network."""
    return bool(_tasks_with(result, "growth", Growth))


def has_mask_use(result: Result) -> bool:
    """Whether the finished seeds recorded what the masks use."""
    return bool(_tasks_with(result, "mask_use", list[MaskUse]))


def generator_sizes(result: Result) -> np.ndarray:
    """Weights of the growing network while each task is learned, [S, T]; empty where they were not recorded."""
    logs = _tasks_with(result, "growth", Growth)
    return np.array([[t["growth"]["weights"] for t in tasks] for tasks in logs], dtype=np.float64)


def reserved_weights(result: Result) -> np.ndarray:
    """Weights that this and earlier tasks have reserved by a task's end, [S, T]; empty unless masks cover weights."""
    logs = _tasks_with(result, "growth", Growth)
    if not all(_counts_weights(t) for tasks in logs for t in tasks):
        return np.array([])
    return np.array([[np.sum(t["growth"]["reserved"]) for t in tasks] for tasks in logs])


def _counts_weights(task: Mapping[str, Any]) -> bool:
    """Whether masks cover every weight, so that what is reserved counts weights and not units."""
    growth, use = task["growth"], task.get("mask_use") or []
    if growth.get("reserved") is None or not fits(use, list[MaskUse]):
        return False
    return bool(sum(layer["size"] for layer in use) == growth["weights"])


def newly_shares(result: Result) -> np.ndarray:
    """Of what each task's mask uses, the share that no earlier one reserved, [S, T]; the rest is reused (Fig. 3a)."""
    logs = _tasks_with(result, "mask_use", list[MaskUse])
    return np.array([[_newly_share(t["mask_use"]) for t in tasks] for tasks in logs])


def _newly_share(layers: Sequence[Mapping[str, Any]]) -> float:
    used = sum(layer["used"] for layer in layers)
    return sum(layer["newly"] for layer in layers) / used if used else float("nan")


def gate_trajectories(seed: Mapping[str, Any], task: int) -> list[Mapping[str, Any]]:
    """Of a seed's entry, each epoch's gates of a task by layer: mean, share on, histogram of ten bins (Fig. 3b)."""
    logs = seed.get("tasks") or []
    if not -len(logs) <= task < len(logs):
        return []
    epochs = [e for p in logs[task].get("phases") or [] for e in p.get("epochs") or []]
    gates = [e["measures"]["gates"] for e in epochs if (e.get("measures") or {}).get("gates")]
    good = fits(gates, list[dict[str, Gates]]) and len({tuple(layers) for layers in gates}) == 1
    return gates if good else []


def has_gates(result: Result) -> bool:
    """Whether the last task of the first finished seed recorded gate values."""
    return any(gate_trajectories(s, -1) for s in done_seeds(result)[:1])
