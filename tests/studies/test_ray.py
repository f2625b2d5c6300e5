"""The trials of a grid on a Ray cluster of several processes on this machine, one of them killed in the middle."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from sweeping import GIVEN, SMALL, alone, measured

import engram
from calling import Refused, no_figures
from engram.studies.forks import FORKS
from engram.studies.results import read_result

pytest.importorskip("ray", reason="needs the extra engram[ray]")

# Ray leaves sockets and log files open when it ends, and warns of its own future defaults.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
LEARN = {"epochs": 60}


def kill_in_the_middle(folder: Path, killed: list[int]) -> None:
    """Kill the process of a job once it has written a few checkpoints."""
    end = time.monotonic() + 90
    while time.monotonic() < end:
        if list((folder / "checkpoints").glob("*.json")):
            killed.append(int(re.findall(r"process (\d+)", (folder / "worker.log").read_text())[-1]))
            os.kill(killed[0], signal.SIGKILL)
            return
        time.sleep(0.02)


@pytest.mark.slow
def test_a_worker_killed_in_the_middle(tmp_path: Path, monkeypatch):
    no_figures(monkeypatch)
    out = tmp_path / "sweep"
    victim = out / "trials/lr=0.01/seed-0"
    killed: list[int] = []
    thread = threading.Thread(target=kill_in_the_middle, args=(victim, killed), daemon=True)
    thread.start()
    outcome = engram.sweep(
        "finetune", {"lr": [0.01, 0.001]}, **GIVEN, options=LEARN, out=out, engine="ray", jobs=2
    )
    thread.join(5)
    assert killed
    assert outcome.problems == []
    processes = re.findall(r"process (\d+)", (victim / "worker.log").read_text())
    assert len(processes) == 2
    assert int(processes[0]) == killed[0] != int(processes[1])
    assert [(t["name"], t["status"]) for t in outcome.found["trials"]] == [
        ("lr=0.01", "done"),
        ("lr=0.001", "done"),
    ]
    for value in (0.01, 0.001):
        (entry,) = read_result(out / f"trials/lr={value}")["seeds"]
        assert measured(entry) == measured(alone({"lr": value, **LEARN}))
    # Another engine finds everything finished.
    again = engram.sweep("finetune", {"lr": [0.01, 0.001]}, **GIVEN, options=LEARN, out=out)
    assert again.kept == ["lr=0.01", "lr=0.001"]


def test_a_finished_job_is_not_learned_again(tmp_path: Path):
    from dataclasses import replace

    from engram.studies.jobs import Job
    from engram.studies.ray_engine import learn_there

    job = Job(
        GIVEN["data"], GIVEN["network"], "finetune", {"epochs": 1}, 0, "cpu", str(tmp_path), record_valid=True
    )
    first = learn_there(job.to_json())
    written = (tmp_path / "seed.json").stat().st_mtime_ns
    assert learn_there(replace(job, resume=True).to_json()) == first
    assert (tmp_path / "seed.json").stat().st_mtime_ns == written
    other = learn_there(replace(job, seed=1).to_json())
    assert other["entry"] != first["entry"]
    own = re.findall(r"process (\d+)", (tmp_path / "worker.log").read_text())
    assert len(own) == 2
    if FORKS:  # Ray's process goes on, and each job had another
        assert len({*own, str(os.getpid())}) == 3


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:0", "127.0.0.1:port"])
def test_no_address(address: str, refused: Refused, tmp_path: Path):
    said = refused(
        "sweep",
        "si",
        "--over",
        "c=1",
        *SMALL,
        "--engine",
        "ray",
        "--address",
        address,
        "--out",
        tmp_path / "o",
    )
    assert "HOST:PORT" in said


def test_an_address_that_does_not_answer(refused: Refused, tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    began = time.monotonic()
    said = refused(
        "sweep",
        "si",
        "--over",
        "c=1",
        *SMALL,
        "--engine",
        "ray",
        "--address",
        f"127.0.0.1:{port}",
        "--out",
        tmp_path / "o",
    )
    assert f"none answers at 127.0.0.1:{port}" in said
    assert time.monotonic() - began < 30
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_a_polite_kill_ends_like_ctrl_c(tmp_path: Path):
    out = tmp_path / "sweep"
    words = "sweep finetune --over lr=0.01 --engine ray --jobs 1 --device cpu --data digits --tasks 5 --recipe none"
    words += " --network mlp --finetune.epochs 100000 --quiet --out"
    process = subprocess.Popen(
        [sys.executable, "-m", "engram", *words.split(), str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = out / "trials/lr=0.01/seed-0/worker.log"
    try:
        end = time.monotonic() + 300
        while not list(log.parent.glob("checkpoints/*.json")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        said, told = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, told
    assert said == ""
    assert told.count("\n") == 1, told
    assert "checkpoints stay. Go on with: engram sweep" in told
    worker = int(re.findall(r"process (\d+)", log.read_text())[-1])
    end = time.monotonic() + 30  # the kernel kills it when Ray's process dies, and somebody else buries it
    while _is_there(worker):
        assert time.monotonic() < end
        time.sleep(0.05)


def _is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
