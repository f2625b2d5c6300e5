"""Reading, moving and overwriting a stream's samples."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engram.errors import ConfigError
from engram.streams import ImageData, Stream, class_incremental, permuted, rotated, sequence

BUILD = {
    "class_incremental": lambda data: class_incremental(data, n_tasks=3, valid_fraction=0.3),
    "permuted": lambda data: permuted(data, 3, valid_fraction=0.3),
    "rotated": lambda data: rotated(data, 3, valid_fraction=0.3),
    "sequence": lambda data: sequence([data, data, data], valid_fraction=0.3),
}


def snapshot(stream: Stream) -> dict[tuple[str, int], tuple[torch.Tensor, torch.Tensor]]:
    reads = {"train": stream.train, "valid": stream.valid, "test": stream.test}
    out = {}
    for split, read in reads.items():
        for index in range(stream.n_tasks):
            samples = read(index)
            out[split, index] = (samples.x.clone(), samples.y.clone())
    return out


def pixels(data: ImageData) -> tuple[bytes, ...]:
    return tuple(t.numpy().tobytes() for t in (data.train_x, data.train_y, data.test_x, data.test_y))


@pytest.mark.parametrize("builder", BUILD)
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(index=st.integers(0, 2), seed=st.integers(0, 99))
def test_overwriting_changes_only_that_task(make_data, builder, index, seed):
    data = make_data(3, n_train=10, shape=(1, 6, 6))
    stream = BUILD[builder](data)
    untouched, before = pixels(data), snapshot(stream)
    kept = stream.train(index).x  # a method that keeps a reference
    original = kept.clone()
    stream.overwrite_train(index, torch.Generator().manual_seed(seed))
    after = snapshot(stream)
    for key, (x, y) in before.items():
        changed = key in {("train", index), ("valid", index)}
        assert torch.equal(after[key][0], x) != changed
        if not changed:
            assert torch.equal(after[key][1], y)
    assert not torch.equal(kept, original)
    assert pixels(data) == untouched
    assert int(after["train", index][1].max()) < stream.n_classes


@pytest.mark.parametrize("builder", BUILD)
def test_overwriting_is_reproducible(make_data, builder):
    one, two = (BUILD[builder](make_data()) for _ in range(2))
    for stream in (one, two):
        stream.overwrite_train(1, torch.Generator().manual_seed(3))
    assert torch.equal(one.train(1).x, two.train(1).x)
    assert torch.equal(one.valid(1).y, two.valid(1).y)


def test_overwriting_survives_a_move(make_data):
    stream = class_incremental(make_data(), n_tasks=2)
    stream.overwrite_train(0, torch.Generator().manual_seed(0))
    assert torch.equal(stream.to("cpu").train(0).x, stream.train(0).x)


def test_only_the_latest_task_is_held(make_data):
    stream = permuted(make_data(), 3)
    assert stream.train(1).x is stream.train(1).x
    first = stream.train(1).x
    assert torch.equal(first, permuted(make_data(), 3).train(1).x)
    stream.train(2)
    assert stream.train(1).x is not first
    assert torch.equal(stream.train(1).x, first)


def test_moving_leaves_the_stream_where_it_is(make_data):
    stream = class_incremental(make_data(), n_tasks=2)
    moved = stream.to("meta")
    assert moved.train(0).x.device.type == "meta"
    assert moved.train(0).y.device.type == "meta"
    assert moved.fingerprint == stream.fingerprint
    assert stream.train(0).x.device.type == "cpu"


@pytest.mark.parametrize("index", [-1, 2, 99])
def test_tasks_that_do_not_exist(make_data, index):
    stream = class_incremental(make_data(), n_tasks=2)
    with pytest.raises(ConfigError, match=r"must lie in 0\.\.1"):
        stream.train(index)


def test_facts_cannot_be_changed(make_data):
    stream = class_incremental(make_data(), n_tasks=2)
    for thing in (stream, stream.tasks[0], stream.train(0)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            thing.name = "other"


@pytest.mark.gpu
@pytest.mark.parametrize("builder", BUILD)
def test_same_bytes_on_the_accelerator(make_data, builder):
    if not torch.cuda.is_available():
        pytest.skip("no accelerator")
    stream = BUILD[builder](make_data(3, n_train=10, shape=(3, 7, 7)))
    here, there = snapshot(stream), snapshot(stream.to("cuda"))
    for key, (x, y) in here.items():
        assert torch.equal(there[key][0].cpu(), x)
        assert torch.equal(there[key][1].cpu(), y)
