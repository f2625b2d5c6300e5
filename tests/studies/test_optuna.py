"""Trials from Optuna: as many as were asked for, however often the sweep is stopped; pruned ones say so."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sweeping import GIVEN, SMALL

import engram
from calling import Refused
from engram.studies.axes import axes_of
from engram.studies.processes import Event
from engram.studies.rules import rule

optuna = pytest.importorskip("optuna", reason="needs the extra engram[optuna]")

SPACE = {"lr": "0.0001..0.1:log"}


def study_of(out: Path) -> list[tuple[int, str, float]]:
    """Number, state and value drawn of every trial in a folder's study."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{out / 'optuna.db'}")
    try:
        study = optuna.load_study(study_name="engram", storage=storage)
        return [(t.number, t.state.name, t.params["lr"]) for t in study.trials]
    finally:
        storage.remove_session()
        storage.engine.dispose()


@pytest.mark.slow
def test_resume_keeps_the_number_of_trials(tmp_path: Path, monkeypatch, refused: Refused):
    monkeypatch.setattr("engram.report.write_report", lambda folder: Path(folder) / "report.html")
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
    before = study_of(out)
    assert [state for _, state, _ in before] == ["COMPLETE", "RUNNING"]
    small = [*SMALL, "--finetune.epochs", 20, "--engine", "optuna", "--trials", 2, "--out", out, "--resume"]
    for changed in (["lr=0.001..0.1:log", "--sweep-seed", 3], ["lr=0.0001..0.1:log", "--sweep-seed", 4]):
        assert "another" in refused("sweep", "finetune", "--over", *changed, *small)
    again = engram.sweep("finetune", SPACE, **given, trials=2, out=out, resume=True)
    after = study_of(out)
    assert [(n, lr) for n, _, lr in after[:2]] == [(n, lr) for n, _, lr in before]
    assert [(n, state) for n, state, _ in after] == [(0, "COMPLETE"), (1, "COMPLETE")]
    assert [t["numbers"] for t in again.sweep["trials"]] == [[0], [1]]
    assert again.chosen is not None
    stored = json.loads((out / "sweep.json").read_text())
    assert stored["engine"] == {
        "name": "optuna",
        "sampler": "tpe",
        "pruner": "median",
        "trials": 2,
        "seed": 3,
    }


def test_the_pruner_hears_the_rule_after_each_task():
    from engram.studies.optuna_engine import STARTUP, _prune, _Trial

    study = optuna.create_study(
        direction="maximize", pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=2)
    )
    for _ in range(STARTUP):
        good = study.ask()
        for step in (1, 2, 3):
            good.report(0.8, step)
        study.tell(good.number, 0.8)
    trial = _Trial(study.ask(), STARTUP, {"lr": 0.1}, False)
    state: Any = SimpleNamespace(
        plan=SimpleNamespace(seeds=(0, 1)), rule=rule("valid_all", 3), trials={trial.name: {}}
    )
    trial.valid[0] = [[0.2], [0.1, 0.3]]
    _prune(state, trial)
    assert not trial.pruned  # the second seed has said nothing yet
    trial.valid[1] = [[0.4]]
    _prune(state, trial)
    assert not trial.pruned  # nothing is pruned after the first task
    trial.valid[1].append([0.1, 0.1])
    _prune(state, trial)
    assert trial.pruned
    assert state.trials[trial.name] == {"pruned": True}
    assert study.trials[-1].intermediate_values == {1: pytest.approx(0.3), 2: pytest.approx(0.15)}


def test_a_proposal_depends_on_seed_number_and_history_alone():
    from engram.studies.optuna_engine import _sampler, _values

    axes = tuple(axes_of("finetune", {**SPACE, "epochs": "1..9", "schedule": ["constant", "cosine"]}))

    def draw(seed: int) -> list[dict[str, Any]]:
        study = optuna.create_study(direction="maximize")
        out = []
        for number in range(3):
            study.sampler = _sampler(seed, number)
            trial = study.ask()
            out.append(_values(trial, axes))
            assert _values(optuna.trial.Trial(study, trial._trial_id), axes) == out[-1]
            study.tell(trial, 0.5)
        return out

    assert draw(0) == draw(0) != draw(1)
    assert all(isinstance(v["epochs"], int) and v["schedule"] in ("constant", "cosine") for v in draw(0))
