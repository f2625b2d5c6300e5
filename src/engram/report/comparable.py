"""When results may be compared: the differences between result files that make their numbers incommensurable.

Departures: none (no paper). Cost: none worth naming.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engram.protocols.entry import done_seeds

__all__ = ["comparable"]

#: Training budgets whose largest is at most this many times the smallest count as the same.
SAME_BUDGET = 1.1


def comparable(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why the numbers of these results must not be compared as they stand; one sentence per reason.

    Checked: data fingerprint, task split, every key of the protocol (scenario, what is read, selection),
    finished seeds, device class, stored real samples, training budget (passes over the data of a task, where
    they differ by more than a tenth), and that acc_gen, which is measured on generated samples, is not mixed
    with accuracies on real data when only some results have it.

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
    passes = [_passes(r) for r in results]
    known = [p for p in passes if p is not None]
    if known and max(known) > SAME_BUDGET * min(known):
        shown = ["not recorded" if p is None else f"{p:.3g}" for p in passes]
        check("The training budget, in passes over as many samples as a task has,", shown)
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


def _passes(result: Mapping[str, Any]) -> float | None:
    """How often a run goes through the data of a task, over all its phases: the mean over tasks that were trained.

    Epochs are those recorded for the first finished seed, or the option ``epochs`` where no phases are recorded. An
    epoch is one pass, or a block of ``steps_per_epoch`` batches; for a phase NAME, of ``NAME_steps`` batches of
    ``NAME_batch`` where there are such options. None where nothing is known.
    """
    method = result["config"].get("method")
    options = (method or {}).get("options", method) or {}
    seed = next(iter(done_seeds(result)), {})
    recorded = [t.get("phases") for t in seed.get("tasks") or ()]
    if not any(recorded):
        plain = {"phase": "", "epochs": range(int(_number(options, "epochs")))}
        recorded = [[plain]] * len(result["tasks"])
    passes, n = [], 0
    for task, phases in zip(result["tasks"], recorded, strict=False):
        own = task.get("n_train") or 0
        n = n + own if result["protocol"].get("reads") == "all" else own
        here = [len(p["epochs"]) * _passes_an_epoch(options, p["phase"], n) for p in phases or ()]
        if sum(here):
            passes.append(sum(here))
    return sum(passes) / len(passes) if passes else None


def _passes_an_epoch(options: Mapping[str, Any], phase: str, n: int) -> float:
    steps = _number(options, f"{phase}_steps", "steps_per_epoch")
    size = _number(options, f"{phase}_batch", "batch_size")
    return steps * size / n if steps and size and n else 1.0


def _number(options: Mapping[str, Any], *names: str) -> float:
    """The first of these options that there is, where it is a number above 0; else 0."""
    found = next((options[name] for name in names if name in options), None)
    return found if isinstance(found, (int, float)) and 0 < found < 1e9 else 0
