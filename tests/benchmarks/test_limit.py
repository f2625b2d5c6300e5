"""The loops of ``benchmarks/limit`` compute what engram computes, else their ratio means nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import bench

from engram.networks import Dcgan
from engram.streams.builders import class_incremental


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def agree(duel: bench.Duel) -> None:
    before = [ours.detach().clone() for ours, _ in duel.twin.pairs()]
    duel.run()
    for ours, limit in duel.losses:
        for name, value in limit.items():
            assert ours[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    moved = 0.0
    for was, (ours, limit) in zip(before, duel.twin.pairs(), strict=True):
        torch.testing.assert_close(ours, limit, rtol=1e-4, atol=1e-5)
        moved = max(moved, float((was - ours).detach().abs().max()))
    assert moved > 1e-3


@pytest.mark.parametrize("index", [0, 2])
def test_dgm_by_hand_agrees_with_engram(index, one_thread):
    stream = class_incremental(bench.random_images(32, per_class=100), n_tasks=10)
    duel = bench.dgm_duel(stream, index, 2, 2, Dcgan(n_f=2, n_d=4))
    agree(duel)


def test_dgm_by_hand_agrees_in_a_short_last_batch(one_thread):
    stream = class_incremental(bench.random_images(32, per_class=100), n_tasks=10)
    agree(bench.dgm_duel(stream, 1, 1, None, Dcgan(n_f=2, n_d=4)))


@pytest.mark.parametrize("index", [0, 1])
def test_finetuning_by_hand_agrees_with_engram(index, one_thread):
    stream = class_incremental(bench.random_images(28, per_class=100, n_classes=4), n_tasks=2)
    agree(bench.finetune_duel(stream, index, 2))
