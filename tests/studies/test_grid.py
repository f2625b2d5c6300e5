"""A grid in processes on this machine: a worker killed, the sweep resumed, extended, refused."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from sweeping import DATA, GIVEN, NETWORK, SMALL, alone, measured

import engram
from calling import Refused, kept_each_epoch, no_figures
from engram.cli.main import main
from engram.protocols.protocol import Protocol
from engram.studies.building import prepare
from engram.studies.jobs import Event, Job
from engram.studies.processes import Processes
from engram.studies.results import read, read_result, read_study, write_study
from engram.studies.study import Outcome

pytestmark = pytest.mark.usefixtures("every_epoch")

LEARN = {"epochs": 30}


def test_the_validation_matrix_resumes_bit_for_bit(tmp_path: Path):
    stream, network = prepare(DATA, NETWORK)
    spec, protocol = engram.method("finetune", epochs=2), Protocol("class", record_valid=True)
    whole = engram.run(stream, network, spec, protocol)
    assert len(whole["valid_matrix"]) == 3
    assert whole["valid_matrix"][0][1:] == [None, None]
    events: list[object] = []
    engram.run(
        stream, network, spec, protocol, out=tmp_path,
        stop_after=lambda e: events.append(e) or len(events) == 4,
    )  # fmt: skip
    again = engram.run(stream, network, spec, protocol, out=tmp_path, resume=True)
    assert measured(again) == measured(whole)


def test_without_the_wish_nothing_is_recorded():
    stream, network = prepare(DATA, NETWORK)
    assert "valid_matrix" not in engram.run(stream, network, engram.method("finetune", epochs=1))


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A grid of two values, of which the second one's worker was killed after its first task."""
    out = tmp_path_factory.mktemp("grid") / "sweep"
    pids: dict[str, int] = {}

    def kill(event: Event) -> None:
        if event.kind == "spawn":
            pids[event.job.label] = event.data["pid"]
        if event.kind == "task" and event.job.label == "lr=0.001" and event.data["task"] == 0:
            os.kill(pids["lr=0.001"], signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        no_figures(patch)
        kept_each_epoch(patch)
        outcome = engram.sweep(
            "finetune", {"lr": [0.01, 0.001]}, **GIVEN, options=LEARN, out=out, jobs=2, listener=kill
        )
    return out, outcome


@pytest.mark.slow
def test_a_killed_worker_is_reported_and_the_others_finish(killed: tuple[Path, Outcome]):
    out, outcome = killed
    assert outcome.exit_code == 1
    assert [(p.label, p.expected) for p in outcome.problems] == [("lr=0.001", False)]
    stored = read(out).found
    assert stored == outcome.found == {**read_study(out)["found"], "edited": [], "no_checksum": []}
    assert [(t["name"], t["status"]) for t in stored["trials"]] == [
        ("lr=0.01", "done"),
        ("lr=0.001", "failed"),
    ]
    assert stored["chosen"]["name"] == "lr=0.01"
    assert stored["chosen"]["left_out"] == ["lr=0.001"]


@pytest.mark.slow
def test_resume_loses_and_repeats_nothing(killed: tuple[Path, Outcome], tmp_path: Path, capfd):
    out = Path(shutil.copytree(killed[0], tmp_path / "sweep"))
    first = (out / "trials/lr=0.01/seed-0/seed.json").stat().st_mtime_ns
    argv = [
        "sweep",
        "finetune",
        "--over",
        "lr=0.01,0.001",
        *SMALL,
        "--finetune.epochs",
        "30",
        "--out",
        str(out),
    ]
    assert main(argv) == 2  # an unfinished sweep is continued only when asked
    assert "--resume" in capfd.readouterr().err
    assert main([*argv, "--resume"]) == 0
    said = capfd.readouterr().out
    assert "continues at task 2 of 3" in said
    assert "Chosen: lr=" in said
    assert "validation samples of the first 2 of 3 tasks" in " ".join(said.split())
    assert (out / "trials/lr=0.01/seed-0/seed.json").stat().st_mtime_ns == first
    sweep = read_study(out)["found"]
    for value in (0.01, 0.001):
        (entry,) = read_result(out / f"trials/lr={value}")["seeds"]
        want = alone({"lr": value, **LEARN})
        assert measured(entry) == measured(want)
        (trial,) = [t for t in sweep["trials"] if t["options"]["lr"] == value]
        v = want["valid_matrix"]
        assert trial["valid"]["first_tasks:2"]["mean"] == pytest.approx((v[1][0] + v[1][1]) / 2)
        assert trial["test"]["average"]["mean"] == pytest.approx(want["final_average_accuracy"])
    best = max(sweep["trials"], key=lambda t: t["valid"]["first_tasks:2"]["mean"])
    assert sweep["chosen"]["name"] == best["name"]
    page = (out / "report.html").read_text()
    assert "Sweep of finetune over lr" in page
    assert "accuracy against lr" in page
    assert (out / "figures" / "sweep-lr.svg").exists()
    # The same again runs nothing; another rule chooses anew from what is there.
    assert main([*argv, "--choose-on", "valid_all", "--quiet"]) == 0
    assert read_study(out)["found"]["rule"]["name"] == "valid_all"
    assert (out / "trials/lr=0.01/seed-0/seed.json").stat().st_mtime_ns == first


@pytest.mark.slow
def test_a_folder_that_holds_something_else(killed: tuple[Path, Outcome], refused: Refused, tmp_path: Path):
    out = killed[0]
    before = (out / "study.json").read_bytes()
    small = [*SMALL, "--finetune.epochs", 30, "--out", out, "--resume"]
    assert "value 0.01 there, not now" in refused("sweep", "finetune", "--over", "lr=0.001", *small)
    assert "another" in refused("sweep", "finetune", "--over", "momentum=0.5", *small)
    assert "method" in refused(
        "sweep", "si", "--over", "lr=0.01,0.001", *[a for a in small if a not in small[-5:-3]]
    )
    assert "epochs: 30 there, 9 now" in refused(
        "sweep", "finetune", "--over", "lr=0.01,0.001", *small, "--finetune.epochs", 9
    )
    assert (out / "study.json").read_bytes() == before
    assert main(["run", "finetune", *SMALL, "--out", str(out)]) == 2
    holder = tmp_path / "run"
    write_study(holder, {**read_study(out), "kind": "run"})
    assert "holds a run" in refused("sweep", "finetune", "--over", "lr=1,2", *SMALL, "--out", holder)


@pytest.mark.slow
def test_a_dropped_job_stops_and_is_no_failure(tmp_path: Path):
    jobs = [
        Job(
            DATA,
            NETWORK,
            "finetune",
            {"epochs": 10000},
            seed,
            "cpu",
            str(tmp_path / str(seed)),
            record_valid=True,
        )
        for seed in (0, 1)
    ]
    for job in jobs:
        Path(job.folder).mkdir()
    kinds: list[tuple[int, str]] = []

    def note(event: Event) -> None:
        kinds.append((event.job.seed, event.kind))

    with Processes(1) as processes:
        processes.run(jobs, note, dropped=lambda job: (0, "epoch") in kinds)
    assert {kind for _, kind in kinds} == {"queued", "spawn", "start", "epoch"}
    assert (1, "spawn") not in kinds  # dropped while it waited
    assert list((tmp_path / "0" / "checkpoints").glob("*.json"))


def test_a_study_whose_file_is_long_is_written_rarely(tmp_path: Path, monkeypatch):
    no_figures(monkeypatch)
    monkeypatch.setattr("engram.studies.conduct.SPARING", 1e9)
    written: list[int] = []

    def counted(root: Path, study: dict[str, object]) -> None:
        written.append(1)
        write_study(root, study)

    monkeypatch.setattr("engram.studies.conduct.results.write_study", counted)
    outcome = engram.sweep(
        "ncm", {"metric": ["euclidean", "cosine"]}, **GIVEN, seeds=(0, 1), out=tmp_path / "o"
    )
    assert outcome.problems == []
    assert len(written) == 2  # at the beginning and at the end
    assert [t["status"] for t in outcome.found["trials"]] == ["done", "done"]
    assert read_study(tmp_path / "o")["last"]["complete"]
