"""Runs and comparisons that go well, as a user starts them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from stripes import SMALL, contents

from calling import Call
from engram.cli import command_line
from engram.studies.results import read_result


def test_a_run_leaves_its_results_settings_and_page(finished: Path):
    result = read_result(finished)
    (entry,) = result["seeds"]
    assert entry["seed"] == 1
    assert entry["status"] == "done"
    assert result["protocol"] == {"scenario": "class", "reads": "task", "selection": "last epoch"}
    assert result["device"]["class"] == "cpu"
    assert result["device"]["threads"] == 1
    assert len(result["data"]["fingerprint"]) == 64
    assert [len(t["classes"]) for t in result["tasks"]] == [4, 3, 3]
    assert result["config"]["network"] == {
        "name": "mlp",
        "options": {"hidden": [16], "init": "pytorch", "n_f": None, "n_z": 64},
    }
    written = json.loads((finished / "seed-1" / "seed.json").read_text())
    assert len(written.pop("identity")) == len(written.pop("sha256")) == 64
    assert written == entry
    assert (finished / "report.html").exists()
    assert (finished / "seed-1" / "worker.log").exists()
    assert list((finished / "tensorboard" / "seed-1").glob("events*"))


def test_the_written_settings_run_the_same_again(finished: Path, call: Call):
    settings = yaml.safe_load((finished / "config.yaml").read_text())
    assert settings["tasks"] == 3
    assert settings["finetune"]["epochs"] == 3
    done = call("run", "finetune", "--config", finished / "config.yaml", "--out", finished)
    assert done.code == 0
    assert "had already finished" in done.out


def test_a_finished_run_says_so_and_stays(finished: Path, call: Call):
    before = contents(finished / "seed-1") | {"r": (finished / "study.json").read_bytes()}
    done = call("run", "finetune", *SMALL, "--seeds", 1, "--out", finished)
    assert done.code == 0
    assert "had already finished" in done.out
    assert contents(finished / "seed-1") | {"r": (finished / "study.json").read_bytes()} == before


def test_the_command_line_wins_over_the_file_wherever_it_stands(finished: Path, refused):
    text = refused(
        "run", "finetune", "--finetune.epochs", 5, "--config", finished / "config.yaml", "--out", finished
    )
    assert "method.options.epochs: 3 there, 5 now" in text


def test_a_comparison_of_variants(tmp_path: Path, call: Call, real_report: None):
    out = tmp_path / "both"
    done = call("compare", "finetune", "finetune:lr=0.01,schedule=cosine", *SMALL, "--out", out)
    assert done.code == 0, done.err
    assert done.err == ""
    changed = read_result(out / "finetune-lr-0.01-schedule-cosine")
    assert changed["label"] == "finetune:lr=0.01,schedule=cosine"
    assert changed["config"]["method"]["options"]["lr"] == 0.01
    assert changed["config"]["method"]["options"]["epochs"] == 3
    assert read_result(out / "finetune")["config"]["method"]["options"]["lr"] == 0.001
    assert "finetune seed 0: task 1 of 3" in done.out
    assert f"Report: {out / 'report.html'}" in done.out
    page = (out / "report.html").read_text()
    assert "finetune:lr=0.01,schedule=cosine" in page


def test_report_draws_a_stored_run_again(finished: Path, call: Call, real_report: None):
    (finished / "report.html").unlink()
    done = call("report", finished)
    assert done.code == 0
    assert "finetune" in done.out
    assert f"Report: {finished / 'report.html'}" in done.out
    assert "<img" in (finished / "report.html").read_text()


def test_quiet_prints_the_table_alone(finished: Path, call: Call):
    done = call("run", "finetune", *SMALL, "--seeds", 1, "--out", finished, "--quiet")
    assert done.code == 0
    assert done.out.startswith("After the last task")
    assert "Report" not in done.out


def test_overwrite_runs_again_and_leaves_other_files(finished: Path, call: Call):
    (finished / "mine.txt").write_text("mine")
    done = call("run", "finetune", *SMALL, "--seeds", 0, "--out", finished, "--overwrite")
    assert done.code == 0, done.err
    assert [s["seed"] for s in read_result(finished)["seeds"]] == [0]
    assert not (finished / "seed-1").exists()
    assert (finished / "mine.txt").read_text() == "mine"


def test_overwrite_may_change_data_and_tasks(finished: Path, call: Call):
    done = call("run", "finetune", *SMALL, "--tasks", 2, "--seeds", 0, "--out", finished, "--overwrite")
    assert done.code == 0, done.err
    assert len(read_result(finished)["tasks"]) == 2


def test_overwrite_removes_only_files_that_engram_wrote(finished: Path, call: Call):
    mine = ["seed-1/notes.txt", "seed-1/checkpoints/best.safetensors", "figures/photo.png", "seed-9/a.csv"]
    mine += ["seed-bank/job.json", "tensorboard/seed-1/other.txt", "tensorboard/old/events.out.tfevents.1"]
    for name in mine:
        (finished / name).parent.mkdir(parents=True, exist_ok=True)
        (finished / name).write_text("mine")
    done = call("run", "finetune", *SMALL, "--seeds", 0, "--out", finished, "--overwrite")
    assert done.code == 0, done.err
    for name in mine:
        assert (finished / name).read_text() == "mine"
    assert not (finished / "seed-1" / "job.json").exists()
    assert [p.name for p in (finished / "seed-1" / "checkpoints").iterdir()] == ["best.safetensors"]


@pytest.mark.parametrize("command", [["run", "finetune"], ["compare", "finetune"], ["sweep", "finetune"]])
@pytest.mark.parametrize("name", ["seed-1/photo.png", "finetune/thesis.txt", "results.json", "config.yaml"])
def test_overwrite_refuses_a_folder_of_something_else(command: list[str], name: str, refused, tmp_path: Path):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text('{"mine": 1}')
    more = ["--over", "lr=0.1,0.01"] if command[0] == "sweep" else []
    text = refused(*command, *SMALL, *more, "--out", tmp_path, "--overwrite")
    assert "give another --out" in text
    assert contents(tmp_path) == {name: b'{"mine": 1}'}


def test_the_recipes_line_says_what_is_set_otherwise():
    asked = command_line.read(
        "run", ["finetune", "--tasks", "2", "--network", "mlp", "--finetune.epochs", "1"]
    )
    assert asked is not None
    line = asked.recipe_words
    assert line.startswith("recipe digits (default): ")
    assert line.endswith("; here with --network mlp, --tasks 2, --finetune.epochs 1\n")
    asked = command_line.read("run", ["finetune", "--recipe", "digits"])
    assert asked is not None
    assert "here with" not in asked.recipe_words
    assert "(default)" not in asked.recipe_words


def test_help_lists_and_bad_options_load_no_torch():
    code = """
import sys
from engram.cli.main import main
for line in ("--help", "list", "list si", "run si --help", "tradeoff lwf --help", "sweep si --help"):
    assert main(line.split()) == 0, line
for line in ("run si --si.cc 1", "run si --si.c x", "compare si:c=x", "run sii", "run si --network mlpp", "list x"):
    assert main(line.split()) == 2, line
heavy = {"torch", "numpy", "matplotlib", "ray", "optuna"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
