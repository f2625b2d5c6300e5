"""What a study leaves on disk, and the one reader of it.

``study.json``, schema 2, stands at the root: kind, data, tasks, the variants with their options and facts, and what
the study concluded from its runs. Each seed has a ``seed.json`` in a folder of its own, written once, when it ends. A
file has no NaN (null instead) and is replaced atomically, so that a reader never sees half of it. A *result* is what
was measured of one variant, its seeds and their summary; it is put together, checked and summarised when it is read.

Results of schema 1, a ``results.json`` a variant (and ``sweep.json`` or ``tradeoff.json`` beside), are read too.

Departures: none (no paper). Cost: one JSON file a seed; weights and images live in files of their own.
Shape legend: S seeds, T tasks, C classes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from engram.core.files import write_atomically
from engram.errors import EngramError
from engram.protocols.entry import STATUSES, plain, seed_result
from engram.protocols.metrics import Summary, as_matrix
from engram.studies.folders import OLD_RESULT, OLD_SWEEP, OLD_TRADEOFF, SEED_FILE, STUDY_FILE

__all__ = [
    "Findings",
    "FoundResult",
    "done_seeds",
    "read",
    "read_entry",
    "read_result",
    "read_study",
    "seed_result",
    "summarise",
    "write_study",
]

SCHEMA, RESULT_SCHEMA = 2, 1

Result = dict[str, Any]

_RESULT = {"method": str, "label": str, "config": dict, "protocol": dict, "data": dict, "tasks": list}
_RESULT |= {"device": dict, "facts": dict, "seeds": list}
_STUDY = {"kind": str, "data": dict, "data_settings": dict, "tasks": list, "variants": list, "found": dict}
_VARIANT = {"label": str, "folder": str, "method": str, "config": dict, "protocol": dict, "device": dict}
_VARIANT |= {"facts": dict, "identity": str, "seeds": list, "engram": str}
_LAST = {"asked": str, "labels": list, "complete": bool}


class FoundResult(NamedTuple):
    """A result and the folder it was read from; paths inside the result are relative to that folder."""

    directory: Path
    result: Result


@dataclass(frozen=True)
class Findings:
    """All that is known of a study: what its report shows.

    Args:
        root: its folder.
        kind: run, comparison, sweep or tradeoff.
        results: one a variant.
        found: what a sweep or a trade-off concluded from them; empty for others.
    """

    root: Path
    kind: str
    results: list[FoundResult]
    found: dict[str, Any] = field(default_factory=dict)


def done_seeds(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The finished seeds of a result, the only ones that any number or figure is made of."""
    return [s for s in result["seeds"] if s["status"] == "done"]


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


def read(directory: str | os.PathLike[str]) -> Findings:
    """The study in a folder, of either schema.

    Raises:
        EngramError: one line, when the folder does not exist, holds no study, or a file in it is malformed.
    """
    root = Path(directory)
    if not root.is_dir():
        raise EngramError(f"{root} is not a folder: name the folder of a run or of a comparison.")
    if not (root / STUDY_FILE).is_file():
        return _read_old(root)
    study = read_study(root)
    return Findings(root, study["kind"], [_found(root, study, v) for v in study["variants"]], study["found"])


def read_result(path: str | os.PathLike[str]) -> Result:
    """The result of a run's or a variant's folder, or of a file that holds a result alone; errors as `read`."""
    source = Path(path)
    if not source.is_dir():
        return _checked(_load(source, "result"), str(source))
    folder = source.resolve()
    root = next((p for p in (folder, *folder.parents[:2]) if (p / STUDY_FILE).is_file()), folder)
    own = [found.result for found in read(root).results if found.directory == folder]
    if not own:
        raise EngramError(
            f"{source} must be the folder of one variant, it is none: name the study's for all."
        )
    return own[0]


def read_study(root: Path) -> dict[str, Any]:
    """The content of ``study.json``; ``EngramError`` where it cannot be read or is none of ours."""
    path = root / STUDY_FILE
    study = _load(path, "study")
    if not isinstance(study, dict) or study.get("schema") != SCHEMA:
        raise EngramError(
            f"{path} is not a study of engram, or of another version: this one reads schema {SCHEMA}."
        )
    _check_keys(study, _STUDY, f"{path} is not a study of engram")
    for variant in study["variants"]:
        _check_keys(variant, _VARIANT, f"{path} is not a study of engram: a variant in it is incomplete")
        if not all(type(seed) is int for seed in variant["seeds"]):
            raise EngramError(
                f"{path} is not a study of engram: seeds must be integers, got {variant['seeds']}."
            )
    if study.get("last", {}) != {}:
        _check_keys(
            study["last"], _LAST, f"{path} is not a study of engram: what was asked last is incomplete"
        )
        if not all(isinstance(label, str) for label in study["last"]["labels"]):
            raise EngramError(
                f"{path} is not a study of engram: labels must be text, got {study['last']['labels']}."
            )
    return study


def read_entry(folder: Path, identity: str) -> dict[str, Any] | None:
    """The entry of the seed in ``folder``; None where it has not ended, is of another run, or unreadable."""
    try:
        entry = json.loads((folder / SEED_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(entry, dict) or entry.pop("identity", None) != identity:
        return None
    return entry if folder.name == f"seed-{entry.get('seed')}" else None


def write_study(root: Path, study: Mapping[str, Any]) -> None:
    """Write ``study.json`` atomically."""
    write_atomically(root / STUDY_FILE, (as_text(plain({"schema": SCHEMA, **study})) + "\n").encode())


def as_text(value: Any, indent: str = "") -> str:
    """JSON, indented by two, with a list of scalars on one line so that a matrix reads like one."""
    inner = indent + "  "
    if isinstance(value, dict) and value:
        items = [f"{inner}{json.dumps(k)}: {as_text(v, inner)}" for k, v in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(v, (dict, list)) for v in value):
        return "[\n" + ",\n".join(inner + as_text(v, inner) for v in value) + f"\n{indent}]"
    return json.dumps(value, allow_nan=False)


def _found(root: Path, study: Mapping[str, Any], variant: Mapping[str, Any]) -> FoundResult:
    """The result of one variant, put together from the study and the entries of its seeds."""
    folder = root / variant["folder"]
    n = len(study["tasks"])
    entries = [read_entry(folder / f"seed-{s}", variant["identity"]) for s in variant["seeds"]]
    seeds = [
        entry or seed_result(seed, [[None] * n], status="unfinished")
        for seed, entry in zip(variant["seeds"], entries, strict=True)
    ]
    kept = {k: variant[k] for k in ("engram", "method", "label", "config", "protocol")}
    kept["config"] = {**kept["config"], "data": study["data_settings"], "seeds": variant["seeds"]}
    kept |= {"data": study["data"], "tasks": study["tasks"]}
    kept |= {"device": variant["device"], "facts": variant["facts"], "seeds": seeds}
    return FoundResult(folder, _checked({"schema": RESULT_SCHEMA, **kept}, str(folder)))


def _read_old(root: Path) -> Findings:
    """A folder of schema 1."""
    sweep, tradeoff = (root / OLD_SWEEP).is_file(), (root / OLD_TRADEOFF).is_file()
    places = ["*/trials/*/", "*/"] if tradeoff else ["trials/*/"] if sweep else ["", "*/"]
    files = [path for place in places for path in sorted(root.glob(place + OLD_RESULT))]
    results = [FoundResult(path.parent, read_result(path)) for path in files]
    if not results:
        raise EngramError(f"no {STUDY_FILE} in {root}: is that the folder of a run?")
    if not sweep and not tradeoff:
        return Findings(root, "comparison" if len(results) > 1 else "run", results)
    path = root / (OLD_TRADEOFF if tradeoff else OLD_SWEEP)
    found = _load(path, "study")
    if not isinstance(found, dict) or found.get("schema") != 1 or not {"methods", "trials"} & set(found):
        raise EngramError(f"{path} is not a study of engram, or of another version: this one reads schema 1.")
    return Findings(root, "tradeoff" if tradeoff else "sweep", results, found)


def _load(path: Path, what: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EngramError(f"cannot read {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise EngramError(f"{path} is not a {what} of engram: it is not JSON ({error}).") from error


def _check_keys(value: Any, kinds: Mapping[str, type], what: str) -> None:
    for key, kind in kinds.items():
        found = value.get(key) if isinstance(value, Mapping) else None
        if not isinstance(found, kind):
            raise EngramError(f'{what}: "{key}" must be a {kind.__name__}, got {type(found).__name__}.')


def _checked(data: Any, where: str) -> Result:
    """The result with its summary; one-line EngramError unless it is one and its finished seeds have all tasks."""

    def refuse(why: str) -> EngramError:
        return EngramError(f"{where} is not a result of engram: {why}.")

    if not isinstance(data, dict) or "schema" not in data:
        raise refuse('it has no "schema"')
    if data["schema"] != RESULT_SCHEMA:
        raise refuse(f"its schema is {data['schema']!r}, this version reads schema {RESULT_SCHEMA}")
    data = {"facts": {}, "label": data.get("method"), **data}
    _check_keys(data, _RESULT, f"{where} is not a result of engram")
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
    return {**data, "summary": summarise(data["seeds"])}
