"""The same seed gives the same run: begun twice, stopped and resumed, and up to where an option matters."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engram.checks.bench import Bench, Event, check
from engram.checks.comparing import copied, differing, first_difference, shown
from engram.checks.failure import CheckFailure, require
from engram.protocols.common_start import learn_start


@check
def same_seed_same_run(bench: Bench) -> None:
    """The same seed gives the same weights and metrics bit for bit, whatever the global generator's state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(987)
        again = bench.train()
    bench.compare(
        again,
        "the same seed gives the same run bit for bit",
        "draw from batch.noise, or from a generator named by engram.seeds",
    )


@check
def another_seed_another_run(bench: Bench) -> None:
    """Another seed gives other weights."""
    other = bench.train(seed=1)
    floats = [k for k, v in other.state.items() if v.is_floating_point()]
    changed = set(differing(bench.reference.state, other.state))
    require(
        any(k in changed for k in floats),
        "another seed gives another run",
        "the same weights",
        "name generators by context.seed",
    )


@check
def resumed_run_is_the_same(bench: Bench) -> None:
    """Stopped after every epoch and every task and resumed, a run is bit for bit the uninterrupted one."""
    n = bench.reference.n_events
    advice = "keep what lasts in parameters, buffers and structure()"
    try:
        _stopped_at(
            bench, range(1, n), "a run stopped after every event and resumed is the same bit for bit", advice
        )
    except CheckFailure as all_cuts:
        for k in range(1, n):
            _stopped_at(
                bench,
                [k],
                f"a run stopped after event {k} of {n} and resumed is the same bit for bit",
                advice,
            )
        raise all_cuts


def _stopped_at(bench: Bench, cuts: Collection[int], must: str, advice: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        seen = 0

        def leave(_: Event) -> bool:
            nonlocal seen
            seen += 1
            return seen in cuts

        try:
            for _ in range(len(cuts)):
                bench.session(out=Path(folder), resume=True).go(leave)
            trained = bench.train(bench.session(out=Path(folder), resume=True))
        except (RuntimeError, ValueError, KeyError) as error:
            found = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise CheckFailure(f"{must}; found: {found}; {advice}.") from error
    bench.compare(trained, must, advice)


@check
def tradeoff_option_matters_after_its_fork_only(bench: Bench) -> None:
    """Runs that differ in the declared trade-off option only are bit for bit the same up to the fork."""
    tradeoff = bench.build().tradeoff
    if tradeoff is None:
        return
    require(
        hasattr(bench.spec.config, tradeoff.option),
        "the trade-off option is an option of the method",
        f"{tradeoff.option!r}",
        "name the option by which old tasks are traded for new ones",
    )
    given = float(getattr(bench.spec.config, tradeoff.option) or 1.0)
    values = (0.25, 0.75) if tradeoff.scale == "linear" else (given, 0.0, 10.0 * given)
    tensors, rest = _up_to_the_fork(bench, tradeoff.option, values[0])
    where = "the second task" if tradeoff.after is None else f"the end of phase {tradeoff.after!r}"
    must = f"nothing depends on the trade-off option {tradeoff.option} before {where}"
    for value in values[1:]:
        others, other = _up_to_the_fork(bench, tradeoff.option, value)
        names = differing(tensors, others)
        require(
            not names,
            must,
            f"{values[0]!r} and {value!r} give other tensors ({shown(names)})",
            "let Tradeoff.after name the last phase of the second task that does not depend on it",
        )
        found = first_difference(rest, other)
        require(not found, must, f"records differ at {found}", "record what does not depend on it before")


def _up_to_the_fork(bench: Bench, option: str, value: float) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A run's tensors, those of optimisers included, and the rest of its state without times, at the fork."""
    spec = dataclasses.replace(bench.spec, config=dataclasses.replace(bench.spec.config, **{option: value}))
    session = dataclasses.replace(bench, spec=spec).session()
    learn_start(session)
    tensors = copied(session.method.state_dict())
    for player, by_name in session.state.optimisers.items():
        for name, entries in by_name.items():
            tensors |= {f"optimiser {player}/{name}/{k}": v.clone() for k, v in entries.items()}
    tasks = [{k: v for k, v in task.items() if k != "seconds"} for task in session.record["tasks"]]
    rest = {
        "cursor": vars(session.state.cursor),
        "structure": session.method.structure(),
        "rows": session.record["rows"],
        "tasks": tasks,
        "phases": session.phases,
    }
    return tensors, json.loads(json.dumps(rest))
