"""``sweep.json``, schema 1: the trials of a sweep with their scores, the choice, and what data made it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.errors import ConfigError, EngramError
from engram.protocols.metrics import Summary
from engram.studies import folders, sharing
from engram.studies.results import RESULT_FILE, SWEEP_FILE, TRIALS
from engram.studies.rules import Rule, all_rules, parts

if TYPE_CHECKING:
    from engram.studies.planning import Work
    from engram.studies.sweep_plan import Plan

__all__ = ["check_folder", "check_ours", "check_same", "clear", "head", "read_sweep", "write"]

SCHEMA = 1
STUDY = "optuna.db"


def head(plan: Plan, probe: Work, choose: Rule) -> dict[str, Any]:
    """The part of the file that is known before any trial is run."""
    import engram

    swept = {axis.name for axis in plan.axes}
    config = {k: v for k, v in probe.skeleton["config"].items() if k not in ("method", "seeds")}
    shared = {k: v for k, v in probe.skeleton["config"]["method"]["options"].items() if k not in swept}
    engine: dict[str, Any] = {"name": plan.engine}
    if plan.engine == "optuna":
        engine |= {"sampler": "tpe", "pruner": "median", "trials": plan.trials, "seed": plan.sweep_seed}
    made = {
        "schema": SCHEMA,
        "engram": engram.__version__,
        "method": plan.method,
        "over": {axis.name: axis.describe() for axis in plan.axes},
        "engine": engine,
        "seeds": list(plan.seeds),
        "rule": choose.describe(),
        "options": shared,
        "config": config,
        "data": probe.skeleton["data"],
        "protocol": probe.skeleton["protocol"],
        "device": probe.skeleton["device"],
        "n_tasks": len(probe.skeleton["tasks"]),
    }
    return dict(json.loads(json.dumps(made)))


def read_sweep(root: Path) -> dict[str, Any]:
    """The sweep in a folder.

    Raises:
        EngramError: the file cannot be read or is none of ours.
    """
    path = root / SWEEP_FILE
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EngramError(f"cannot read {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise EngramError(f"{path} is not a sweep of engram: it is not JSON ({error}).") from error
    if not isinstance(stored, dict) or stored.get("schema") != SCHEMA or "trials" not in stored:
        raise EngramError(
            f"{path} is not a sweep of engram, or of another version: this one reads schema {SCHEMA}."
        )
    return stored


def check_folder(out: Path) -> None:
    """``ConfigError`` where the folder holds a run or a comparison, or is none."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"out must be a folder, got the file {out}: give another --out.")
    if (out / RESULT_FILE).exists():
        raise ConfigError(f"{out} must be the folder of a sweep, it holds a run: give another --out.")
    if not (out / SWEEP_FILE).exists() and any(out.glob(f"*/{RESULT_FILE}")):
        raise ConfigError(f"{out} must be the folder of a sweep, it holds a comparison: give another --out.")


def check_same(out: Path, given: Mapping[str, Any]) -> None:
    """A folder may be used again by the same sweep, with more values, seeds or trials, or another rule.

    Raises:
        ConfigError: it holds another sweep.
    """
    if not (out / SWEEP_FILE).exists():
        return
    try:
        stored = read_sweep(out)
    except EngramError as error:
        raise ConfigError(f"{error} Give --overwrite to replace it, or another --out.") from error
    difference = folders.first_difference(_identity(stored), _identity(given))
    for name, axis in stored["over"].items():
        lost = [v for v in axis.get("values", []) if v not in given["over"].get(name, {}).get("values", [])]
        if lost and not difference:
            difference = f"{name}: value {json.dumps(lost[0])} there, not now"
    lost = [s for s in stored["seeds"] if s not in given["seeds"]]
    if lost and not difference:
        difference = f"seed {lost[0]} there, not now"
    if difference:
        raise ConfigError(
            f"{out} must hold the same sweep or none, it holds another ({difference}): "
            "give another --out, or --overwrite to replace it."
        )


def _identity(sweep: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a sweep this one. Values of a grid, seeds and trials may be added, the rule may change."""
    engine = {k: v for k, v in sweep["engine"].items() if k != "trials"}
    adaptive = engine["name"] == "optuna"
    return {
        "method": sweep["method"],
        "over": sweep["over"] if adaptive else sorted(sweep["over"]),
        "engine": engine if adaptive else "grid",
        # The study learns from scores by this rule over these seeds.
        **({"rule": sweep["rule"]["name"], "seeds": sweep["seeds"]} if adaptive else {}),
        "options": sweep["options"],
        **{k: v for k, v in sweep["config"].items() if k not in ("recipe", "device")},
        "fingerprint": sweep["data"].get("fingerprint"),
        "device": sweep["device"].get("class"),
    }


def check_ours(out: Path) -> None:
    """``ConfigError`` where ``--overwrite`` names a folder with files, and none that a sweep wrote."""
    try:
        read_sweep(out)
    except EngramError:
        folders.check_ours(out, below=(f"{TRIALS}/*", f"{sharing.SHARED}/*"))


def clear(out: Path) -> None:
    """Remove what a sweep wrote, and nothing else."""
    for folder in (out / TRIALS).glob("*/"):
        if folders.is_ours(folder):
            folders.clear(folder)
            if not any(folder.iterdir()):
                folder.rmdir()
    sharing.clear(out)
    if (out / SWEEP_FILE).exists():
        (out / "report.html").unlink(missing_ok=True)
    for name in (SWEEP_FILE, STUDY):
        (out / name).unlink(missing_ok=True)


def write(
    out: Path,
    head: Mapping[str, Any],
    choose: Rule,
    trials: Mapping[str, Mapping[str, Any]],
    entries: Mapping[str, Mapping[int, Mapping[str, Any]]],
) -> dict[str, Any]:
    """Write the file atomically and return its content.

    Args:
        out: the sweep's folder.
        head: of `head`.
        choose: the rule of choice.
        trials: by label, ``folder``, ``options`` and whatever the engine adds, such as ``pruned``.
        entries: by label, the entries of its seeds.
    """
    from engram.core.files import write_atomically

    rules = all_rules(choose)
    listed = [_trial(label, trial, entries[label], head["seeds"], rules) for label, trial in trials.items()]
    content = {**head, "chosen": _choice(listed, choose, head), "trials": listed}
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=2, allow_nan=False)
    write_atomically(out / SWEEP_FILE, (text + "\n").encode())
    return content


def _trial(
    label: str,
    trial: Mapping[str, Any],
    entries: Mapping[int, Mapping[str, Any]],
    seeds: Sequence[int],
    rules: Sequence[Rule],
) -> dict[str, Any]:
    found = [entries[s] for s in seeds if s in entries]
    done = [e for e in found if e["status"] == "done"]
    if len(done) == len(seeds):
        status = "done"
    elif trial.get("pruned"):
        status = "pruned"
    else:
        status = "failed" if any(e["status"] == "failed" for e in found) else "unfinished"
    per_seed = [
        {
            "seed": e["seed"],
            "valid": {r.name: r.score(e.get("valid_matrix") or []) for r in rules},
            "test": parts(e["accuracy_matrix"]),
        }
        for e in done
    ]
    return {
        "name": label,
        **{k: v for k, v in trial.items() if k != "pruned"},
        "status": status,
        "error": next((e["error"] for e in found if e["status"] == "failed"), None),
        "seeds": per_seed,
        "valid": {r.name: _summary([p["valid"][r.name] for p in per_seed]) for r in rules},
        "test": {k: _summary([p["test"][k] for p in per_seed]) for k in ("average", "new", "old")},
    }


def _summary(values: Sequence[float | None]) -> dict[str, Any] | None:
    if not values or any(v is None for v in values):
        return None
    s = Summary.of(values)
    return {"mean": s.mean, "sd": s.sd if s.n > 1 else None, "ci95": s.ci95, "n": s.n}


def _choice(
    trials: Sequence[Mapping[str, Any]], choose: Rule, head: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The trial with the best mean score over all seeds; of equals the first. Trials that lack a seed are left out."""
    scored = [t for t in trials if t["status"] == "done" and t["valid"][choose.name] is not None]
    if not scored:
        return None
    score = {t["name"]: float(t["valid"][choose.name]["mean"]) for t in scored}
    best = max(scored, key=lambda t: score[t["name"]])
    return {
        "name": best["name"],
        "folder": best["folder"],
        "options": best["options"],
        "rule": choose.name,
        "data": choose.words,
        "score": score[best["name"]],
        "equal": [t["name"] for t in scored if score[t["name"]] == score[best["name"]] and t is not best],
        "left_out": [t["name"] for t in trials if t["status"] != "done"],
        "at_the_edge": [name for name in head["over"] if _at_edge(best["options"][name], trials, name)],
    }


def _at_edge(value: Any, trials: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether a number is the smallest or largest one tried; 0 is a natural end."""
    tried = [t["options"][name] for t in trials]
    if any(isinstance(v, (bool, str, list)) or v is None for v in tried) or len(set(tried)) < 3:
        return False
    return value == max(tried) or (value == min(tried) and value != 0)
