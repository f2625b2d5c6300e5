"""The loops of ``benchmarks/limit`` compute what engram computes, else their ratio means nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import bench
import duels
from limit.compiled import Compiled

from engram.learning.compiling import why_not
from engram.networks import Dcgan, Mlp
from engram.streams.builders import class_incremental, permuted

WHY = why_not("inductor", torch.device("cpu"))


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def agree(duel: duels.Duel) -> None:
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
    duel = duels.dgm_duel(stream, index, 2, 2, Dcgan(n_f=2, n_d=4))
    agree(duel)


def test_dgm_by_hand_agrees_in_a_short_last_batch(one_thread):
    stream = class_incremental(bench.random_images(32, per_class=100), n_tasks=10)
    agree(duels.dgm_duel(stream, 1, 1, None, Dcgan(n_f=2, n_d=4)))


SMALL = Mlp((32, 32))
METHODS = {
    "finetune": {},
    "si": {"zero_head": True, "c": 1.0},
    "ewc": {"strength": 100.0},
    "lwf": {},
    "icarl": {"memory_budget": 40},
    "slda": {"batch_size": 64},
}


def at_a_later_task(name: str, **more: object) -> duels.Duel:
    """In the third of three tasks of two classes, on few images."""
    stream = class_incremental(bench.random_images(28, per_class=100, n_classes=6), n_tasks=3)
    steps = None if name == "slda" else 4
    return duels.duel(name, stream, 2, 2, steps, network=SMALL, **METHODS[name], **more)


@pytest.mark.parametrize("name", METHODS)
def test_a_loop_by_hand_agrees_with_engram(name, one_thread):
    agree(at_a_later_task(name))


@pytest.mark.parametrize("name", duels.ENDS)
def test_the_end_of_a_task_by_hand_agrees_with_engram(name, one_thread):
    pair = at_a_later_task(name)
    pair.run()
    end, by_hand = duels.ENDS[name]
    with torch.no_grad():
        found, wanted = end(pair.subject, pair.subject.method), by_hand(pair.subject, pair.twin.limit)
    assert found
    for ours, limit in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, limit, rtol=1e-4, atol=1e-6)
        assert float(ours.abs().max()) > 0.0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler's own parts
@pytest.mark.skipif(bool(WHY), reason=WHY)
def test_a_compiled_step_of_a_loop_by_hand_agrees_with_the_plain_one(one_thread):
    """EWC's: its penalty acts within the graph."""
    pair = at_a_later_task("ewc")
    again = duels.TWINS["ewc"](pair.subject)
    bound = Compiled(again.limit)
    rows = torch.arange(2 * again.limit.batch)
    loss, wanted = float(bound.epoch(rows)), float(pair.twin.limit.epoch(rows))
    assert loss == pytest.approx(wanted, rel=1e-4)
    for ours, limit in zip(bound.theta, pair.twin.limit.theta, strict=True):
        torch.testing.assert_close(ours, limit, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("index", [0, 1])
def test_finetuning_by_hand_agrees_in_whole_epochs(index, one_thread):
    stream = class_incremental(bench.random_images(28, per_class=100, n_classes=4), n_tasks=2)
    agree(duels.duel("finetune", stream, index, 2, None))


def agree_on_importances(duel: duels.Duel) -> None:
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
    agree_on_importances(duels.duel("si", stream, 1, 2, 4, network=SMALL, zero_head=True, c=1.0))


def test_si_by_hand_agrees_with_engram_on_permuted_pixels(one_thread):
    stream = permuted(bench.random_images(28, per_class=100, n_classes=4), 3)
    options = {"network": SMALL, "batch_size": 32, "c": 0.1, "xi": 0.1}
    agree_on_importances(duels.duel("si", stream, 2, 2, 4, **options))
