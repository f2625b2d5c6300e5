"""Workers that are killed, runs that are stopped, checkpoints that are damaged: nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from stripes import SMALL, Killed

from calling import Call, Refused
from engram.__main__ import main as engram_command
from engram.errors import PlaceError
from engram.methods.registry import METHODS
from engram.report.drawing import Drawing
from engram.studies.results import read_result, write_entry

MEASURED = ("accuracy_matrix", "confusion", "final_average_accuracy", "storage_bytes")


def weights(folder: Path) -> str:
    """Checksum of the tensors in the newest checkpoint of a seed."""
    newest = max((folder / "checkpoints").glob("*.json"))
    return str(json.loads(newest.read_text())["tensors_sha256"])


def measured(folder: Path, seed: int) -> dict[str, Any]:
    """What a seed measured, times left out."""
    (entry,) = [s for s in read_result(folder)["seeds"] if s["seed"] == seed]
    losses = [[[e["losses"] for e in phase["epochs"]] for phase in task["phases"]] for task in entry["tasks"]]
    return {"losses": losses, **{k: entry[k] for k in MEASURED}}


def test_ctrl_c_while_the_command_is_still_being_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    class Interrupts:
        """Ctrl-C, in the middle of the first import."""

        @staticmethod
        def find_spec(*_: Any) -> None:
            raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "engram.cli.main")
    monkeypatch.setattr(sys, "meta_path", [Interrupts, *sys.meta_path])
    assert engram_command() == 130
    assert capsys.readouterr() == ("", "engram: stopped.\n")


def test_a_killed_worker_is_reported_and_the_others_finish(killed_run: Killed):
    outcome = killed_run.outcome
    assert outcome.exit_code == 1
    (problem,) = outcome.problems
    assert problem.seed == 1
    assert "SIGKILL" in problem.message
    first, second = read_result(killed_run.out)["seeds"]
    assert first["status"] == "done"
    assert second["status"] == "failed"
    assert second["accuracy_matrix"][0][0] is not None
    assert "SIGKILL" in second["error"]
    assert (killed_run.out / "report.html").exists()


def test_resume_equals_a_run_that_was_never_interrupted(killed: Path, finished_folder: Path, call: Call):
    seed_0 = (killed / "seed-0" / "seed.json").stat().st_mtime_ns
    done = call("run", "finetune", *SMALL, "--seeds", 0, 1, "--out", killed, "--resume")
    assert done.code == 0, done.err
    assert "continues at task 2 of 3" in done.out
    assert "seed 0" not in done.out
    assert measured(killed, 1) == measured(finished_folder, 1)
    assert weights(killed / "seed-1") == weights(finished_folder / "seed-1")
    assert (killed / "seed-0" / "seed.json").stat().st_mtime_ns == seed_0


def test_a_seeds_result_counts_only_for_its_own_run(killed: Path, call: Call):
    """A seed that finished is found where the result file missed it, but not by a run with other options."""
    (killed / "study.json").unlink()
    small = ["run", "finetune", *SMALL, "--out", killed, "--resume", "--seeds"]
    other = call(*small, 0, "--finetune.epochs", 2)
    assert other.code == 2, other
    done = call(*small, 0)
    assert done.code == 0, done.err
    assert "seed 0" not in done.out
    shutil.rmtree(killed / "seed-0" / "checkpoints")
    shutil.rmtree(killed / "seed-1")
    (killed / "study.json").unlink()
    before = (killed / "seed-0" / "seed.json").read_bytes()
    again = call("run", "finetune", *SMALL, "--finetune.epochs", 2, "--seeds", 0, "--out", killed)
    assert again.code == 0, again.err
    assert (killed / "seed-0" / "seed.json").read_bytes() != before
    (entry,) = read_result(killed)["seeds"]
    assert [len(phase["epochs"]) for task in entry["tasks"] for phase in task["phases"]] == [2, 2, 2]


def test_a_stale_seed_result_is_replaced_on_resume(killed: Path, call: Call):
    """The state is unfinished, as a checkpoint is left, but the entry is of another run."""
    (killed / "study.json").unlink()
    path = killed / "seed-0" / "seed.json"
    stale = json.loads(path.read_text())
    other = {k: v for k, v in stale.items() if k not in ("sha256", "identity")}
    write_entry(path.parent, "0" * 64, {**other, "accuracy_matrix": [[1.0] * 3] * 3})
    done = call("run", "finetune", *SMALL, "--seeds", 0, "--out", killed, "--resume")
    assert done.code == 0, done.err
    assert json.loads(path.read_text())["identity"] == stale["identity"]
    assert read_result(killed)["seeds"][0]["accuracy_matrix"] == stale["accuracy_matrix"]


def test_edited_files_are_refused_and_taken_when_accepted(killed: Path, call: Call, refused: Refused):
    path = killed / "seed-0" / "seed.json"
    entry = json.loads(path.read_text())
    path.write_text(json.dumps({**entry, "final_average_accuracy": 0.999}))
    again = ["run", "finetune", *SMALL, "--seeds", 0, 1, "--out", killed, "--resume"]
    for command in (["report", killed], again):
        assert "seed.json must be as engram wrote it, its content does not match" in refused(*command)
    shown = call("report", killed, "--accept-edited")
    assert shown.code == 0, shown.err
    done = call(*again, "--accept-edited")
    assert done.code == 0, done.err
    for said in (shown.out, done.out):
        assert "finetune (edited)" in said
        assert "99.9" not in said
    assert "seed.json must be" in refused("report", killed)
    study = json.loads((killed / "study.json").read_text())
    (killed / "study.json").write_text(json.dumps({**study, "engram": "0.0"}))
    assert "study.json must be" in refused(*again[:-1], "--resume")
    done = call(*again, "--seeds", 0, 1, 2, "--accept-edited")
    assert done.code == 0, done.err
    assert json.loads((killed / "study.json").read_text())["edited"] == ["study.json"]


def test_a_damaged_checkpoint_is_said_and_the_one_before_is_used(
    killed: Path, finished_folder: Path, call: Call
):
    newest = max((killed / "seed-1" / "checkpoints").glob("*.safetensors"))
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    done = call("run", "finetune", *SMALL, "--seeds", 0, 1, "--out", killed, "--resume")
    assert done.code == 0, done.err
    assert "is damaged" in done.out
    assert "The one before it is used" in done.out
    assert measured(killed, 1) == measured(finished_folder, 1)
    assert weights(killed / "seed-1") == weights(finished_folder / "seed-1")


def test_ctrl_c_stops_the_workers_and_says_how_to_go_on(tmp_path: Path):
    out = tmp_path / "stopped"
    argv = ["run", "finetune", *SMALL, "--finetune.epochs", "100000", "--out", str(out)]
    # Tests started in the background of a shell inherit an ignored SIGINT; a user's terminal has it.
    process = subprocess.Popen(
        [sys.executable, "-m", "engram", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        end = time.monotonic() + 120
        while not list(out.glob("seed-0/checkpoints/*.json")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.05)
        worker = int((out / "seed-0" / "worker.log").read_text().split()[1].rstrip(":"))
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert said.count("\n") == 1
    assert "checkpoints stay" in said
    assert "--resume" in said
    assert read_result(out)["seeds"][0]["status"] == "unfinished"
    try:
        os.kill(worker, 0)
    except ProcessLookupError:
        return
    raise AssertionError("the worker still runs")


def test_a_page_that_is_not_drawn_costs_no_table(call: Call, tmp_path: Path, monkeypatch):
    for error, why in ((KeyboardInterrupt(), "you stopped it"), (PlaceError("it is full."), "it is full")):

        def page(*_: Any, error: BaseException = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr(Drawing, "page", page)
        out = tmp_path / why[:3]
        done = call("run", "finetune", *SMALL, "--finetune.epochs", 1, "--out", out, "--recipe", "none")
        assert done.code == 2
        assert "Final avg" in done.out
        assert done.err == (
            f"engram: the page must be drawn, it is not ({why}): engram report {out} draws it.\n"
        )


def test_code_that_ends_its_process_is_told(call: Call, tmp_path: Path, monkeypatch):
    """What stays is told as it is: here no checkpoint was written yet."""
    monkeypatch.setattr("engram.methods.registry.METHODS", dict(METHODS))  # no other test knows this method
    (tmp_path / "own.py").write_text(
        "import sys\nfrom engram.methods.finetune import Finetune\n\n\n"
        "class Leaver(Finetune):\n    def loss(self, batch, step):\n        sys.exit('enough')\n"
    )
    words = ["--method-file", tmp_path / "own.py", *SMALL[:-2], "--recipe", "none", "--out", tmp_path / "out"]
    done = call("run", "leaver", *words)
    assert done.code == 1
    assert "stopped by an unexpected SystemExit: enough" in done.err
    assert "it has no checkpoint yet. Go on with: engram run leaver" in done.err


def test_what_killed_processes_left_half_written_goes(call: Call, killed: Path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = [
        killed / place / f".x.{dead.pid}.tmp" for place in (".", "seed-0", "seed-1", "seed-1/checkpoints")
    ]
    (killed / "figures").mkdir(exist_ok=True)
    left.append(killed / "figures" / f".a.png.{dead.pid}.tmp")
    for path in left:
        path.write_bytes(b"half")
    assert call("run", "finetune", *SMALL, "--seeds", 0, 1, "--out", killed, "--resume").code == 0
    assert not any(path.exists() for path in left)


def test_files_of_ours_are_not_opened_behind_links(
    refused: Refused, call: Call, killed: Path, tmp_path: Path
):
    """A link at the place of a lock, a log or a job leads nobody to write elsewhere."""
    elsewhere = tmp_path / "elsewhere"
    (killed / ".lock").unlink(missing_ok=True)
    (killed / ".lock").symlink_to(elsewhere)
    words = ["run", "finetune", *SMALL, "--seeds", 1, "--out", killed, "--resume"]
    assert f"{killed}/.lock must be a place that can be used" in refused(*words)
    (killed / ".lock").unlink()
    os.mkfifo(killed / ".lock")
    assert f"{killed}/.lock must be a file that engram wrote" in refused(*words)
    (killed / ".lock").unlink()
    (killed / "seed-1" / "worker.log").unlink()
    (killed / "seed-1" / "worker.log").symlink_to(elsewhere)
    done = call(*words)
    assert done.code == 2
    assert "worker.log must be a place that can be used" in done.err
    assert not elsewhere.exists()
