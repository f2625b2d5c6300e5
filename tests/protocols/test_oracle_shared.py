"""The classifier that judges generators is trained once for all runs of a study."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engram.checks import tiny_stream
from engram.networks import Dcgan8
from engram.protocols.evaluation import Oracle, oracle_of

STREAM = tiny_stream((2, 1), n_train=24)


def test_it_is_trained_once_and_read_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engram.protocols.evaluation.STEPS", 5)
    trained: list[int] = []
    fit = Oracle._fit
    monkeypatch.setattr(Oracle, "_fit", lambda self, *given: (trained.append(1), fit(self, *given)))
    here = [oracle_of(STREAM, Dcgan8(n_d=8), tmp_path / "shared") for _ in range(3)]
    assert len(trained) == 1
    alone = oracle_of(STREAM, Dcgan8(n_d=8))
    for one in here:
        for a, b in zip(one.state_dict().values(), alone.state_dict().values(), strict=True):
            assert torch.equal(a, b)
    oracle_of(STREAM, Dcgan8(n_d=16), tmp_path / "shared")  # another network is another judge
    assert len(trained) == 3
    (path, _) = sorted((tmp_path / "shared").glob("judge-*.safetensors"), key=lambda p: p.stat().st_size)
    path.write_bytes(path.read_bytes()[:-1])  # damaged: it is trained again
    again = oracle_of(STREAM, Dcgan8(n_d=8), tmp_path / "shared")
    assert len(trained) == 4
    assert torch.equal(again.head.weight, alone.head.weight)
