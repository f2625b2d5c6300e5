"""From-scratch training: a network of its own for each task."""

from __future__ import annotations

import pytest
import torch

from engram.checks import tiny_stream
from engram.errors import ConfigError
from engram.methods.registry import method
from engram.networks import Mlp
from engram.protocols.session import Session, resolve
from engram.streams import Stream


def learned(name: str, stream: Stream, **options: object) -> Session:
    network, spec, protocol = resolve(stream, Mlp((8,)), method(name, options), "task")
    session = Session(
        stream, network, spec, protocol, seed=0, device="cpu", out=None, resume=False, observer=None
    )
    session.go(None)
    return session


def test_from_scratch_forgets_nothing_and_begins_as_fine_tuning():
    stream = tiny_stream((2, 2, 1))
    options = {"epochs": 3, "batch_size": 8}
    scratch = learned("scratch", stream, **options)
    rows = scratch.record["rows"]
    assert [row[: i + 1] for i, row in enumerate(rows[-1:] * 3)] == [rows[-1][: i + 1] for i in range(3)]
    assert all(rows[i][j] == rows[-1][j] for i in range(3) for j in range(i + 1))
    first = tiny_stream((2,))
    a, b = learned("scratch", first, **options), learned("finetune", first, **options)
    pairs = zip(a.method.parameters(), b.method.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)
    with pytest.raises(ConfigError, match="keep_optimiser must be false"):
        method("scratch", keep_optimiser=True)
