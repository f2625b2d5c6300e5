"""What is shown while a run goes on."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

import engram
from engram.studies.jobs import Event, Job
from engram.studies.progress import Progress, Row, by_update, duration, somebody_watches
from engram.studies.settings import DataSettings, NetworkSettings

JOB = Job(DataSettings(), NetworkSettings("mlp"), "dgmw", {}, 3, "cpu", "nowhere", label="dgmw")


def events() -> list[Event]:
    losses = {"critic/wasserstein": 1.0, "critic/penalty": 0.5, "generator/adv": -2.0}
    return [
        Event(JOB, "queued"),
        Event(JOB, "spawn", {"pid": 1}),
        Event(JOB, "start", {"rows": [], "seconds": [], "n_tasks": 4, "epochs_done": 0}),
        Event(JOB, "task", {"task": 0, "accuracies": [0.5], "seconds": 75.0}),
        Event(JOB, "epoch", {"task": 1, "phase": "gan", "epoch": 4, "n_epochs": 10, "losses": losses}),
    ]


def test_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]):
    with Progress(live=False, headline="recipe x") as progress:
        for event in events():
            progress(event)
        progress(Event(JOB, "failed", {"message": "it broke", "expected": True}))
    assert capsys.readouterr().out.splitlines() == [
        "recipe x",
        "dgmw seed 3: task 1 of 4 in 1 min 15 s, average accuracy 50.0 %",
        "dgmw seed 3: failed at task 2 of 4",
    ]


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]):
    with Progress(quiet=True, headline="recipe x") as progress:
        for event in events():
            progress(event)
    assert capsys.readouterr().out == ""


def test_the_live_display_shows_what_runs():
    progress = Progress(live=False)
    for event in events():
        progress(event)
    console = Console(width=120, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(progress.render())
    text = console.export_text()
    console.file.close()
    for word in ("dgmw", "2/4", "gan", "5/10", "critic 1.5", "generator -2", "50.0 %", "0 of 1 done"):
        assert word in text


def test_progress_in_python_is_shown_where_somebody_watches(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    stream = engram.class_incremental(engram.load("digits"), n_tasks=2, max_per_class=5)
    spec = engram.method("finetune", epochs=1)
    engram.run(stream, "mlp", spec)
    assert not somebody_watches()
    assert capsys.readouterr().out == "", "output is kept, nobody reads it now"
    engram.run(stream, "mlp", spec, progress=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("finetune seed 0: task 1 of 2 in ")
    notebook = SimpleNamespace(get_ipython=lambda: object())
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    assert somebody_watches()
    engram.run(stream, "mlp", spec, progress=False)
    assert capsys.readouterr().out == ""


def test_time_left():
    row = Row("m", 0, status="running", n_tasks=5, done=2, seconds=[10.0, 20.0], task_began=100.0)
    assert row.left(105.0) == pytest.approx(15.0 + 2 * 20.0)
    assert row.share(105.0) == pytest.approx((2 + 0.25) / 5)
    first = Row("m", 0, status="running", n_tasks=3, task_began=0.0)
    assert first.left(4.0) is None
    first.phase_share = 0.5
    assert first.left(4.0) == pytest.approx(4.0 + 2 * 8.0)


def test_words():
    assert duration(4.52) == "4.5 s"
    assert duration(59.6) == "1 min 0 s"
    assert duration(200) == "3 min 20 s"
    assert duration(7500) == "2 h 05 min"
    assert by_update({"a/x": 1.0, "a/y": 2.0, "b/x": 3.0}) == {"a": 3.0, "b": 3.0}
