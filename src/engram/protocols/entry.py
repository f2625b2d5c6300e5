"""The entry of one seed in a result: what was measured, and what follows from its accuracy matrix.

Departures: none (no paper). Cost: none worth naming. Shape legend: I tasks learned, T tasks, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engram.core.files import LARGEST_NUMBER
from engram.errors import DataError
from engram.protocols.metrics import as_matrix, average_accuracy, backward_transfer, forgetting

STATUSES = ("done", "failed", "unfinished")
DIVERGED = "losses and parameters must be finite"  # how the message of a DivergedError begins


def done_seeds(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The finished seeds of a result, the only ones that any number or figure is made of."""
    return [s for s in result["seeds"] if s["status"] == "done"]


def diverged(entry: Mapping[str, Any]) -> bool:
    """Whether a seed failed since its training diverged: as much a result as any other, and the same every time."""
    return entry["status"] == "failed" and str(entry["error"]).startswith(DIVERGED)


def derived(accuracy_matrix: Any, *, done: bool) -> dict[str, Any]:
    """What follows from the accuracy matrix [I, T] of a seed, in the order of the schema.

    Raises:
        DataError: see `as_matrix`.
    """
    matrix = as_matrix(accuracy_matrix)
    average, lost = average_accuracy(matrix), forgetting(matrix)
    values = {
        "average_accuracy": average,
        "final_average_accuracy": average[-1] if done else None,
        "forgetting": lost,
        "final_forgetting": lost[-1] if done else None,
        "backward_transfer": backward_transfer(matrix) if done else None,
    }
    return dict(plain(values))


def seed_result(
    seed: int,
    accuracy_matrix: Any,
    *,
    status: str = "done",
    error: str | None = None,
    seconds: float | None = None,
    seconds_per_task: Sequence[float] = (),
    seconds_other: float | None = None,
    seconds_checkpoints: float | None = None,
    peak_memory_bytes: int | None = None,
    stored_real_samples: int = 0,
    storage_bytes: Mapping[str, int] | None = None,
    acc_gen: Sequence[float | None] | None = None,
    confusion: Any = None,
    tasks: Sequence[Mapping[str, Any]] = (),
    samples: str | None = None,
    mistakes: str | None = None,
    checkpoints: Any = None,
    valid_matrix: Any = None,
    generated: Mapping[str, Any] | None = None,
    top5: Sequence[float] | None = None,
) -> dict[str, Any]:
    """The entry of one seed, with the metrics derived from its accuracy matrix.

    Args:
        seed: the seed.
        accuracy_matrix: R [I, T] in [0, 1], NaN or None where not measured; I < T is allowed unless status is
            "done".
        status: "done", "failed" (then error says why in one line) or "unfinished".
        error: one line, only for a failed seed.
        seconds, seconds_per_task: wall clock of training, the checkpoints written meanwhile included; evaluation and
            the oracle are left out.
        seconds_other: wall clock of everything else, from when the run was taken up to its last measurement.
        seconds_checkpoints: that all checkpoints took.
        peak_memory_bytes: peak of the process or device, None where unknown.
        stored_real_samples: real training samples of earlier tasks held at the end of training.
        storage_bytes: bytes by kind, see ``engram.core.contract.STORAGE``.
        acc_gen: accuracy measured on generated samples after each task, T values; None for methods without.
        confusion: counts [C, C] after the last task, rows are true classes.
        tasks: what was logged per task (phases, growth, mask_use).
        samples: file of generated samples, relative to the result file.
        mistakes: file of test images that were taken for another class, as ``samples``; no key where there is none.
        checkpoints: whatever names the checkpoints of this seed.
        valid_matrix: as accuracy_matrix, on validation samples; no key where it was not recorded.
        generated: of a generator after the last task, ``acc_rev`` in [0, 1] and ``diversity`` of each class, see
            :func:`engram.protocols.evaluation.judge_generator`; no key for methods without.
        top5: after each task, share of test samples whose class is among the five best answers; no key where it was
            not measured.
    Returns:
        A plain dictionary in the order of the schema; NaN is already None. ``final_average_accuracy`` and
        ``final_forgetting`` are None unless status is "done".
    Raises:
        DataError: status is unknown, the matrix is malformed, or a finished seed has not learned every task.
    """
    if status not in STATUSES:
        raise DataError(f"status must be one of {', '.join(STATUSES)}, got {status!r}.")
    matrix = as_matrix(accuracy_matrix)
    done = status == "done"
    if done and (not len(matrix) or matrix.shape[0] != matrix.shape[1]):
        raise DataError(
            f"a finished seed must have one row per task, got {matrix.shape[0]} rows for {matrix.shape[1]} "
            'tasks: use status="unfinished".'
        )
    entry = {
        "seed": seed,
        "status": status,
        "error": error,
        "accuracy_matrix": matrix,
        **derived(matrix, done=done),
        "seconds": seconds,
        "seconds_per_task": list(seconds_per_task),
        "seconds_other": seconds_other,
        "seconds_checkpoints": seconds_checkpoints,
        "peak_memory_bytes": peak_memory_bytes,
        "stored_real_samples": stored_real_samples,
        "storage_bytes": dict(storage_bytes or {}),
        "acc_gen": acc_gen,
        "confusion": confusion,
        "tasks": list(tasks),
        "samples": samples,
        "checkpoints": checkpoints,
    }
    if valid_matrix is not None:
        entry["valid_matrix"] = as_matrix(valid_matrix)
    if mistakes is not None:
        entry["mistakes"] = mistakes
    if generated is not None:
        entry["generated"] = generated
    if top5 is not None:
        entry["top5"] = list(top5)
    return dict(plain(entry))


def plain(value: Any) -> Any:
    """Plain JSON types: arrays and tensors to lists, paths to strings, NaN and what no file may hold to None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, float):
        return value if -LARGEST_NUMBER <= value <= LARGEST_NUMBER else None
    if isinstance(value, Path):
        return value.as_posix()
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    raise DataError(f"a result holds plain JSON values, arrays and paths, got {type(value).__name__}.")
