"""What trackers are told of a study; MLflow and Weights & Biases against modules that stand in for them."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any
from unittest.mock import MagicMock

import pytest

from engram.errors import ConfigError
from engram.studies.jobs import Event, Job
from engram.studies.settings import DataSettings, NetworkSettings
from engram.studies.trackers import NAMES, Tracker, Tracking

JOB = Job(
    DataSettings(), NetworkSettings("mlp"), "si", {"c": 0.5}, 3, "cpu", "runs/si/seed-3", label="si:c=0.5"
)
START = Event(JOB, "start", {"rows": [], "seconds": [], "n_tasks": 2, "epochs_done": 4})
EPOCH = {"task": 1, "phase": "fit", "epoch": 0, "n_epochs": 2, "losses": {"net/loss": 0.25}}
EVENTS = [
    Event(JOB, "queued"),
    Event(JOB, "note", {"message": "before it starts"}),
    START,
    Event(JOB, "epoch", EPOCH),
    Event(JOB, "epoch", EPOCH),
    Event(JOB, "task", {"task": 1, "accuracies": [0.5, 1.0], "seconds": 1.0}),
]


class Told:
    """A tracker of one's own."""

    def __init__(self) -> None:
        self.lines: list[Any] = []

    def begin(self, job: Job, epochs_done: int) -> None:
        self.lines.append(("begin", job.seed, epochs_done))

    def log(self, job: Job, counted: str, step: int, values: Mapping[str, float]) -> None:
        self.lines.append((counted, step, dict(values)))

    def end(self, job: Job, done: bool) -> None:
        self.lines.append(("end", done))

    def close(self) -> None:
        self.lines.append("close")


def tell(tracker: Tracker | str, *, end: str) -> None:
    tracking = Tracking([tracker])
    for event in (*EVENTS, *([Event(JOB, end)] if end else [])):
        tracking(event)
    tracking.close()


def test_one_interface():
    told = Told()
    tell(told, end="failed")
    accuracies = {"accuracy/average": 0.75, "accuracy/task 1": 0.5, "accuracy/task 2": 1.0}
    loss = {"loss/net/loss": 0.25}
    expected = [
        ("begin", 3, 4),
        ("epoch", 4, loss),
        ("epoch", 5, loss),
        ("task", 1, accuracies),
        ("end", False),
    ]
    assert told.lines == [*expected, "close"]


@pytest.fixture
def standing_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], MagicMock]:
    """Puts a module that takes every call in place of a tracker's package."""

    def put(name: str) -> MagicMock:
        module = MagicMock(spec=types.ModuleType(name))
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.delitem(sys.modules, f"engram.studies.trackers.{name}", raising=False)
        return module

    return put


@pytest.mark.parametrize(("end", "status"), [("done", "FINISHED"), ("failed", "FAILED"), ("", "KILLED")])
def test_mlflow(standing_in: Callable[[str], MagicMock], end: str, status: str):
    module = standing_in("mlflow")
    module.MlflowClient = MagicMock()
    client = module.MlflowClient.return_value
    client.get_experiment_by_name.return_value = None
    tell("mlflow", end=end)
    run = client.create_run.return_value.info.run_id
    client.create_experiment.assert_called_once_with("engram digits")
    client.log_param.assert_any_call(run, "c", 0.5)
    client.log_metric.assert_any_call(run, "loss/net/loss", 0.25, step=5)
    client.log_metric.assert_any_call(run, "accuracy/average", 0.75, step=1)
    client.set_terminated.assert_called_once_with(run, status)


@pytest.mark.parametrize(("end", "code"), [("done", 0), ("failed", 1), ("", 1)])
def test_wandb(standing_in: Callable[[str], MagicMock], end: str, code: int):
    module = standing_in("wandb")
    module.init = MagicMock()
    tell("wandb", end=end)
    run = module.init.return_value
    assert module.init.call_args.kwargs["name"] == "si:c=0.5 seed 3"
    assert module.init.call_args.kwargs["config"]["c"] == 0.5
    run.log.assert_any_call({"loss/net/loss": 0.25, "epoch": 4})
    run.log.assert_any_call(
        {"accuracy/average": 0.75, "accuracy/task 1": 0.5, "accuracy/task 2": 1.0, "task": 1}
    )
    run.finish.assert_called_once_with(exit_code=code)


def test_what_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch):
    assert set(NAMES) == {"tensorboard", "mlflow", "wandb"}
    with pytest.raises(
        ConfigError, match=r"must be one of mlflow, tensorboard, wandb, got 'wand' \(did you mean"
    ):
        Tracking(["wand"])
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.delitem(sys.modules, "engram.studies.trackers.wandb", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'engram\[wandb\]'"):
        Tracking(["wandb"])


def test_no_tracker_is_known_outside_its_file():
    root = importlib.import_module("engram").__path__[0]
    from pathlib import Path

    named = [
        p.relative_to(root).as_posix()
        for p in Path(root).rglob("*.py")
        if any(f"import {name}" in p.read_text(encoding="utf-8") for name in ("mlflow", "wandb"))
    ]
    assert sorted(named) == ["studies/trackers/mlflow.py", "studies/trackers/wandb.py"]
