"""What follows from the points of a trade-off: its curves, and both measures of :mod:`engram.protocols.tradeoff`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engram.methods.registry import METHODS, about
from engram.protocols import tradeoff as measures
from engram.protocols.entry import diverged
from engram.protocols.metrics import Summary
from engram.protocols.tradeoff import BELOW, Measure, Point
from engram.studies.axes import trial_name
from engram.studies.settings import FINETUNE

__all__ = ["conclude", "measured", "point"]

Entry = Mapping[str, Any]
Done = Mapping[str, Mapping[int, Entry]]
ASKED = ("source", "target", "seeds", "points", "widen", "required", "finetune_beside", "recipe")


def conclude(
    asked: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]], done: Done
) -> dict[str, Any]:
    """The curves, both measures, and what decided about them, as JSON.

    Args:
        asked: the keys of ``ASKED``, and methods: the label of each curve, in the order of tables, with its seeds; or
            what this function found before. Curves of other labels come last, with the seeds of their records.
        records: the points.
        done: by record and seed, the entries of seeds that have ended.
    """
    seeds = {m["label"]: m.get("seeds", asked["seeds"]) for m in asked["methods"]}
    curves: dict[str, list[Mapping[str, Any]]] = {label: [] for label in seeds}
    for record in records.values():
        curves.setdefault(record["curve"]["label"], []).append(record)
    entries = []
    for label, held in curves.items():
        if not held:
            continue
        held.sort(key=lambda r: [*r["varied"].values()])
        first = held[0]
        options = first["config"].get("method", {}).get("options", {})
        entries.append(
            {
                **first["curve"],
                "method": first["method"],
                "options": {k: v for k, v in options.items() if k != first["curve"]["option"]},
                "facts": first["facts"],
                "setting": {k: first["config"].get(k) for k in ("data", "network")},
                "seeds": list(seeds.get(label, first["seeds"])),
                "points": [point(r, done, seeds.get(label, r["seeds"])) for r in held],
            }
        )
    return {**{k: asked[k] for k in ASKED}, **measured(entries, asked["required"])}


def point(record: Mapping[str, Any], done: Done, seeds: Sequence[int]) -> dict[str, Any]:
    """A point: status, and accuracies [n seeds] where all of them finished."""
    entries = [e for e in (done.get(record["label"], {}).get(s) for s in seeds) if e is not None]
    complete = len(entries) == len(seeds) and all(
        e["status"] == "done" and e["accuracy_matrix"][0][0] is not None for e in entries
    )
    failed = [e for e in entries if e["status"] == "failed"]
    status = "done" if complete else "unfinished"
    if failed:
        status = "diverged" if all(map(diverged, failed)) else "failed"
    shown = entries if complete else []
    valid = shown if all(e.get("valid_matrix") for e in shown) else []
    curve = Path(record["curve"]["folder"])
    return {
        "name": trial_name(record["varied"]) or record["label"],
        "value": next(iter(record["varied"].values()), None),
        "folder": Path(record["folder"]).relative_to(curve).as_posix(),
        "status": status,
        "error": f"seed {failed[0]['seed']}: {failed[0]['error']}" if failed else None,
        "seeds": [e["seed"] for e in shown],
        "source": _column(shown, "accuracy_matrix", 0),
        "target": _column(shown, "accuracy_matrix", 1),
        "source_network": [e["accuracy_matrix"][0][0] for e in shown],
        "valid_source": _column(valid, "valid_matrix", 0),
        "valid_target": _column(valid, "valid_matrix", 1),
    }


def measured(entries: Sequence[dict[str, Any]], required: Sequence[float]) -> dict[str, Any]:
    """What follows from the points of all methods, and from the target accuracies required in percent."""
    plain = next((e for e in entries if e["label"] == FINETUNE), None)
    done = [p for p in plain["points"] if p["status"] == "done"] if plain else []
    tuned, network = (Summary.of(done[0][k]) if done else None for k in ("target", "source_network"))
    taus: list[dict[str, Any]] = []
    if tuned is not None:
        taus += [{"below": b, "tau": t} for b, t in zip(BELOW, measures.required(tuned.mean), strict=True)]
    taus += [{"below": None, "tau": t / 100} for t in required]
    return {
        "finetuned_target": _summary(tuned) if tuned else None,
        "source_network": _summary(network) if network else None,
        "other_source_network": _other_networks(entries, done[0]) if done else {},
        "taus": taus,
        "methods": [{**e, **_of_curve(e, taus, tuned, network)} for e in entries],
    }


def _points(of: Mapping[str, Any], prefix: str = "") -> list[Point]:
    """The finished points of a method, on test images, or with ``prefix="valid_"`` on validation images."""
    source, target = f"{prefix}source", f"{prefix}target"
    return [
        Point(p["value"], tuple(p[source]), tuple(p[target]))
        for p in of["points"]
        if p["status"] == "done" and p[source]
    ]


def _of_curve(
    of: Mapping[str, Any], taus: Sequence[Mapping[str, Any]], tuned: Summary | None, network: Summary | None
) -> dict[str, Any]:
    """What follows from the points of a method."""
    names = {p["value"]: p["name"] for p in of["points"]}
    points, judged = _points(of), _points(of, "valid_")
    ends = None
    # Only of the method's own trade-off option do larger values keep more of the source.
    own = of.get("own", of["method"] in METHODS and about(of["method"]).tradeoff == of["option"])
    if of["option"] is not None and own and tuned and network:
        ends = measures.saturated(points, tuned.mean, network.mean)
    best = measures.most_plastic(points)
    return {
        "pareto": [names[p.value] for p in measures.pareto(points)],
        "saturated": None if ends is None else {"plastic": ends[0], "stable": ends[1]},
        "best_target": None if best is None else {"name": names[best.value], "target": best.a_t},
        "m1": _measure(measures.maximum_average(points), names),
        "m1_valid": _measure(measures.chosen_average(points, judged), names),
        "m2": [{**tau, "measure": _measure(measures.source_at(points, tau["tau"]), names)} for tau in taus],
    }


def _other_networks(entries: Sequence[Mapping[str, Any]], reference: Mapping[str, Any]) -> dict[str, float]:
    """Methods whose source network differs from fine-tuning's: the largest difference in source accuracy of a seed."""
    by_seed = dict(zip(reference["seeds"], reference["source_network"], strict=True))
    out: dict[str, float] = {}
    for of in entries:
        gaps = [
            abs(value - by_seed[seed])
            for p in of["points"]
            for seed, value in zip(p["seeds"], p["source_network"], strict=True)
            if seed in by_seed
        ]
        if max(gaps, default=0.0) > 0:
            out[of["label"]] = max(gaps)
    return out


def _measure(found: Measure | None, names: Mapping[Any, str]) -> dict[str, Any] | None:
    if found is None:
        return None
    at = [{"name": names[p.value], "value": p.value, "weight": w} for p, w in found.parts]
    return {**_summary(found.summary), "per_seed": list(found.per_seed), "at": at}


def _summary(s: Summary) -> dict[str, Any]:
    return {"mean": s.mean, "sd": s.sd if s.n > 1 else None, "ci95": s.ci95, "n": s.n}


def _column(entries: Iterable[Entry], matrix: str, task: int) -> list[float]:
    return [float(e[matrix][-1][task]) for e in entries]
