"""When a checkpoint is due: writing takes a fiftieth of training at most, and a kill loses a stated time at most."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from engram.checks import tiny_stream
from engram.checks.comparing import differing, timeless
from engram.learning import checkpoint
from engram.learning.checkpoint import Checkpoints
from engram.learning.learner import Learner
from engram.learning.state import LoopState
from engram.methods.registry import method
from engram.networks import Mlp
from engram.protocols.session import run

FEW = {"epochs": 4, "batch_size": 8}


@pytest.mark.parametrize(("takes", "every"), [(0.0, 1.0), (0.01, 1.0), (0.1, 5.0), (0.43, 21.5)])
def test_training_between_two_is_fifty_times_as_long_as_writing_and_a_second_at_least(
    takes: float, every: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(checkpoint.time, "perf_counter", lambda: clock[0])
    write = checkpoint.write_atomically

    def slowly(*given, **more) -> None:
        write(*given, **more)
        clock[0] += takes / 2  # a checkpoint is two files

    monkeypatch.setattr(checkpoint, "write_atomically", slowly)
    learner = Learner("finetune", Mlp((4,)), image_shape=(1, 2, 2))
    checkpoints, trained, lost = Checkpoints(tmp_path, {}), 0.0, 0.0
    written = [0.0]  # seconds of training at each
    while trained < 400:
        clock[0] += 0.25  # an epoch
        trained += 0.25
        if checkpoints.due():
            checkpoints.save(learner.method, LoopState(), {})
            written.append(trained)
        lost = max(lost, trained - written[-1])
    assert max(b - a for a, b in pairwise(written)) <= every + 0.25
    assert lost <= every
    assert checkpoints.seconds - takes <= 0.02 * trained  # but for the last one


def test_a_run_cut_between_two_checkpoints_repeats_what_was_lost_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cut(Exception):
        """As a kill: nothing is written any more."""

    stream, spec = tiny_stream((2, 2), n_train=16), method("si", FEW)
    whole = run(stream, Mlp((8,)), spec, out=tmp_path / "whole")
    heard: list[object] = []

    def cut(event: object) -> None:
        heard.append(event)
        if len(heard) == 3:
            monkeypatch.setattr(checkpoint, "LEAST_SECONDS", 1e9)
        if len(heard) == 7:  # in the second task
            raise Cut

    monkeypatch.setattr(checkpoint, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", float("inf"))
    with pytest.raises(Cut):
        run(stream, Mlp((8,)), spec, out=tmp_path / "cut", observer=cut)
    again: list[object] = []
    resumed = run(stream, Mlp((8,)), spec, out=tmp_path / "cut", resume=True, observer=again.append)
    assert len(again) > 10 - len(heard)  # it had to repeat some
    assert timeless(resumed) == timeless(whole)
    states = [Learner.load(tmp_path / name).method.state_dict() for name in ("whole", "cut")]
    assert differing(*states) == []
    assert resumed["seconds_other"] > 0
