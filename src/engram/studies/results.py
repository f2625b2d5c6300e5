"""Result files, schema 1: what a run measured, as plain JSON that the report and other tools read.

``DIR/results.json`` belongs to a run of one method, ``DIR/METHOD/results.json`` to a comparison of several. A
file has no NaN (null instead), keeps its key order, and is replaced atomically, so that a reader never sees
half a file. The ``summary`` is recomputed from the seeds at every write and therefore cannot contradict them.

Departures: none (no paper). Cost: one JSON file; weights and images live in files of their own.
Shape legend: S seeds, T tasks, C classes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from engram.errors import EngramError
from engram.protocols.entry import STATUSES, plain, seed_result
from engram.protocols.metrics import Summary, as_matrix
from engram.studies.comparable import comparable, done_seeds

__all__ = [
    "SCHEMA",
    "FoundResult",
    "comparable",
    "done_seeds",
    "find_results",
    "read_result",
    "seed_result",
    "summarise",
    "write_result",
]

SCHEMA = 1
RESULT_FILE, SWEEP_FILE, TRIALS = "results.json", "sweep.json", "trials"
TRADEOFF_FILE = "tradeoff.json"

Result = dict[str, Any]

_KEYS = ["schema", "engram", "method", "label", "config", "protocol", "data", "tasks"]
_KEYS += ["device", "facts", "seeds"]
_REQUIRED: dict[str, type] = {
    "method": str,
    "config": dict,
    "protocol": dict,
    "data": dict,
    "tasks": list,
    "device": dict,
    "seeds": list,
}


class FoundResult(NamedTuple):
    """A result and the folder it was read from; paths inside the result are relative to that folder."""

    directory: Path
    result: Result


def summarise(seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the finished seeds; failed and unfinished ones are left out and listed under ``excluded``.

    Args:
        seeds: entries of `seed_result`.
    Returns:
        ``n`` (finished seeds), ``seeds`` (their numbers), ``excluded`` ({seed, status, error} each), per task
        ``average_accuracy``, ``forgetting`` and ``acc_gen`` (lists ``mean``, ``sd``, ``ci95`` of length T,
        and ``n``), and single values (``mean``, ``sd``, ``ci95``, ``n``) of the remaining quantities;
        ``final_average_accuracy`` also has ``worst``. A quantity that a finished seed lacks is None.
    """
    done = [s for s in seeds if s["status"] == "done"]
    out: dict[str, Any] = {
        "n": len(done),
        "seeds": [s["seed"] for s in done],
        "excluded": [
            {k: s.get(k) for k in ("seed", "status", "error")} for s in seeds if s["status"] != "done"
        ],
    }
    for key in ("average_accuracy", "forgetting", "acc_gen"):
        out[key] = _summarise_series([s.get(key) for s in done])
    final = _summarise_values([s.get("final_average_accuracy") for s in done])
    if final is not None:
        final["worst"] = min(s["final_average_accuracy"] for s in done)
    out["final_average_accuracy"] = final
    singles = ("final_forgetting", "backward_transfer", "seconds", "peak_memory_bytes", "stored_real_samples")
    for key in singles:
        out[key] = _summarise_values([s.get(key) for s in done])
    out["final_acc_gen"] = _summarise_values([(s.get("acc_gen") or [None])[-1] for s in done])
    kinds = list(dict.fromkeys(k for s in done for k in s.get("storage_bytes") or {}))
    out["storage_bytes"] = {
        k: _summarise_values([(s.get("storage_bytes") or {}).get(k, 0) for s in done]) for k in kinds
    }
    totals = [sum(s["storage_bytes"].values()) if s.get("storage_bytes") else None for s in done]
    out["storage_total_bytes"] = _summarise_values(totals)
    return dict(plain(out))


def _summarise_values(values: Sequence[float | None]) -> dict[str, Any] | None:
    if not values or any(v is None for v in values):
        return None
    s = Summary.of(values)
    return {"mean": s.mean, "sd": s.sd, "ci95": s.ci95, "n": s.n}


def _summarise_series(series: Sequence[Sequence[float | None] | None]) -> dict[str, Any] | None:
    rows = [values for values in series if values]
    if not rows or len(rows) < len(series) or len({len(values) for values in rows}) > 1:
        return None
    columns = [Summary.of(column) for column in zip(*rows, strict=True)]
    return {
        "mean": [c.mean for c in columns],
        "sd": [c.sd for c in columns],
        "ci95": [c.ci95 for c in columns],
        "n": len(rows),
    }


def write_result(path: str | os.PathLike[str], result: Mapping[str, Any]) -> Path:
    """Write a result file atomically; the summary is recomputed, NaN becomes null.

    Args:
        path: the file, or an existing folder in which ``results.json`` is written.
        result: schema 1 without ``schema``, ``engram`` and ``summary``, which are filled in.
    Returns:
        The path of the file.
    Raises:
        EngramError: a required key is missing or malformed.
    """
    target = Path(path)
    target = target / RESULT_FILE if target.is_dir() else target
    full = dict(plain(dict(result)))
    full["schema"] = SCHEMA
    full.setdefault("engram", _version())
    full.setdefault("label", full.get("method"))
    full.setdefault("facts", {})
    _validate(full, str(target))
    full["summary"] = summarise(full["seeds"])
    order = [*_KEYS, *(k for k in full if k not in _KEYS and k != "summary"), "summary"]
    ordered = {k: full[k] for k in order if k in full}
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(_json(ordered) + "\n", encoding="utf-8")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def read_result(path: str | os.PathLike[str]) -> Result:
    """Read and check a result file.

    Args:
        path: the file, or the folder that holds ``results.json``.
    Returns:
        The dictionary of schema 1, its summary recomputed from the seeds.
    Raises:
        EngramError: one line, when the file is missing, is not JSON, or is not a result of schema 1.
    """
    source = Path(path)
    source = source / RESULT_FILE if source.is_dir() else source
    try:
        data = json.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise EngramError(f"cannot read {source}: {error.strerror or error}.") from error
    except ValueError as error:
        raise EngramError(f"{source} is not a result file: it is not JSON ({error}).") from error
    _validate(data, str(source))
    return {
        "facts": {},
        **data,
        "label": data.get("label", data["method"]),
        "summary": summarise(data["seeds"]),
    }


def find_results(directory: str | os.PathLike[str]) -> list[FoundResult]:
    """The results of a run (``results.json``), a comparison (``METHOD/results.json``) or a sweep (its trials').

    Args:
        directory: the folder.
    Returns:
        The folder's own result first, then those of its direct sub-folders by name.
    Raises:
        EngramError: the folder does not exist, holds no result, or a result in it is malformed.
    """
    root = Path(directory)
    if not root.is_dir():
        raise EngramError(f"{root} is not a folder: name the folder of a run or of a comparison.")
    root = root / TRIALS if (root / SWEEP_FILE).is_file() else root
    files = [root / RESULT_FILE, *sorted(root.glob(f"*/{RESULT_FILE}"))]
    found = [FoundResult(f.parent, read_result(f)) for f in files if f.is_file()]
    if not found:
        raise EngramError(f"no {RESULT_FILE} in {root} or in its direct sub-folders: is that a run?")
    return found


def _validate(data: Any, where: str) -> None:
    """One-line EngramError unless data is a result of schema 1 whose finished seeds have all tasks."""

    def refuse(why: str) -> EngramError:
        return EngramError(f"{where} is not a result file of engram: {why}.")

    if not isinstance(data, Mapping) or "schema" not in data:
        raise refuse('it has no "schema"')
    if data["schema"] != SCHEMA:
        raise refuse(f"its schema is {data['schema']!r}, this version reads schema {SCHEMA}")
    for key, kind in _REQUIRED.items():
        if not isinstance(data.get(key), kind):
            raise refuse(f'"{key}" must be a {kind.__name__}, got {type(data.get(key)).__name__}')
    if not isinstance(data.get("label", ""), str) or not isinstance(data.get("facts", {}), Mapping):
        raise refuse('"label" must be a string and "facts" an object')
    if not all(isinstance(t, Mapping) for t in data["tasks"]):
        raise refuse('every entry of "tasks" must be an object')
    for entry in data["seeds"]:
        if not isinstance(entry, Mapping) or "seed" not in entry or entry.get("status") not in STATUSES:
            raise refuse(f'every entry of "seeds" needs a seed and a status out of {", ".join(STATUSES)}')
        if entry["status"] != "done":
            continue
        n_tasks = len(data["tasks"])
        try:
            shape = as_matrix(entry.get("accuracy_matrix") or []).shape
        except EngramError as error:
            raise refuse(f"seed {entry['seed']}: {str(error).rstrip('.')}") from error
        if shape != (n_tasks, n_tasks):
            raise refuse(
                f"finished seed {entry['seed']} has a {shape[0]}x{shape[1]} matrix, not {n_tasks}x{n_tasks}"
            )


def _json(value: Any, indent: str = "") -> str:
    """JSON, indented by two, with a list of scalars on one line so that a matrix reads like one."""
    inner = indent + "  "
    if isinstance(value, dict) and value:
        items = [f"{inner}{json.dumps(k)}: {_json(v, inner)}" for k, v in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(v, (dict, list)) for v in value):
        return "[\n" + ",\n".join(inner + _json(v, inner) for v in value) + f"\n{indent}]"
    return json.dumps(value, allow_nan=False)


def _version() -> str:
    import engram

    return str(getattr(engram, "__version__", "unknown"))
