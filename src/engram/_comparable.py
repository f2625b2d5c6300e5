"""When results may be compared: the differences between result files that make their numbers incommensurable.

Departures: none (no paper). Cost: none worth naming.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["comparable", "done_seeds"]


def done_seeds(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The finished seeds of a result, the only ones that any number or figure is made of."""
    return [s for s in result["seeds"] if s["status"] == "done"]


def comparable(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why the numbers of these results must not be compared as they stand; one sentence per reason.

    Checked: data fingerprint, task split, every key of the protocol (scenario, what is read, selection),
    finished seeds, device class, stored real samples, training budget (recipe and epochs in the
    configuration), and that acc_gen, which is measured on generated samples, is not mixed with accuracies on
    real data when only some results have it.

    Args:
        results: results of schema 1.
    Returns:
        Sentences that name who differs; empty when all agree or there are fewer than two results.
    """
    if len(results) < 2:
        return []
    reasons: list[str] = []

    def check(what: str, values: Sequence[Any], show: Callable[[Any], str] = str) -> None:
        groups: dict[str, tuple[Any, list[str]]] = {}
        for result, value in zip(results, values, strict=True):
            groups.setdefault(json.dumps(value, sort_keys=True), (value, []))[1].append(str(result["label"]))
        if len(groups) > 1:
            parts = [f"{', '.join(names)}: {show(value)}" for value, names in groups.values()]
            reasons.append(f"{what} differs ({'; '.join(parts)}).")

    check("The data fingerprint", [r["data"].get("fingerprint") for r in results])
    check("The task split", [[t.get("classes") for t in r["tasks"]] for r in results], _show_split)
    for key in dict.fromkeys(k for r in results for k in r["protocol"]):
        name = {"reads": "What a method may read (reads)", "scenario": "The scenario"}.get(
            key, f"Protocol: {key}"
        )
        check(name, [r["protocol"].get(key) for r in results])
    check("The set of finished seeds", [[s["seed"] for s in done_seeds(r)] for r in results], _show_seeds)
    check("The device class", [r["device"].get("class") for r in results])
    check(
        "The number of stored real samples",
        [max((s.get("stored_real_samples") or 0 for s in done_seeds(r)), default=0) for r in results],
    )
    check("The training budget", [_budget(r["config"]) for r in results], _show_budget)
    with_gen = [str(r["label"]) for r in results if any(s.get("acc_gen") for s in done_seeds(r))]
    if 0 < len(with_gen) < len(results):
        reasons.append(
            f"acc_gen ({', '.join(with_gen)}) is measured on generated samples: it is another quantity than "
            "the accuracies on real test data and must not be compared with them."
        )
    return reasons


def _show_split(split: Any) -> str:
    text = " | ".join("?" if c is None else ",".join(map(str, c)) for c in split)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _show_seeds(seeds: Any) -> str:
    return ", ".join(map(str, seeds)) or "none"


def _show_budget(budget: dict[str, Any]) -> str:
    return ", ".join(f"{k} = {v}" for k, v in budget.items()) or "not recorded"


def _budget(config: Any, prefix: str = "") -> dict[str, Any]:
    """Entries of a configuration that set how long is trained: keys named recipe or containing epochs."""
    out: dict[str, Any] = {}
    for key, value in config.items() if isinstance(config, Mapping) else ():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            out |= _budget(value, f"{name}.")
        elif key == "recipe" or "epochs" in str(key):
            out[name] = value
    return out
