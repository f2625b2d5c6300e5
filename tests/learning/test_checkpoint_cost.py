"""What makes a checkpoint cheap must not weaken it: sealed JSON, cached tasks, rare waits for the disk."""

from __future__ import annotations

import json

import pytest

from engram.core import files
from engram.core.contract import Context
from engram.errors import CheckpointError
from engram.learning import checkpoint
from engram.learning.checkpoint import Checkpoints
from engram.learning.state import LoopState
from engram.methods.registry import method
from engram.networks import Mlp


@pytest.fixture
def learner():
    spec = method("finetune")
    return spec.make(spec.config, Context(Mlp((4,)), (1, 2, 2), 2, "class", 0))


def test_the_record_comes_back_as_it_was_whether_its_tasks_were_encoded_before_or_not(tmp_path, learner):
    checkpoints = Checkpoints(tmp_path, {"a": 1})
    tasks: list[dict] = []
    for n in range(4):
        record = {"rows": [n], "tasks": list(tasks), "phases": {"p": [n]}}
        checkpoints.save(learner, LoopState(), record)
        assert Checkpoints(tmp_path, {"a": 1}).restore(learner, LoopState()) == record
        tasks.append({"task": n, "loss": 0.1 + n, "name": "é"})
    other = {"rows": [], "tasks": [{"task": 9}]}
    checkpoints.save(learner, LoopState(), other)
    assert checkpoints.restore(learner, LoopState()) == other
    checkpoints.save(learner, LoopState(), {"rows": []})
    assert checkpoints.restore(learner, LoopState()) == {"rows": []}


def test_every_changed_byte_of_the_json_is_noticed(tmp_path, learner):
    Checkpoints(tmp_path, {}).save(learner, LoopState(), {"tasks": [{"task": 0}], "rows": [[0.5]]})
    (path,) = tmp_path.glob("*.json")
    whole = path.read_bytes()
    assert json.loads(whole)["identity"] == {}
    for i in range(0, len(whole), 7):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        with pytest.raises(CheckpointError, match="damaged"):
            Checkpoints(tmp_path, {}).restore(learner, LoopState())
    for end in (0, 10, 79, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(CheckpointError, match="damaged"):
            Checkpoints(tmp_path, {}).restore(learner, LoopState())


def test_the_pair_that_the_disk_has_for_sure_is_kept_beside_the_newest_two(tmp_path, learner, monkeypatch):
    clock = [0.0]
    waits: list[int] = []
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(files.os, "fsync", waits.append)
    checkpoints = Checkpoints(tmp_path, {})
    kept = []
    for now in (0, 1, 2, 3, 11, 12, 13, 14):
        clock[0] = now
        checkpoints.save(learner, LoopState(), {"now": now})
        kept.append(sorted(int(p.stem) for p in tmp_path.glob("*.json")))
    assert kept == [[0], [0, 1], [0, 1, 2], [0, 2, 3], [3, 4], [4, 5], [4, 5, 6], [4, 6, 7]]
    assert len(waits) == 2 * 2 * 2  # twice a pair, for each file and its folder
    for number in (7, 6):
        next(tmp_path.glob(f"*{number}.safetensors")).write_bytes(b"")
    with pytest.warns(UserWarning, match="damaged"):
        assert Checkpoints(tmp_path, {}).restore(learner, LoopState()) == {"now": 11}
