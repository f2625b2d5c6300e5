"""Trials from Optuna: as many as were asked for, however often the sweep is stopped; pruned ones say so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sweeping import GIVEN, SMALL

import engram
from calling import Refused, no_figures
from engram.studies.axes import axes_of
from engram.studies.jobs import Event, Job
from engram.studies.results import read_study, seed_result, write_entry
from engram.studies.rules import rule
from engram.studies.search import STARTUP, Search, _Trial
from engram.studies.settings import Settings

pytest.importorskip("optuna", reason="needs the extra engram[optuna]")

START = {"seconds": [], "n_tasks": 3, "epochs_done": 0}
SPACE = {"lr": "0.0001..0.1:log"}


def trials_of(out: Path) -> list[tuple[int, str, float]]:
    """Number, state and value drawn of every trial in a folder's study."""
    trials = read_study(out)["found"]["trials"]
    return sorted((n, t["status"], t["options"]["lr"]) for t in trials for n in t["numbers"])


@pytest.mark.slow
def test_resume_keeps_the_number_of_trials(tmp_path: Path, monkeypatch, refused: Refused):
    no_figures(monkeypatch)
    given: dict[str, Any] = {
        **GIVEN,
        "engine": "optuna",
        "options": {"epochs": 20},
        "jobs": 1,
        "sweep_seed": 3,
    }

    def stop(event: Event) -> None:
        if event.kind == "task" and len({*labels, event.job.label}) == 2:
            raise KeyboardInterrupt
        labels.append(event.job.label)

    labels: list[str] = []
    out = tmp_path / "sweep"
    first = engram.sweep("finetune", SPACE, **given, trials=2, out=out, listener=stop)
    assert first.interrupted
    before = trials_of(out)
    assert [state for _, state, _ in before] == ["done", "unfinished"]
    small = [*SMALL, "--finetune.epochs", 20, "--engine", "optuna", "--trials", 2, "--out", out, "--resume"]
    for changed in (["lr=0.001..0.1:log", "--sweep-seed", 3], ["lr=0.0001..0.1:log", "--sweep-seed", 4]):
        assert "another" in refused("sweep", "finetune", "--over", *changed, *small)
    again = engram.sweep("finetune", SPACE, **given, trials=2, out=out, resume=True)
    after = trials_of(out)
    assert [(n, lr) for n, _, lr in after[:2]] == [(n, lr) for n, _, lr in before]
    assert [(n, state) for n, state, _ in after] == [(0, "done"), (1, "done")]
    assert [t["numbers"] for t in again.found["trials"]] == [[0], [1]]
    assert again.chosen is not None
    assert again.found["engine"] == {
        "name": "optuna",
        "sampler": "tpe",
        "pruner": "median",
        "trials": 2,
        "seed": 3,
    }


class Killed(BaseException):
    """Nothing of engram hears of it."""


class Stepwise:
    """Takes the place of processes: accuracies follow from the rate, what is learned lasts, a kill hits any event."""

    def __init__(self) -> None:
        self.learned: dict[str, list[list[float]]] = {}
        self.events, self.kill_at = 0, -1

    def __enter__(self) -> Stepwise:
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves nothing behind."""

    def run(self, jobs: Any, listener: Any, *_: Any, dropped: Any, **more: Any) -> None:
        for job in jobs:
            rows = self.learned.setdefault(job.folder, [])
            self.tell(listener, Event(job, "start", {**START, "rows": rows, "valid": list(rows)}))
            while len(rows) < 3 and not dropped(job):
                good = 1 - abs(math.log10(job.options["lr"]) + 2.5) / 3 + 0.01 * job.seed
                rows.append([good - 0.05 * len(rows)] * (len(rows) + 1))
                said = {"task": len(rows) - 1, "accuracies": rows[-1], "valid": rows[-1], "seconds": 1.0}
                self.tell(listener, Event(job, "task", said))
            if not dropped(job):
                entry = seed_result(job.seed, rows, valid_matrix=rows)
                write_entry(Path(job.folder), job.identity, entry)
                self.tell(listener, Event(job, "done"))

    def tell(self, listener: Any, event: Event) -> None:
        self.events += 1
        if self.events == self.kill_at:
            raise Killed
        listener(event)


@pytest.mark.parametrize(
    ("rule_name", "all_kills"), [("valid_all", ([2], [52], [66, 3, 3])), ("first_tasks:2", ([60, 4],))]
)
def test_a_killed_sweep_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch, rule_name: str, all_kills: Sequence[list[int]]
):
    no_figures(monkeypatch)
    given = {
        **GIVEN,
        "engine": "optuna",
        "trials": 12,
        "seeds": (0, 1),
        "choose_on": rule_name,
        "device": "cpu",
    }

    def sweep(name: str, kills: Sequence[int]) -> tuple[list[Any], Any]:
        made = Stepwise()
        monkeypatch.setattr("engram.studies.conduct.Processes", lambda *_: made)
        monkeypatch.setattr("engram.studies.sharing.run_shared", made.run)
        for kill in kills:
            made.events, made.kill_at = 0, kill
            with pytest.raises(Killed):
                engram.sweep("finetune", SPACE, **given, jobs=4, out=tmp_path / name, resume=True)
        made.kill_at = -1
        found = engram.sweep("finetune", SPACE, **given, jobs=4, out=tmp_path / name, resume=True).found
        trials = [{k: v for k, v in t.items() if k not in ("seeds", "test")} for t in found["trials"]]
        return trials, found["chosen"]

    whole = sweep("whole", [])
    states = [t["status"] for t in whole[0]]
    assert states.count("pruned") >= 3
    assert set(states) == {"pruned", "done"}
    for n, kills in enumerate(all_kills):
        assert sweep(f"killed{n}", kills) == whole, kills


def search(
    tmp_path: Path, over: dict[str, Any], *, seeds: tuple[int, ...] = (0,), sweep_seed: int = 0
) -> Search:
    """A study that has begun, with room for one trial at a time."""
    settings = Settings(tmp_path, GIVEN["data"], GIVEN["network"], seeds, jobs=1)
    made = Search(settings, "finetune", axes_of("finetune", over), {}, trials=99, sweep_seed=sweep_seed)
    made.begin(SimpleNamespace(stream=SimpleNamespace(n_tasks=3)), [], {})  # type: ignore[arg-type]
    return made


def test_the_pruner_hears_the_rule_after_each_task(tmp_path: Path):
    made = search(tmp_path, SPACE, seeds=(0, 1))
    made.rule = rule("valid_all", 3)
    for number in range(STARTUP):
        options = {"lr": 0.01 * (1 + number)}
        made.history.append(_Trial(options, number, "COMPLETE", {1: 0.8, 2: 0.8, 3: 0.8}, 0.8))
    trial = _Trial({"lr": 0.001}, STARTUP)
    made.history.append(trial)

    def say(seed: int, kind: str, valid: Any) -> bool:
        job = Job(GIVEN["data"], GIVEN["network"], "finetune", {}, seed, "cpu", "nowhere", label=trial.name)
        made.hear(Event(job, kind, {"valid": valid}))
        return made.dropped(job)

    say(0, "start", [[0.2]])
    assert not say(0, "task", [0.1, 0.3])  # the second seed has said nothing yet
    say(1, "start", [])
    assert not say(1, "task", [0.4])  # nothing is pruned after the first task
    assert say(1, "task", [0.1, 0.1])
    assert trial.state == "PRUNED"
    assert trial.steps == {1: pytest.approx(0.3), 2: pytest.approx(0.15)}
    told = {"numbers": [STARTUP], "batch": STARTUP, "pruned": True, "steps": trial.steps}
    assert made.of_trial(trial.name) == told


def test_a_proposal_depends_on_seed_number_and_history_alone(tmp_path: Path):
    space = {**SPACE, "epochs": "1..9", "schedule": ["constant", "cosine"]}

    def draw(seed: int) -> list[dict[str, Any]]:
        made, done = search(tmp_path, space, sweep_seed=seed), {}
        for _ in range(STARTUP + 2):
            (variant,) = made.next(done)
            entry = {"status": "done", "valid_matrix": [[0.5, None, None], [0.5, variant.varied["lr"], None]]}
            done[variant.label] = {0: entry}
        return [dict(t.options) for t in made.history]

    assert draw(0) == draw(0) != draw(1)
    assert all(isinstance(v["epochs"], int) and v["schedule"] in ("constant", "cosine") for v in draw(0))
