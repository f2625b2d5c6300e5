"""What trackers are told of a study; MLflow and Weights & Biases against modules that stand in for them."""

from __future__ import annotations

import importlib
import json
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
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


@pytest.mark.filterwarnings("ignore")
def test_mlflow_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    mlflow = pytest.importorskip("mlflow", reason="the package mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'tracked.db'}")
    tell("mlflow", end="done")
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("engram digits").experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "si:c=0.5 seed 3")
    assert run.data.params == {"method": "si", "seed": "3", "c": "0.5"}
    losses = client.get_metric_history(run.info.run_id, "loss/net/loss")
    assert [(one.step, one.value) for one in losses] == [(4, 0.25), (5, 0.25)]
    assert client.get_metric_history(run.info.run_id, "accuracy/task 2")[0].value == 1.0


def logged(file: bytes) -> list[bytes]:
    """The records of a file of Weights & Biases: a log of LevelDB after seven bytes."""
    records, at = [b""], 7
    while at + 7 <= len(file):
        size, kind = int.from_bytes(file[at + 4 : at + 6], "little"), file[at + 6]
        records[-1] += file[at + 7 : at + 7 + size]
        records += [b""] if kind in (1, 4) else []  # whole, or the last part
        at += 7 + size
        left = 2**15 - at % 2**15
        at += left if left < 7 else 0
    return records[:-1]


@pytest.mark.filterwarnings("ignore")
def test_wandb_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wandb = pytest.importorskip("wandb", reason="the package wandb is not installed")
    for name, value in (("MODE", "offline"), ("DIR", str(tmp_path)), ("SILENT", "true")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    tell("wandb", end="done")
    wandb.teardown()  # its own process has written all
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    records = [Record.FromString(data) for data in logged(path.read_bytes())]
    rows = [
        {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in r.history.item}
        for r in records
        if r.WhichOneof("record_type") == "history"
    ]
    assert [(row["epoch"], row["loss/net/loss"]) for row in rows if "epoch" in row] == [(4, 0.25), (5, 0.25)]
    assert [row["accuracy/task 2"] for row in rows if "task" in row] == [1.0]
    (run,) = [r.run for r in records if r.WhichOneof("record_type") == "run"][:1]
    assert (run.project, run.display_name) == ("engram", "si:c=0.5 seed 3")
    assert {u.key: json.loads(u.value_json) for u in run.config.update}["c"] == 0.5


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
    named = [
        p.relative_to(root).as_posix()
        for p in Path(root).rglob("*.py")
        if any(f"import {name}" in p.read_text(encoding="utf-8") for name in ("mlflow", "wandb"))
    ]
    assert sorted(named) == ["studies/trackers/mlflow.py", "studies/trackers/wandb.py"]
