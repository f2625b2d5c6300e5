"""Data sets one after another from the command line, and a network whose name has a hyphen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

from calling import Call
from engram.studies.results import read_result

SEQUENCE = ["--data", "stripes:0-1+stripes:2-4", "--scenario", "task", "--network", "mlp"]


def test_a_run_over_two_data_sets_and_its_config_again(call: Call, tmp_path: Path):
    options = ["--mlp.hidden", "[8]", "--finetune.epochs", "1", "--quiet"]
    done = call("run", "finetune", *SEQUENCE, *options, "--out", tmp_path / "a")
    assert done.code == 0, done.err
    result = read_result(tmp_path / "a")
    assert [task["classes"] for task in result["tasks"]] == [[0, 1], [2, 3, 4]]
    assert result["data"]["name"] == "stripes:0-1 and stripes:2-4"
    assert any("only classes 2 to 4" in note for note in result["data"]["notes"])
    again = call("run", "finetune", "--config", tmp_path / "a" / "config.yaml", "--print-config")
    assert yaml.safe_load(again.out)["data"] == "stripes:0-1+stripes:2-4"


def test_what_a_sequence_refuses(refused: Callable[..., str]):
    assert "scenario must be task or class" in refused("run", "finetune", *SEQUENCE, "--scenario", "domain")
    assert "tasks must be left out" in refused("run", "finetune", *SEQUENCE, "--tasks", "5")
    assert "did you mean digits" in refused(
        "run", "finetune", "--data", "digit+stripes", "--scenario", "task"
    )


def test_options_of_the_cifar_network(call: Call, refused: Callable[..., str], tmp_path: Path):
    given = ["--network", "cifar-cnn", "--cifar-cnn.n_c", "2", "--cifar-cnn.n_h", "8"]
    small = ["--data", "stripes", "--tasks", "2", "--scenario", "task", "--finetune.epochs", "1", "--quiet"]
    done = call("run", "finetune", *small, *given, "--out", tmp_path)
    assert done.code == 0, done.err
    stored = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert stored["cifar_cnn"] == {"n_c": 2, "n_h": 8}
    again = call("run", "finetune", "--config", tmp_path / "config.yaml", "--quiet", "--print-config")
    assert yaml.safe_load(again.out)["cifar_cnn"] == {"n_c": 2, "n_h": 8}
    assert "--cifar-cnn.n_c" in refused("run", "finetune", *small, "--network", "mlp", "--cifar-cnn.n_c", "2")
