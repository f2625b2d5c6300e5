"""A memory as a file that answers without engram."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from letters import draw

from calling import Call
from engram.errors import ConfigError, EngramError
from engram.memory import export as exporting
from engram.memory.export import OPSET, export
from engram.memory.memory import Memory

SIZE = 8
SETTINGS = {
    "fixed features": {
        "method": "slda",
        "features": "scattering",
        "features_options": {"J": 1, "L": 2},
        "method_options": {"scatter": "classes", "eps": 0.1},
    },
    "pixels": {"method": "ncm"},
    "trained": {"method": "finetune", "network": "dcgan8", "method_options": {"epochs": 1}},
}


def _images(name: str, n: int) -> np.ndarray:
    """Noise with a bright row that tells the class."""
    pixels = np.random.default_rng(ord(name)).integers(0, 80, (n, SIZE, SIZE), dtype=np.uint8)
    pixels[:, ord(name) % SIZE] += 150
    return pixels


def _learned(root: Path, kind: str) -> Memory:
    memory = Memory.create(root, image_size=SIZE, **SETTINGS[kind])
    memory.learn({name: _images(name, 12) for name in "ab"})
    memory.learn({"ç": _images("ç", 12)})
    return memory


@pytest.mark.parametrize("kind", SETTINGS)
def test_the_exported_file_answers_as_the_memory(kind: str, tmp_path: Path) -> None:
    memory = _learned(tmp_path / "memory", kind)
    if kind == "fixed features":
        memory.forget("a")
    done = export(memory, tmp_path / "net.onnx")
    images = _images("q", 1000)
    expected = memory.predict_proba(images)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["engram.classes"]) == list(memory.classes_)
    assert said["engram.opset"] == str(OPSET)
    for n in (1, 1000):  # any number at once
        (found,) = session.run(["probabilities"], {"images": images[:n, None]})
        assert found.dtype == np.float32
        assert np.abs(found - expected[:n]).max() < 1e-5
    assert done.difference is not None
    assert len(done.path.read_bytes()) < 2 * 2**20  # statistics stay behind

    export(memory.path, tmp_path / "net.pt2")
    extra = {"engram.json": ""}
    program = torch.export.load(tmp_path / "net.pt2", extra_files=extra).module()
    assert np.abs(program(torch.from_numpy(images[:, None])).numpy() - expected).max() < 1e-5
    assert json.loads(extra["engram.json"])["classes"] == list(memory.classes_)


def test_photos_in_colour_as_they_come(tmp_path: Path) -> None:
    """Their default features take the mirror image along and keep colours coarsely."""
    memory = Memory.create(tmp_path / "memory", image_size=SIZE)
    memory.learn({name: np.stack([_images(name, 12)] * 3, -1) for name in "ab"})
    images = np.stack([_images("q", 5)] * 3, -1)
    for kind in ("onnx", "pt2"):
        export(memory, tmp_path / f"net.{kind}")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    for n in (1, 5):
        (found,) = session.run(["probabilities"], {"images": images[:n].transpose(0, 3, 1, 2)})
        assert np.abs(found - memory.predict_proba(images[:n])).max() < 1e-5


def test_a_file_that_answers_otherwise_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = _learned(tmp_path / "memory", "pixels")
    monkeypatch.setattr(exporting, "_run", lambda kind, content, images: torch.zeros(len(images), 3))
    with pytest.raises(EngramError, match=r"must answer as the memory does within 0\.001"):
        export(memory, tmp_path / "net.pt2")
    assert not (tmp_path / "net.pt2").exists()


def test_what_cannot_be_exported_is_refused(
    memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.onnx or \.pt2, got .*net\.bin"):
        export(memory, tmp_path / "net.bin")
    with pytest.raises(ConfigError, match="this one has not: learn one first"):
        export(Memory.create(tmp_path / "new"), tmp_path / "net.pt2")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else found(name))
    with pytest.raises(
        ConfigError, match=r"package onnx, which is not installed: pip install 'engram\[export\]'"
    ):
        export(memory, tmp_path / "net.onnx")


def test_the_command_says_what_it_wrote(call: Call, memory: Path, tmp_path: Path) -> None:
    done = call("export", memory, tmp_path / "net.pt2")
    assert done.code == 0, done.err
    assert "images uint8 [N, 1, 8, 8] to probabilities of 3 classes" in done.out
    assert "probabilities differ by at most" in done.out
    refused = call("export", memory)
    assert refused.code == 2
    assert "usage must be engram export MEMORY FILE.onnx|FILE.pt2" in refused.err


def test_the_program_of_the_docs_names_what_the_memory_names(memory: Path, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    (tmp_path / "name.py").write_text(re.findall(r"```python\n(.*?)```", page, re.S)[0], encoding="utf-8")
    images = sorted(draw(tmp_path / "images", "abc", n=2, size=11).rglob("*.png"))
    export(memory, tmp_path / "net.onnx")
    words = [sys.executable, "name.py", "net.onnx", *map(str, images)]
    said = subprocess.run(words, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.splitlines()
    opened = Memory.open(memory)
    names, highest = opened.predict(images), opened.predict_proba(images).max(1)
    assert [line.split()[:2] for line in said] == [[str(p), n] for p, n in zip(images, names, strict=True)]
    assert [float(line.split()[2]) for line in said] == pytest.approx(list(highest), abs=0.02)
