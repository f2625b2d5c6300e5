"""What a study leaves on disk, and the one reader of it.

``study.json``, schema 2, stands at the root: kind, data, tasks, the variants with their options and facts, and what
the study concluded from its runs. Each seed has a ``seed.json`` in a folder of its own, written once, when it ends. A
file has no NaN (null instead) and is replaced atomically, so that a reader never sees half of it. A *result* is what
was measured of one variant, its seeds and their summary; it is put together, checked and summarised when it is read.

Both carry a checksum of their content. It finds accidents, not forgery: a file that does not match is refused, or
taken as it is where the caller accepts edited files. What follows from others is computed when it is read: of a seed
from its accuracy matrix, of a sweep or a trade-off from its seeds. A file without a checksum that says otherwise is
refused too. Results say which files were edited, and which have no checksum.

Results of schema 1, a ``results.json`` a variant (and ``sweep.json`` or ``tradeoff.json`` beside), are read too.

Departures: none (no paper). Cost: one JSON file a seed; weights and images live in files of their own.
Shape legend: S seeds, T tasks, C classes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from engram.core import stored
from engram.core.files import checksum, os_errors, parsed, read_regular, with_checksum, write_atomically
from engram.errors import EngramError, all_printable
from engram.protocols.entry import derived, plain, seed_result
from engram.protocols.metrics import Summary
from engram.studies import choosing, curves
from engram.studies.folders import OLD_RESULT, OLD_SWEEP, OLD_TRADEOFF, SEED_FILE, STUDY_FILE
from engram.studies.rules import rule
from engram.studies.variants import identity_of

__all__ = [
    "Findings",
    "FoundResult",
    "read",
    "read_entry",
    "read_result",
    "read_study",
    "read_tradeoff",
    "seed_result",
    "summarise",
    "write_entry",
    "write_study",
]

SCHEMA, RESULT_SCHEMA = 2, 1

Result = dict[str, Any]

MARKS = ("edited", "no_checksum")  # lists of files, of a study and of a result
CONCLUDE = {"sweep": choosing.conclude, "tradeoff": curves.conclude}
FOUND = {"sweep": stored.SweepFound, "tradeoff": stored.TradeoffFound}


class FoundResult(NamedTuple):
    """A result and the folder it was read from; paths inside the result are relative to that folder."""

    directory: Path
    result: Result

    def images(self, seed: Mapping[str, Any], kind: str) -> Path | None:
        """The file of generated ``samples`` of a seed, or of its ``mistakes``, where it is one within the folder."""
        root = self.directory.resolve()
        path = (root / str(seed.get(kind) or "")).resolve()
        return path if path.is_file() and root in path.parents else None


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


def summarise(seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the finished seeds; failed and unfinished ones are left out and listed under ``excluded``.

    Args:
        seeds: entries of `seed_result`.
    Returns:
        ``n`` (finished seeds), ``seeds`` (their numbers), ``excluded`` ({seed, status, error} each), per task
        ``average_accuracy``, ``forgetting``, ``acc_gen`` and ``top5`` (lists ``mean``, ``sd``, ``ci95`` of length T,
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
    for key in ("average_accuracy", "forgetting", "acc_gen", "top5"):
        out[key] = _summarise_series([s.get(key) for s in done])
    final = _summarise_values([s.get("final_average_accuracy") for s in done])
    if final is not None:
        final["worst"] = min(s["final_average_accuracy"] for s in done)
    out["final_average_accuracy"] = final
    singles = (
        "final_forgetting",
        "backward_transfer",
        "seconds",
        "seconds_other",
        "peak_memory_bytes",
        "stored_real_samples",
    )
    for key in singles:
        out[key] = _summarise_values([s.get(key) for s in done])
    out["final_acc_gen"] = _summarise_values([(s.get("acc_gen") or [None])[-1] for s in done])
    judged = [s.get("generated") or {} for s in done]
    out["acc_rev"] = _summarise_values([g.get("acc_rev") for g in judged])
    out["frechet"] = _summarise_values([g.get("frechet") for g in judged])
    out["frechet_real"] = _summarise_values([g.get("frechet_real") for g in judged])
    out["least_diversity"] = _summarise_values([min(g["diversity"]) if g else None for g in judged])
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


def read(directory: str | os.PathLike[str], *, accept_edited: bool = False) -> Findings:
    """The study in a folder, of either schema; what is not printable in its texts becomes escapes.

    Args:
        directory: its folder.
        accept_edited: take files that do not match their checksum as they are, and compute anew what follows.

    Raises:
        EngramError: one line, when the folder does not exist, holds no study, or a file in it is malformed or edited.
    """
    root = Path(directory)
    found = _read(root, accept_edited)
    results = [FoundResult(f.directory, all_printable(f.result)) for f in found.results]
    return replace(found, results=results, found=all_printable(found.found))


def _read(root: Path, accept_edited: bool) -> Findings:
    with os_errors():
        if not root.is_dir():
            raise EngramError(f"{root} is not a folder: name the folder of a run or of a comparison.")
        if not (root / STUDY_FILE).is_file():
            return _read_old(root, accept_edited)
        study = read_study(root, accept_edited=accept_edited)
        results = [_found(root, study, v, accept_edited) for v in study["variants"]]
    records = {v["label"]: _record(study, v) for v in study["variants"]}
    return _concluded(root, study["kind"], study["found"], records, results)


def read_result(path: str | os.PathLike[str], *, accept_edited: bool = False) -> Result:
    """The result of a run's or a variant's folder, or of a file that holds a result alone; as `read`."""
    source = Path(path)
    if not source.is_dir():
        return dict(all_printable(_old_result(source, accept_edited)))
    folder = source.resolve()
    root = next((p for p in (folder, *folder.parents[:2]) if (p / STUDY_FILE).is_file()), folder)
    own = [f.result for f in read(root, accept_edited=accept_edited).results if f.directory == folder]
    if not own:
        raise EngramError(
            f"{source} must be the folder of one variant, it is none: name the study's for all."
        )
    return own[0]


def read_tradeoff(path: Path, *, accept_edited: bool = False) -> dict[str, Any]:
    """A ``tradeoff.json`` of schema 1 without its runs: its points, with accuracies [n seeds]; errors as `read`."""
    found, _ = _load(path, "trade-off", accept_edited)
    what = f"{path} is not a trade-off of engram, or of another version"
    stored.check(found, stored.TradeoffFile, what)
    for p in (p for m in found["methods"] for p in m["points"]):
        n = len(p["seeds"])
        if any(len(p[k]) != n for k in ("source", "target", "source_network")):
            raise EngramError(f"{what}: {p['name']} must have an accuracy of each seed.")
    return found


def read_study(root: Path, *, accept_edited: bool = False) -> dict[str, Any]:
    """The content of ``study.json``; ``EngramError`` where it cannot be read, is none of ours, or edited."""
    path = root / STUDY_FILE
    study, mark = _load(path, "study", accept_edited)
    if study.get("schema") != SCHEMA:
        raise EngramError(
            f"{path} is not a study of engram, or of another version: this one reads schema {SCHEMA}."
        )
    what = f"{path} is not a study of engram"
    stored.check(study, stored.Study, what)
    variants = study["variants"]
    for key in ("label", "folder"):
        _check_distinct([v[key] for v in variants], f"{what}: the {key}s of its variants")
    for v in variants:
        _check_distinct(v["seeds"], f"{what}: the seeds of {v['label']}")
        _check_within(v["folder"], what)
        _check_within(v.get("curve", {}).get("folder", ""), what)
    _check_found(study["kind"], study["found"], [_record(study, v) for v in variants], what)
    if mark:
        study[mark] = [*study.get(mark, []), STUDY_FILE]
    if mark == "no_checksum" and not accept_edited:
        for v in variants:
            if v["identity"] != checksum(identity_of(_record(study, v))):
                raise _contradiction(path, f"the settings of {v['label']}", "of a run", "of another")
    return study


def read_entry(
    folder: Path, identity: str, n_tasks: int, *, accept_edited: bool = False
) -> dict[str, Any] | None:
    """The entry of the seed in ``folder``; None where it has not ended, or is of another run; errors as `read`."""
    path = folder / SEED_FILE
    if not path.exists():
        return None
    entry, mark = _load(path, "seed's result", accept_edited)
    if entry.pop("identity", None) != identity:
        return None
    stored.check(entry, stored.Entry, f"{path} is not a seed's result of engram")
    if folder.name != f"seed-{entry['seed']}":
        raise EngramError(f"{path} must be of the seed that its folder names, it is of seed {entry['seed']}.")
    if mark:
        entry[mark] = True
    return _derived(entry, path, n_tasks, trusted=mark is None or accept_edited)


def write_study(root: Path, study: Mapping[str, Any]) -> None:
    """Write ``study.json`` atomically."""
    text = as_text(with_checksum(plain({"schema": SCHEMA, **study}))) + "\n"
    write_atomically(root / STUDY_FILE, text.encode())


def write_entry(folder: Path, identity: str, entry: Mapping[str, Any]) -> None:
    """Write ``seed.json`` atomically."""
    text = json.dumps(with_checksum({"identity": identity, **entry}))
    write_atomically(folder / SEED_FILE, text.encode())


def as_text(value: Any, indent: str = "") -> str:
    """JSON, indented by two, with a list of scalars on one line so that a matrix reads like one."""
    inner = indent + "  "
    if isinstance(value, dict) and value:
        items = [f"{inner}{json.dumps(k)}: {as_text(v, inner)}" for k, v in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(v, (dict, list)) for v in value):
        return "[\n" + ",\n".join(inner + as_text(v, inner) for v in value) + f"\n{indent}]"
    return json.dumps(value, allow_nan=False)


def _record(study: Mapping[str, Any], variant: Mapping[str, Any]) -> dict[str, Any]:
    """A variant with what all of the study share."""
    config = {**variant["config"], "data": study["data_settings"]}
    return {
        "varied": {},
        "curve": {},
        **variant,
        **{k: study[k] for k in ("data", "tasks")},
        "config": config,
    }


def _found(
    root: Path, study: Mapping[str, Any], variant: Mapping[str, Any], accept_edited: bool
) -> FoundResult:
    """The result of one variant, put together from the study and the entries of its seeds."""
    folder = root / variant["folder"]
    n = len(study["tasks"])
    marks = {mark: list(study.get(mark, [])) for mark in MARKS}
    seeds = []
    for seed in variant["seeds"]:
        own = folder / f"seed-{seed}"
        entry = read_entry(own, variant["identity"], n, accept_edited=accept_edited)
        for mark in MARKS:
            if entry is not None and entry.pop(mark, False):
                marks[mark].append((own / SEED_FILE).relative_to(root).as_posix())
        seeds.append(entry or seed_result(seed, [[None] * n], status="unfinished"))
    kept = {k: variant[k] for k in ("engram", "method", "label", "config", "protocol")}
    kept["config"] = {**kept["config"], "data": study["data_settings"], "seeds": variant["seeds"]}
    kept |= {"data": study["data"], "tasks": study["tasks"]}
    kept |= {"device": variant["device"], "facts": variant["facts"], "seeds": seeds}
    result = {"schema": RESULT_SCHEMA, **kept, **marks}
    return FoundResult(folder, _summarised(result, f"{folder} is not a result of engram"))


def _concluded(
    root: Path,
    kind: str,
    said: Mapping[str, Any],
    records: Mapping[str, Mapping[str, Any]],
    results: list[FoundResult],
) -> Findings:
    """The study with what follows from its results."""
    if kind not in CONCLUDE:
        return Findings(root, kind, results)
    by_folder = {f.directory: f.result for f in results}
    done = {
        label: {
            s["seed"]: s for s in by_folder[root / record["folder"]]["seeds"] if s["status"] != "unfinished"
        }
        for label, record in records.items()
        if root / record["folder"] in by_folder
    }
    marks = {mark: list(dict.fromkeys(name for f in results for name in f.result[mark])) for mark in MARKS}
    return Findings(root, kind, results, {**plain(CONCLUDE[kind](said, records, done)), **marks})


def _read_old(root: Path, accept_edited: bool) -> Findings:
    """A folder of schema 1."""
    sweep, tradeoff = (root / OLD_SWEEP).is_file(), (root / OLD_TRADEOFF).is_file()
    places = ["*/trials/*/", "*/"] if tradeoff else ["trials/*/"] if sweep else ["", "*/"]
    files = [path for place in places for path in sorted(root.glob(place + OLD_RESULT))]
    results = [FoundResult(path.parent, _old_result(path, accept_edited)) for path in files]
    if not results:
        raise EngramError(f"no {STUDY_FILE} in {root}: is that the folder of a run?")
    if not sweep and not tradeoff:
        return Findings(root, "comparison" if len(results) > 1 else "run", results)
    kind = "tradeoff" if tradeoff else "sweep"
    path = root / (OLD_TRADEOFF if tradeoff else OLD_SWEEP)
    found, mark = _load(path, "study", accept_edited)
    what = f"{path} is not a study of engram, or of another version"
    if found.get("schema") != 1:
        raise EngramError(f"{what}: this one reads schema 1.")
    stored.check(found, FOUND[kind], what)
    records = _old_records(found, results[0].result)
    for record in records:
        _check_within(record["folder"], what)
    _check_found(kind, found, records, what)
    if mark:
        results[0].result[mark].append(path.name)
    return _concluded(root, kind, found, {r["label"]: r for r in records}, results)


def _old_records(found: Mapping[str, Any], some: Result) -> list[dict[str, Any]]:
    """The trials of a sweep, or the points of a trade-off, of schema 1."""
    shared = {k: some[k] for k in ("data", "tasks", "protocol")}
    if "trials" in found:
        said = [(t["name"], t["folder"], t["options"]) for t in found["trials"]]
        return [{**shared, "label": name, "folder": at, "varied": varied} for name, at, varied in said]
    records = []
    for m in found["methods"]:
        curve = {k: m.get(k) for k in ("label", "folder", "option", "scale", "centre")}
        for p in m["points"]:
            varied = {} if m["option"] is None else {m["option"]: p["value"]}
            named = m["label"] if m["option"] is None else f"{m['label']} {p['name']}"
            own = {"label": named, "folder": f"{m['folder']}/{p['folder']}", "varied": varied, "curve": curve}
            own |= {"method": m["method"], "facts": m["facts"], "seeds": found["seeds"]}
            records.append({**shared, **own, "config": {"method": {"options": {**m["options"], **varied}}}})
    return records


def _old_result(path: Path, accept_edited: bool) -> Result:
    """A ``results.json``, or a result alone in a file."""
    result, mark = _load(path, "result", accept_edited)
    what = f"{path} is not a result of engram"
    if result.get("schema") != RESULT_SCHEMA:
        raise EngramError(
            f"{what}: its schema is {result.get('schema')!r}, this version reads schema {RESULT_SCHEMA}."
        )
    stored.check(result, stored.OldResult, what)
    _check_distinct([s["seed"] for s in result["seeds"]], f"{what}: its seeds")
    trusted = mark is None or accept_edited
    n_tasks = len(result["tasks"])
    seeds = [_derived(dict(entry), path, n_tasks, trusted=trusted) for entry in result["seeds"]]
    marks = {key: [*result.get(key, []), *([path.name] if key == mark else [])] for key in MARKS}
    made = _summarised({"facts": {}, "label": result["method"], **result, "seeds": seeds, **marks}, what)
    if not _same(result.get("summary", {}), made["summary"]):
        if not trusted:
            raise _contradiction(path, "its summary", "not", "of its seeds")
        if mark == "no_checksum":  # changed all the same
            made["edited"] = [*made["edited"], path.name]
    return made


def _load(path: Path, what: str, accept_edited: bool) -> tuple[dict[str, Any], str | None]:
    """A JSON object without its checksum, and the mark it gets: none where the checksum is right."""
    try:
        value = parsed(read_regular(path))
    except OSError as error:
        raise EngramError(f"cannot read {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise EngramError(f"{path} is not a {what} of engram: it is not JSON ({error}).") from error
    if not isinstance(value, dict):
        raise EngramError(f"{path} is not a {what} of engram: it must hold an object with a schema.")
    said = value.pop("sha256", None)
    if said is None:
        return value, "no_checksum"
    if said == checksum(value):
        return value, None
    if not accept_edited:
        raise EngramError(
            f"{path} must be as engram wrote it, its content does not match its checksum: restore it, or give "
            "--accept-edited to take it as it is and compute what follows from it anew."
        )
    return value, "edited"


def _derived(entry: dict[str, Any], path: Path, n_tasks: int, *, trusted: bool) -> dict[str, Any]:
    """The entry of a seed, its matrices [T, T] where it is finished, with what follows from them computed anew.

    Raises:
        EngramError: it does not fit ``n_tasks`` tasks; or what it says follows does not, unless it is ``trusted``.
    """
    seed, done = entry["seed"], entry["status"] == "done"

    def refuse(why: str) -> EngramError:
        return EngramError(f"{path} is not a result of engram: seed {seed} {why}.")

    for key in ("accuracy_matrix", "valid_matrix"):
        rows = entry.get(key)
        if rows is None:
            continue
        widest = max(map(len, rows), default=0)
        if widest > n_tasks or len(rows) > n_tasks or (done and len(rows) < n_tasks):
            raise refuse(f"has a {len(rows)}x{widest} {key.replace('_', ' ')}, not {n_tasks}x{n_tasks}")
        entry[key] = [[*row, *[None] * (n_tasks - len(row))] for row in rows]
        if done and None in entry[key][-1]:
            raise refuse(f"is finished, its {key.replace('_', ' ')} lacks the last row")
    n_gen, n_logs = len(entry.get("acc_gen") or []), len(entry.get("tasks", []))
    if (done and n_gen not in (0, n_tasks)) or n_logs > n_tasks:
        raise refuse(f"has {n_gen} entries of acc_gen and {n_logs} of tasks, for {n_tasks} tasks")
    follows = derived(entry["accuracy_matrix"], done=done)
    if entry.get("seconds_per_task"):
        follows["seconds"] = sum(entry["seconds_per_task"])
    for key, value in follows.items():
        if not trusted and entry.get(key) not in (None, []) and not _same(entry[key], value):
            raise _contradiction(path, f"{key} of seed {seed}", entry[key], value)
    return {**entry, **follows}


def _contradiction(path: Path, what: str, said: Any, follows: Any) -> EngramError:
    return EngramError(
        f"{path} must agree with itself, {what} is {_short(said)} there and {_short(follows)} by what it follows from: "
        "restore it, or give --accept-edited to compute it anew."
    )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _same(said: Any, follows: Any) -> bool:
    """Whether JSON values agree but for rounding, as far as ``said`` goes."""
    if isinstance(said, Mapping) and isinstance(follows, Mapping):
        return all(k in follows and _same(v, follows[k]) for k, v in said.items())
    if isinstance(said, list) and isinstance(follows, list):
        return len(said) == len(follows) and all(map(_same, said, follows))
    if isinstance(said, (int, float)) and isinstance(follows, (int, float)):
        return math.isclose(said, follows, rel_tol=1e-9, abs_tol=1e-9)
    return bool(said == follows)


def _summarised(result: dict[str, Any], what: str) -> Result:
    """The result with its summary, if its seeds can be put together."""
    counts = [s["confusion"] for s in result["seeds"] if s.get("confusion")]
    n = result["data"].get("n_classes") or max(map(len, counts), default=0)
    if any(len(rows) != n for m in counts for rows in [m, *m]):
        raise EngramError(
            f"{what}: its counts of predictions must be squares of as many classes as its data."
        )
    return {**result, "summary": summarise(result["seeds"])}


def _check_distinct(values: Sequence[Any], what: str) -> None:
    if len(set(values)) < len(values):
        raise EngramError(f"{what} must be distinct, got {_short(list(values))}.")


def _check_within(folder: str, what: str) -> None:
    if Path(folder).is_absolute() or ".." in Path(folder).parts:
        raise EngramError(f"{what}: its folders must lie within it, got {folder}.")


def _check_found(
    kind: str, found: Mapping[str, Any], records: Sequence[Mapping[str, Any]], what: str
) -> None:
    """``EngramError`` unless what a sweep or a trade-off says of itself fits its records."""
    if kind not in FOUND:
        return
    stored.check(found, FOUND[kind], f"{what}: found")
    n_tasks = len(records[0]["tasks"]) if records else 0
    _check_distinct(found["seeds"], f"{what}: its seeds")
    if kind == "sweep":
        try:
            rule(found["rule"]["name"], n_tasks)
        except EngramError as error:
            raise EngramError(f"{what}: its rule of choice is none ({error}).") from error
        if not records or any(r["varied"].keys() != found["over"].keys() for r in records):
            raise EngramError(f"{what}: its trials must have values of what is swept.")
        return
    for r in records:
        curve, values = r["curve"], [*r["varied"].values()]
        good = "label" in curve and [*r["varied"]] == [o for o in [curve.get("option")] if o is not None]
        good = good and Path(r["folder"]).is_relative_to(curve["folder"]) and n_tasks == 2
        if not good or any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in values):
            raise EngramError(f"{what}: {r['label']} must be a point of a curve over numbers, of two tasks.")
    _check_distinct([(r["curve"]["label"], *r["varied"].values()) for r in records], f"{what}: its points")
