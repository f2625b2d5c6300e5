"""``engram tradeoff`` as a user calls it: refusals, the table, and a kill in the middle of real training."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from pretending import SMALL, Pretend

import engram
from calling import Refused, no_figures
from engram.cli.main import main
from engram.recipes import recipe
from engram.studies.results import read_study

THREE = ["--over", "lwf.strength=0.1,1,10"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["lwf", *SMALL, "--over", "lwf.strength=1,2"], "a curve needs three values, got 2 of lwf.strength"),
        (["lwf", *SMALL, "--over", "lwf.strength=1"], "a curve needs three"),
        (["lwf", *SMALL, "--over", "lwf.strength=1,1,2"], "must differ"),
        (
            ["lwf", *SMALL, "--over", "lwf.strength=0.1..10"],
            "must list the values of lwf.strength, got a range",
        ),
        (["lwf", *SMALL, "--over", "lwf.strength=1,2,-3"], "strength must be a number >= 0"),
        (["lwf", *SMALL, "--over", "lwf.distil=joint,per_head,joint"], "twice"),
        (["lwf", *SMALL, "--over", "lwf.zero_head=true,false"], "must give numbers"),
        (["lwf", *SMALL, "--over", "lwf.strenth=1,2,3"], "did you mean strength"),
        (["lwf", *SMALL, "--over", "lwff.strength=1,2,3"], "did you mean lwf"),
        (["lwf", *SMALL, "--over", "ewc.strength=1,2,3"], "must name a method that is run, got 'ewc'"),
        (["lwf", *SMALL, "--over", "strength=1,2,3"], "must be written METHOD.option=v1,v2,..."),
        (["lwf", *SMALL, *THREE, *THREE], "got lwf twice"),
        (["lwf", *SMALL, "--points", "2"], "--points must be an integer >= 3, a curve needs three, got 2"),
        (["lwf", *SMALL, "--widen", "-1"], "--widen must be an integer >= 0"),
        (["lwf", *SMALL, "--required", "0.97", "101"], "--required must be target accuracies in percent"),
        (
            ["lwf", *SMALL, "--lwf.strength", "3"],
            "--lwf.strength must be left out, the curve of lwf varies it",
        ),
        (["lwf:strength=3.0", *SMALL], "a variant must leave open what its curve varies"),
        (["lwf", "lwf", *SMALL], "named once, got lwf twice"),
        (["lwff", *SMALL], "did you mean lwf"),
        (["lwf", *SMALL, "--lwf.epoch", "3"], "did you mean --lwf.epochs"),
        ([], "a method must be named first"),
        (["lwf", *SMALL, "--scenario", "class"], "--scenario must be left out"),
        (["lwf", *SMALL, "--data=digits"], "--data must be left out"),
        (["lwf", *SMALL, "--valid-fraction", "0"], "chosen on validation data, got --valid-fraction 0"),
        (["lwf", *SMALL[:-4], "--network", "cifar-cnn", "--image-size", "8"], "must be 32x32"),
        (["lwf", *SMALL, "--source", "digits:0-4+digits:5-9"], "--source must be one data set"),
        (["lwf", *SMALL, "--target", "digits:0-4"], 'classes of their own, got "digits:0-4: 0" twice'),
        (["lwf", *SMALL, "--source", "digits:3-40"], "class range"),
        (["lwf", *SMALL, "--source", "digit:0-4"], "did you mean digits"),
        (["lwf", "--recipe", "none", "--source", "digits:0-4"], "source and target must be given"),
        (["lwf", "--recipe", "rescl-cifar"], "no pair of data sets"),
        (["lwf", *SMALL, "--resume", "--overwrite"], "only one of resume and overwrite"),
        (["lwf", *SMALL, "--seeds", "1", "1"], "distinct"),
        (["lwf", *SMALL, "--jobs", "0"], "--jobs must be"),
    ],
)
def test_refused(pretend: Pretend, refused: Refused, tmp_path: Path, argv: list[str], said: str):
    line = refused("tradeoff", *argv, "--out", tmp_path / "out")
    assert said in line
    assert not (tmp_path / "out").exists()
    assert pretend.ran == []


@pytest.mark.parametrize("columns", ["60", "80", "120"])
def test_ranges_may_overlap_and_the_table_says_what_was_not_reached(
    pretend: Pretend, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch, columns: str
):
    monkeypatch.setenv("COLUMNS", columns)
    out = tmp_path / "out"
    argv = ["tradeoff", "lwf", *SMALL, *THREE, "--target", "digits:3-8", "--seeds", "0", "1"]
    assert main([*argv, "--required", "99.5", "--device", "cpu", "--out", str(out)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "lwf reaches no target accuracy of 99.5 %: its best is" in said
    assert "finetune is run beside" in said
    assert "not reached" in said
    assert "lwf (strength)" in said
    assert f"Report: {out / 'report.html'}" in said
    assert main(["report", str(out)]) == 0
    assert "Trade-off, digits:0-4 (source) and digits:3-8 (target)" in " ".join(
        capsys.readouterr().out.split()
    )


def test_the_default_recipe(pretend: Pretend, tmp_path: Path):
    found = recipe("tradeoff-small")
    assert found.data["data"] == "mnist:0-4+mnist_m:5-9"
    small = ["--source", "digits:0-4", "--target", "digits:5-9", "--network", "mlp", "--seeds", "0"]
    assert (
        main(["tradeoff", "lwf", *small, *THREE, "--device", "cpu", "--out", str(tmp_path), "--quiet"]) == 0
    )
    stored = read_study(tmp_path)["found"]
    assert stored["recipe"] == "tradeoff-small"
    assert read_study(tmp_path)["data_settings"]["max_per_class"] == 2000
    options = stored["methods"][0]["options"]
    assert (options["epochs"], options["lr"], options["batch_size"]) == (5, 0.05, 32)


def test_help(capsys):
    assert main(["tradeoff", "--help"]) == 0
    assert "tradeoff-small" in capsys.readouterr().out
    assert main(["tradeoff", "lwf", "--help-all"]) == 0
    said = capsys.readouterr().out
    for flag in ("--source", "--target", "--points", "--widen", "--over", "--required", "--finetune.epochs"):
        assert flag in said
    assert "--scenario" not in said


@pytest.mark.slow
def test_killed_and_resumed_it_repeats_no_trial_and_gets_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
):
    no_figures(monkeypatch)
    out = tmp_path / "killed"
    short = ["--lwf.epochs", "3", "--finetune.epochs", "3", "--seeds", "0", "--device", "cpu", "--jobs", "2"]
    argv = ["tradeoff", "lwf", *SMALL, *THREE, *short, "--quiet", "--out", str(out)]
    process = subprocess.Popen([sys.executable, "-m", "engram", *argv], start_new_session=True)
    deadline = time.monotonic() + 240
    while not list(out.glob("lwf/*/seed-0/seed.json")):
        assert process.poll() is None, "ended before its first trial"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    first = {p: p.stat().st_mtime_ns for p in out.glob("*/**/seed-0/seed.json")}
    assert first
    while main([*argv, "--resume"]) == 2:  # its workers end at their next event, and let go of the folder
        assert "must not be in use" in capfd.readouterr().err
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert {p: p.stat().st_mtime_ns for p in first} == first
    stored = read_study(out)["found"]
    assert [p["status"] for m in stored["methods"] for p in m["points"]] == ["done"] * 4
    # The same by hand in this process.
    lwf = {p["value"]: p for p in stored["methods"][0]["points"]}
    data = engram.DataSettings(
        data="digits:0-4+digits:5-9", scenario="task", max_per_class=20, valid_fraction=0.1
    )
    from engram.protocols.protocol import Protocol
    from engram.studies.building import prepare
    from engram.studies.settings import NetworkSettings

    stream, network = prepare(data, NetworkSettings("mlp", {"hidden": [8]}))
    protocol = Protocol("task", record_valid=True)
    for value in (0.1, 10.0):
        spec = engram.method("lwf", epochs=3, strength=value)
        want = engram.run(stream, network, spec, protocol, seed=0)["accuracy_matrix"]
        assert [lwf[value]["source"][0], lwf[value]["target"][0]] == want[1]
        assert lwf[value]["source_network"] == [want[0][0]]
    assert stored["other_source_network"] == {}
