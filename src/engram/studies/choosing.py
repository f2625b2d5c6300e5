"""What follows from the trials of a sweep: their scores by each rule, and the one that validation data choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engram.protocols.metrics import Summary
from engram.studies.rules import Rule, all_rules, parts, rule

__all__ = ["conclude"]

TOLD = ("numbers", "batch", "pruned", "steps")  # what the search says of a trial, and no result does


def conclude(
    asked: Mapping[str, Any],
    records: Mapping[str, Mapping[str, Any]],
    done: Mapping[str, Mapping[int, Mapping[str, Any]]],
) -> dict[str, Any]:
    """The trials with their scores by each rule, the chosen one, and what data chose it, as JSON.

    Args:
        asked: method, over, engine, seeds, rule and trials, each with its name and what the search says of it; or what
            this function found before.
        records: the trials by name, at least one, in the order of tables where they have no numbers.
        done: by trial and seed, the entries of seeds that have ended.
    """
    some = next(iter(records.values()))
    chosen_by = rule(asked["rule"]["name"], len(some["tasks"]))
    told = {t["name"]: {k: t[k] for k in TOLD if k in t} for t in asked["trials"]}
    trials = [
        _trial(record, done.get(name, {}), asked["seeds"], all_rules(chosen_by), told.get(name, {}))
        for name, record in records.items()
    ]
    trials.sort(key=lambda t: t.get("numbers") or [0])
    return {
        **{k: asked[k] for k in ("method", "over", "engine", "seeds")},
        "rule": chosen_by.describe(),
        "data": some["data"],
        "protocol": some["protocol"],
        "n_tasks": len(some["tasks"]),
        "chosen": _choice(trials, chosen_by, asked["over"]),
        "trials": trials,
    }


def _trial(
    record: Mapping[str, Any],
    entries: Mapping[int, Mapping[str, Any]],
    seeds: Sequence[int],
    rules: Sequence[Rule],
    told: Mapping[str, Any],
) -> dict[str, Any]:
    found = [entries[s] for s in seeds if s in entries]
    finished = [e for e in found if e["status"] == "done"]
    if told.get("pruned"):
        status = "pruned"
    elif len(finished) == len(seeds):
        status = "done"
    else:
        status = "failed" if len(found) > len(finished) else "unfinished"
    per_seed = [
        {
            "seed": e["seed"],
            "valid": {r.name: r.score(e.get("valid_matrix") or []) for r in rules},
            "test": parts(e["accuracy_matrix"]),
        }
        for e in finished
    ]
    return {
        "name": record["label"],
        "folder": record["folder"],
        "options": record["varied"],
        **told,
        "status": status,
        "error": next((e["error"] for e in found if e["status"] == "failed"), None),
        "seeds": per_seed,
        "valid": {r.name: _summary([p["valid"][r.name] for p in per_seed]) for r in rules},
        "test": {k: _summary([p["test"][k] for p in per_seed]) for k in ("average", "new", "old")},
    }


def _choice(
    trials: Sequence[Mapping[str, Any]], chosen_by: Rule, over: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The trial with the best mean score over all seeds; of equals the first. None where no trial has all seeds."""
    name = chosen_by.name
    scored = [t for t in trials if t["status"] == "done" and t["valid"][name] is not None]
    if not scored:
        return None
    score = {t["name"]: float(t["valid"][name]["mean"]) for t in scored}
    best = max(scored, key=lambda t: score[t["name"]])
    return {
        "name": best["name"],
        "folder": best["folder"],
        "options": best["options"],
        "rule": name,
        "data": chosen_by.words,
        "score": score[best["name"]],
        "equal": [t["name"] for t in scored if score[t["name"]] == score[best["name"]] and t is not best],
        "left_out": [t["name"] for t in trials if t["status"] != "done"],
        "at_the_edge": [axis for axis in over if _at_edge(best["options"][axis], trials, axis)],
    }


def _summary(values: Sequence[float | None]) -> dict[str, Any] | None:
    if not values or any(v is None for v in values):
        return None
    s = Summary.of(values)
    return {"mean": s.mean, "sd": s.sd if s.n > 1 else None, "ci95": s.ci95, "n": s.n}


def _at_edge(value: Any, trials: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether a number is the smallest or largest one tried; 0 is a natural end."""
    tried = [t["options"][name] for t in trials]
    if any(isinstance(v, (bool, str, list, tuple)) or v is None for v in tried) or len(set(tried)) < 3:
        return False
    return value == max(tried) or (value == min(tried) and value != 0)
