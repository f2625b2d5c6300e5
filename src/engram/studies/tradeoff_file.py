"""``tradeoff.json``, schema 1: the curves of several methods, both measures, and what decided about them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.errors import ConfigError, EngramError
from engram.protocols import tradeoff as measures
from engram.protocols.metrics import Summary
from engram.protocols.tradeoff import BELOW, Measure, Point
from engram.studies import folders
from engram.studies.results import RESULT_FILE, SWEEP_FILE, TRADEOFF_FILE
from engram.studies.tradeoff_plan import FINETUNE

if TYPE_CHECKING:
    from engram.studies.tradeoff_plan import Plan

__all__ = ["check_folder", "content", "curve", "head", "read_tradeoff", "write"]

SCHEMA = 1
Entry = dict[str, Any]


def head(plan: Plan, skeleton: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the file that is known before anything is run.

    Args:
        plan: what is asked.
        skeleton: the result file of any of the methods, without its seeds.
    """
    import engram

    source, target = plan.data.sets
    made = {
        "schema": SCHEMA,
        "engram": engram.__version__,
        "source": source,
        "target": target,
        "seeds": list(plan.seeds),
        "points": plan.points,
        "widen": plan.widen,
        "required": list(plan.required),
        "finetune_beside": plan.beside,
        "recipe": plan.recipe,
        "config": {k: skeleton["config"][k] for k in ("data", "network")},
        "data": skeleton["data"],
        "tasks": skeleton["tasks"],
        "device": skeleton["device"],
    }
    return dict(json.loads(json.dumps(made)))


def read_tradeoff(root: Path) -> dict[str, Any]:
    """The trade-off in a folder; ``EngramError`` where the file cannot be read or is none of ours."""
    path = root / TRADEOFF_FILE
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EngramError(f"cannot read {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise EngramError(f"{path} is not a trade-off of engram: it is not JSON ({error}).") from error
    if not isinstance(stored, dict) or stored.get("schema") != SCHEMA or "methods" not in stored:
        raise EngramError(
            f"{path} is not a trade-off of engram, or of another version: this one reads schema {SCHEMA}."
        )
    return stored


def check_folder(out: Path, given: Mapping[str, Any], *, overwrite: bool) -> list[Entry]:
    """The methods that the folder holds from earlier calls.

    Raises:
        ConfigError: it holds something else, or a trade-off between other data or with another network.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"out must be a folder, got the file {out}: give another --out.")
    for name, what in ((RESULT_FILE, "run"), (SWEEP_FILE, "sweep")):
        if (out / name).exists():
            raise ConfigError(
                f"{out} must be the folder of a trade-off, it holds a {what}: give another --out."
            )
    if not (out / TRADEOFF_FILE).exists():
        return []
    try:
        stored = read_tradeoff(out)
    except EngramError as error:
        raise ConfigError(f"{error} Give another --out.") from error
    keys = ("source", "target", "config")
    difference = folders.first_difference({k: stored[k] for k in keys}, {k: given[k] for k in keys})
    for key, where in (("data", "fingerprint"), ("device", "class")):
        difference = difference or folders.first_difference(stored[key][where], given[key][where], where)
    if difference and not overwrite:
        raise ConfigError(
            f"{out} must hold the same trade-off or none, it holds another ({difference}): "
            "give another --out, or --overwrite to replace it."
        )
    return [] if difference else list(stored["methods"])


def write(out: Path, given: Mapping[str, Any], entries: Iterable[Entry]) -> dict[str, Any]:
    """Write the file atomically and return its content, as `content`."""
    from engram.core.files import write_atomically

    made = content(given, entries)
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(made, indent=2, allow_nan=False)
    write_atomically(out / TRADEOFF_FILE, (text + "\n").encode())
    return made


def curve(entry: Mapping[str, Any], prefix: str = "") -> list[Point]:
    """The finished points of a method, on test images, or with ``prefix="valid_"`` on validation images."""
    source, target = f"{prefix}source", f"{prefix}target"
    return [
        Point(p["value"], tuple(p[source]), tuple(p[target]))
        for p in entry["points"]
        if p["status"] == "done" and p[source]
    ]


def content(given: Mapping[str, Any], entries: Iterable[Entry]) -> dict[str, Any]:
    """The whole file: what follows from the points is computed here.

    Args:
        given: of `head`.
        entries: one a method, with its points.
    """
    listed = list(entries)
    plain = next((e for e in listed if e["label"] == FINETUNE), None)
    done = [p for p in plain["points"] if p["status"] == "done"] if plain else []
    finetuned, network = (
        done and Summary.of(done[0]["target"]),
        done and Summary.of(done[0]["source_network"]),
    )
    taus: list[dict[str, Any]] = []
    if finetuned:
        required = measures.required(finetuned.mean)
        taus += [{"below": b, "tau": t} for b, t in zip(BELOW, required, strict=True)]
    taus += [{"below": None, "tau": t / 100} for t in given["required"]]
    other = _other_networks(listed, done[0]) if done else {}
    return {
        **given,
        "finetuned_target": _summary(finetuned) if finetuned else None,
        "source_network": _summary(network) if network else None,
        "other_source_network": other,
        "taus": taus,
        "methods": [
            {
                **e,
                **_measured(
                    e, taus, finetuned.mean if finetuned else None, network.mean if network else None
                ),
            }
            for e in listed
        ],
    }


def _measured(
    entry: Entry, taus: Sequence[Mapping[str, Any]], finetuned: float | None, network: float | None
) -> dict[str, Any]:
    """What follows from the points of a method."""
    names = {p["value"]: p["name"] for p in entry["points"]}
    points, judged = curve(entry), curve(entry, "valid_")
    ends = None
    if _orders(entry) and finetuned is not None and network is not None:
        ends = measures.saturated(points, finetuned, network)
    best = measures.most_plastic(points)
    return {
        "pareto": [names[p.value] for p in measures.pareto(points)],
        "saturated": None if ends is None else {"plastic": ends[0], "stable": ends[1]},
        "best_target": None if best is None else {"name": names[best.value], "target": best.a_t},
        "m1": _measure(measures.maximum_average(points), names),
        "m1_valid": _measure(measures.chosen_average(points, judged), names),
        "m2": [{**tau, "measure": _measure(measures.source_at(points, tau["tau"]), names)} for tau in taus],
    }


def _orders(entry: Entry) -> bool:
    """Whether the curve is over the method's trade-off option: only then larger values keep more of the source."""
    from engram.methods.registry import about

    return about(entry["method"]).tradeoff == entry["option"] is not None


def _other_networks(entries: Sequence[Entry], reference: Mapping[str, Any]) -> dict[str, float]:
    """Methods whose source network differs from fine-tuning's: the largest difference in source accuracy of a seed."""
    by_seed = dict(zip(reference["seeds"], reference["source_network"], strict=True))
    out: dict[str, float] = {}
    for entry in entries:
        gaps = [
            abs(value - by_seed[seed])
            for p in entry["points"]
            for seed, value in zip(p["seeds"], p["source_network"], strict=True)
            if seed in by_seed
        ]
        if max(gaps, default=0.0) > 0:
            out[entry["label"]] = max(gaps)
    return out


def _measure(found: Measure | None, names: Mapping[Any, str]) -> dict[str, Any] | None:
    if found is None:
        return None
    at = [{"name": names[p.value], "value": p.value, "weight": w} for p, w in found.parts]
    return {**_summary(found.summary), "per_seed": list(found.per_seed), "at": at}


def _summary(s: Summary) -> dict[str, Any]:
    return {
        "mean": s.mean,
        "sd": s.sd if s.n > 1 else None,
        "ci95": list(s.ci95) if s.ci95 else None,
        "n": s.n,
    }
