"""Methods and networks of one's own, named by file on the command line."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from calling import Call, Refused
from engram.methods.registry import METHODS
from engram.studies.results import read_result

PAGE = Path(__file__).parents[2] / "docs" / "your-method.md"
NETWORK = '''
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from engram.core.network import Network
from engram.networks.mlp import MlpTrunk


@dataclass(frozen=True)
class Narrow(Network):
    """One hidden layer."""

    name: ClassVar[str] = "narrow"
    width: int = 4

    def trunk(self, image_shape, *, norm="batch"):
        c, h, w = image_shape
        return MlpTrunk(c * h * w, (self.width,))


def plain():
    """A module."""
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(4), nn.ReLU())
'''


@pytest.fixture
def method_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The method of the documentation in a file; forgotten afterwards."""
    monkeypatch.setattr("engram.methods.registry.METHODS", dict(METHODS))
    path = tmp_path / "pull.py"
    path.write_text(PAGE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0])
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_they_are_compared_and_swept_like_others(method_file: Path, call: Call, tmp_path: Path):
    network = tmp_path / "net.py"
    network.write_text(NETWORK)
    small = ["--method-file", method_file, "--network", f"{network}:Narrow", "--pull.epochs", 1]
    small += ["--data", "stripes", "--tasks", 2, "--recipe", "none", "--device", "cpu", "--quiet"]
    out = tmp_path / "both"
    done = call("compare", "pull", "pull:strength=0.5", *small, "--out", out)
    assert done.code == 0, done.err
    config = read_result(out / "pull-strength-0.5")["config"]
    source = config["method"]["source"]
    assert len(source.pop("holds")) == 64
    assert source == {"name": "Pull", "file": "pull.py", "sha256": sha256(method_file)}
    assert config["method"]["options"] == {"strength": 0.5, "epochs": 1}
    assert config["network"]["name"] == "narrow"
    source = config["network"]["source"]
    assert len(source.pop("holds")) == 64
    assert source == {"name": "Narrow", "file": "net.py", "sha256": sha256(network)}
    again = call("run", "pull", "--config", out / "pull" / "config.yaml", "--print-config")
    assert f"{network}:Narrow" in again.out
    listed = call("list", "pull", "--method-file", method_file)
    assert "--pull.strength" in listed.out
    small[small.index(f"{network}:Narrow")] = f"{network}:plain"
    swept = call("sweep", "pull", "--over", "strength=0.1", *small, "--out", tmp_path / "swept")
    assert swept.code == 0, swept.err
    config = read_result(tmp_path / "swept" / "trials" / "strength=0.1")["config"]
    source = config["network"]["source"]
    assert len(source.pop("holds")) == 64
    assert source == {"name": "plain", "file": "net.py", "sha256": sha256(network)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = (", "SyntaxError in line 1 of"),
        ("import os\nos.nothing", "AttributeError in line 2 of"),
        ("import sys\nsys.exit()", "SystemExit in line 2 of"),
        ("x = 3", "must define one, a subclass of engram's Method"),
        ("from engram.methods.si import ENTRIES", "must have a name of its own, got si"),
        (
            "from engram.methods.si import Si\nclass Own(Si):\n    Config = int",
            "Config of Own in own.py must be a dataclass",
        ),
    ],
)
def test_a_bad_file_of_methods(text: str, words: str, refused: Refused, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(text)
    assert words in refused("run", "own", "--method-file", "own.py", "--out", "out")
    assert "must be readable, got no.py" in refused("run", "own", "--method-file", "no.py")


def test_a_bad_network(refused: Refused, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NETWORK)
    assert "did you mean Narrow?" in refused("run", "finetune", "--network", "net.py:Narow")
    assert "must be made without arguments" in refused("run", "finetune", "--network", "net.py:MlpTrunk")
    assert "a torch module" in refused("run", "finetune", "--network", "net.py:__name__")
