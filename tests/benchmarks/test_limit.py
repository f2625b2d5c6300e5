"""The loops of ``benchmarks/limit`` compute what engram computes, else their ratio means nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import bench

from engram.networks import Dcgan, Mlp
from engram.streams.builders import class_incremental, permuted


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


def agree_on_importances(duel: bench.Duel) -> None:
    """Bit by bit, in the running task and once it has ended; the penalty acts and the path integrals are there."""
    assert all(bool((w > 0).any()) for w in duel.twin.limit.importance)
    agree(duel)
    assert all(bool((omega != 0).any()) for omega in duel.twin.limit.omega)
    method = duel.subject.method
    before = [w.clone() for w in duel.twin.limit.importance]
    assert all(torch.equal(ours, limit) for ours, limit in duel.twin.pairs())
    method.end_task(duel.subject.task, duel.subject.data)
    duel.twin.limit.end()
    assert all(torch.equal(ours, limit) for ours, limit in duel.twin.pairs())
    assert not any(torch.equal(w, now) for w, now in zip(before, duel.twin.limit.importance, strict=True))


def test_si_by_hand_agrees_with_engram_on_parts_of_the_classes(one_thread):
    stream = class_incremental(bench.random_images(28, per_class=100, n_classes=4), n_tasks=2)
    agree_on_importances(bench.si_duel(stream, 1, 2, 4, Mlp((32, 32)), zero_head=True, c=1.0))


def test_si_by_hand_agrees_with_engram_on_permuted_pixels(one_thread):
    stream = permuted(bench.random_images(28, per_class=100, n_classes=4), 3)
    options = {"batch_size": 32, "c": 0.1, "xi": 0.1}
    agree_on_importances(bench.si_duel(stream, 2, 2, 4, Mlp((32, 32)), **options))
