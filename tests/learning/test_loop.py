"""The training loop: batches, gradients, optimisers, and a minimal method of two players."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from engram.core.contract import (
    Batch,
    Context,
    Method,
    Noise,
    Optimiser,
    Phase,
    Player,
    Samples,
    Step,
    TaskInfo,
    Terms,
    Update,
)
from engram.errors import ConfigError, DivergedError
from engram.learning.feeder import Feeder
from engram.learning.loop import clip, gradients, train_task
from engram.learning.optimisers import Stepper
from engram.learning.state import Cursor, LoopState
from engram.networks import Mlp

TASK = TaskInfo(0, 0, 2, 2, (0, 2))


def numbered(n: int, first: int = 0) -> Samples:
    """Samples whose label is a number of their own, also written in the pixel."""
    y = torch.arange(first, first + n)
    return Samples(y.float().view(n, 1, 1, 1), y)


def nothing(batch: Batch, step: Step) -> Terms:
    return {}


def feeder(phase: Phase, pools: dict[str, Samples], seed: int = 0, epoch: int = 0) -> Feeder:
    return Feeder(phase, pools, lambda x: x, seed, (0, phase.name, epoch))


# Batches ------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 40), size=st.integers(1, 17), shuffle=st.booleans(), epoch=st.integers(0, 3))
def test_every_row_exactly_once_an_epoch(n: int, size: int, shuffle: bool, epoch: int) -> None:
    update = Update("u", "p", nothing)
    f = feeder(Phase("fit", 1, (update,), size, shuffle=shuffle), {"task": numbered(n)}, epoch=epoch)
    batches = [f.batch(update, i) for i in range(f.n_steps)]
    assert f.n_steps == math.ceil(n / size)
    assert [len(b.y) for b in batches[:-1]] == [size] * (f.n_steps - 1)
    rows = torch.cat([b.y for b in batches])
    assert rows.sort().values.tolist() == list(range(n))
    assert all(torch.equal(b.x.flatten(), b.y.float()) for b in batches)
    if not shuffle:
        assert rows.tolist() == list(range(n))


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 20), size=st.integers(1, 9), steps=st.integers(1, 12))
def test_fixed_steps_draw_full_batches_and_use_rows_evenly(n: int, size: int, steps: int) -> None:
    update = Update("u", "p", nothing)
    f = feeder(Phase("fit", 1, (update,), size, steps), {"task": numbered(n)})
    batches = [f.batch(update, i) for i in range(f.n_steps)]
    assert f.n_steps == steps
    assert all(len(b.y) == size for b in batches)
    counts = torch.cat([b.y for b in batches]).bincount(minlength=n)
    assert int(counts.max() - counts.min()) <= 1


@settings(max_examples=60, deadline=None)
@given(n=st.integers(4, 30), k=st.integers(1, 4), size=st.integers(4, 9), old=st.integers(1, 40))
def test_chunks_partition_the_concatenated_pools(n: int, k: int, size: int, old: int) -> None:
    pools = {"task": numbered(n), **{f"replay/{i}": numbered(old, 1000 * (i + 1)) for i in range(k - 1)}}
    updates = tuple(Update("u", "p", nothing, tuple(pools), (i, k)) for i in range(k))
    phase = Phase("fit", 1, updates, size)
    f, plain = feeder(phase, pools), feeder(phase, pools)
    whole = Update("w", "p", nothing, tuple(pools))
    for step in range(f.n_steps):
        parts = [f.batch(u, step).y for u in updates]
        together = plain.batch(whole, step).y
        assert torch.cat(parts).sort().values.tolist() == together.sort().values.tolist()
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        # Every pool gives as many samples as the task's batch holds, the short last one included.
        b = min(size, n - step * size)
        assert len(together) == k * b
        assert (together < 1000).sum() == b


def test_the_same_pools_without_chunks_are_concatenated_in_order() -> None:
    update = Update("u", "p", nothing, ("task", "old"))
    f = feeder(Phase("fit", 1, (update,), 3, shuffle=False), {"task": numbered(6), "old": numbered(2, 100)})
    assert f.batch(update, 0).y.tolist() == [0, 1, 2, 100, 101, 100]
    assert f.batch(update, 1).y.tolist() == [3, 4, 5, 101, 100, 101]


def test_a_pool_may_have_a_size_of_its_own() -> None:
    update = Update("u", "p", nothing, ("task", "memory"))
    phase = Phase("fit", 1, (update,), 4, sizes={"memory": 2})
    f = feeder(phase, {"task": numbered(6), "memory": numbered(3, 100)})
    assert [len(f.batch(update, i).y) for i in range(2)] == [6, 4]  # 4 + 2, and the short last one 2 + 2


def test_an_epoch_is_one_pass_over_a_primary_pool_with_a_size_of_its_own() -> None:
    update = Update("u", "p", nothing, ("task", "memory"))
    phase = Phase("fit", 1, (update,), 4, sizes={"task": 2})
    f = feeder(phase, {"task": numbered(5), "memory": numbered(40, 100)})
    rows = torch.cat([f.batch(update, i).y for i in range(f.n_steps)])
    assert rows[rows < 100].sort().values.tolist() == list(range(5))


def test_updates_on_the_same_pool_see_the_same_rows_and_noise_of_their_own() -> None:
    z = {"z": Noise((3,)), "u": Noise((1, 1, 1), "uniform")}
    first, second = Update("a", "p", nothing, noise=z), Update("b", "p", nothing, noise=z)
    phase = Phase("fit", 1, (first, second), 4)
    f = feeder(phase, {"task": numbered(6)})
    a, b = f.batch(first, 0), f.batch(second, 0)
    assert torch.equal(a.y, b.y)
    assert a.noise["z"].shape == (4, 3)
    assert a.noise["u"].shape == (4, 1, 1, 1)
    assert ((a.noise["u"] >= 0) & (a.noise["u"] < 1)).all()
    assert not torch.equal(a.noise["z"], b.noise["z"])
    again = feeder(phase, {"task": numbered(6)}).batch(first, 0)
    assert torch.equal(again.noise["z"], a.noise["z"])


def test_orders_differ_between_epochs_seeds_and_pools() -> None:
    update = Update("u", "p", nothing, ("task", "other"))
    phase = Phase("fit", 1, (update,), 32)
    pools = {"task": numbered(32), "other": numbered(32)}
    one = feeder(phase, pools).batch(update, 0).y
    assert not torch.equal(one, feeder(phase, pools, epoch=1).batch(update, 0).y)
    assert not torch.equal(one, feeder(phase, pools, seed=1).batch(update, 0).y)
    assert not torch.equal(one[:32], one[32:])


def test_missing_and_empty_pools_are_refused() -> None:
    update = Update("u", "p", nothing, ("task", "old"))
    with pytest.raises(ConfigError, match="old"):
        feeder(Phase("fit", 1, (update,), 2), {"task": numbered(3)})
    with pytest.raises(ConfigError, match="'old' must hold samples"):
        feeder(Phase("fit", 1, (update,), 2), {"task": numbered(3), "old": numbered(0)})


# Gradients and optimisers -------------------------------------------------------------------------
def two() -> dict[str, nn.Parameter]:
    return {"a": nn.Parameter(torch.tensor([1.0, 2.0])), "b": nn.Parameter(torch.tensor([3.0]))}


BATCH = Batch(torch.zeros(1, 1, 1, 1), torch.zeros(1, dtype=torch.int64), {})
STEP = Step(TASK, "fit", 0, 1, 0, 1)


def test_gradients_of_the_sum_of_terms_by_name() -> None:
    p = two()
    update = Update("u", "p", lambda b, s: {"x": (p["a"] ** 2).sum(), "y": 4 * p["b"].sum()})
    terms, grads = gradients(update, Player(p, Optimiser()), BATCH, STEP)
    assert {k: float(v) for k, v in terms.items()} == {"x": 5.0, "y": 12.0}
    assert not any(v.requires_grad for v in terms.values())
    assert grads["a"].tolist() == [2.0, 4.0]
    assert grads["b"].tolist() == [4.0]


@pytest.mark.parametrize("zero_unused", [False, True])
def test_zero_unused(zero_unused: bool) -> None:
    p = two()
    update = Update("u", "p", lambda b, s: {"x": (p["a"] ** 2).sum()})
    _, grads = gradients(update, Player(p, Optimiser(), zero_unused=zero_unused), BATCH, STEP)
    assert set(grads) == ({"a", "b"} if zero_unused else {"a"})
    if zero_unused:
        assert grads["b"].tolist() == [0.0]


def test_clip_bounds_the_joint_norm_and_leaves_small_gradients_alone() -> None:
    grads = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([4.0])}
    clip(grads, 10.0)
    assert grads["a"].tolist() == [3.0, 0.0]
    assert grads["b"].tolist() == [4.0]
    clip(grads, 1.0)
    norm = math.sqrt(sum(float((g**2).sum()) for g in grads.values()))
    assert norm == pytest.approx(1.0, abs=1e-5)
    assert float(grads["a"][0] / grads["b"][0]) == pytest.approx(0.75)


def test_cosine_schedule_falls_from_lr_towards_zero() -> None:
    spec = Optimiser(lr=0.2, schedule="cosine")
    values = [spec.rate(e, 4) for e in range(4)]
    assert values == pytest.approx([0.2 * 0.5 * (1 + math.cos(math.pi * e / 4)) for e in range(4)])
    assert values[0] == 0.2
    assert values == sorted(values, reverse=True)
    assert Optimiser(lr=0.2).rate(3, 4) == 0.2


@pytest.mark.parametrize(
    ("n_epochs", "drops"),
    [(1, [0]), (2, [0, 1]), (3, [0, 0, 1]), (4, [0, 0, 1, 2]), (8, [0, 0, 0, 0, 1, 1, 2, 2])],
)
def test_step_schedule_drops_at_half_and_three_quarters(n_epochs: int, drops: list[int]) -> None:
    spec = Optimiser(lr=0.2, schedule="step")
    rates = [spec.rate(e, n_epochs) for e in range(n_epochs)]
    assert rates == pytest.approx([0.2 * 0.1**d for d in drops])


KINDS = [
    Optimiser("adam", 0.1),
    Optimiser("nadam", 0.1),
    Optimiser("rmsprop", 0.1, (0.0, 0.9)),
    Optimiser("sgd", 0.1, momentum=0.9),
]


@pytest.mark.parametrize("spec", KINDS, ids=lambda s: s.kind)
def test_optimiser_state_of_a_grown_parameter_is_padded_with_zeros(spec: Optimiser) -> None:
    small = Player({"w": nn.Parameter(torch.ones(2, 3))}, spec)
    optimiser = Stepper.of(small)
    optimiser.step({"w": torch.full((2, 3), 2.0)})
    stored = optimiser.state
    other = Stepper.of(Player({"w": nn.Parameter(torch.ones(4, 5))}, spec))
    other.load(stored)
    found = other.state["w"]
    for key, value in stored["w"].items():
        if value.dim() == 0:
            assert torch.equal(found[key], value)
            continue
        assert torch.equal(found[key][:2, :3], value)
        assert found[key][2:].abs().sum() == 0
        assert found[key][:, 3:].abs().sum() == 0


@pytest.mark.parametrize("decay", [0.0, 0.02])
@pytest.mark.parametrize("kind", ["nadam", "rmsprop"])
def test_optimisers_without_a_fused_kernel_are_pytorchs(kind: str, decay: float) -> None:
    own, other = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(2, 3))
    stepper = Stepper.of(Player({"w": own}, Optimiser(kind, 0.1, (0.8, 0.9), weight_decay=decay)))
    torchs: torch.optim.Optimizer = torch.optim.RMSprop([other], lr=0.1, alpha=0.9, weight_decay=decay)
    if kind == "nadam":
        torchs = torch.optim.NAdam([other], lr=0.1, betas=(0.8, 0.9), weight_decay=decay)
    for i in range(5):
        other.grad = torch.sin(torch.arange(6.0) + i).view(2, 3)
        stepper.step({"w": other.grad})
        torchs.step()
        torch.testing.assert_close(own, other)
    assert float((own.detach() - 1.0).abs().max()) > 0.1


@pytest.mark.parametrize("spec", KINDS, ids=lambda s: s.kind)
def test_optimiser_state_round_trip_continues_bit_for_bit(spec: Optimiser) -> None:
    def steps(n: int, optimiser: Stepper, first: int) -> None:
        for i in range(n):
            optimiser.step(
                {
                    k: torch.sin(torch.arange(p.numel()).float() + first + i).view_as(p)
                    for k, p in optimiser.parameters.items()
                }
            )

    whole = Player(two(), spec)
    steps(6, Stepper.of(whole), 0)
    part = Player(two(), spec)
    o = Stepper.of(part)
    steps(3, o, 0)
    stored = {k: {j: t.clone() for j, t in v.items()} for k, v in o.state.items()}
    fresh = Stepper.of(part)
    fresh.load(stored)
    steps(3, fresh, 3)
    assert all(torch.equal(whole.parameters[k], part.parameters[k]) for k in "ab")


def test_momentum_where_a_parameter_gets_its_first_gradient_late() -> None:
    p = two()
    player = Player(p, Optimiser("sgd", 0.1, momentum=0.5))
    optimiser = Stepper.of(player)
    optimiser.step({"a": torch.tensor([1.0, 1.0])})
    optimiser.step({"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([1.0])})
    assert p["a"].tolist() == pytest.approx([1 - 0.1 - 0.15, 2 - 0.1 - 0.15])
    assert p["b"].tolist() == pytest.approx([2.9])


# A minimal method of two players ------------------------------------------------------------------
@dataclass(frozen=True)
class DuelConfig:
    epochs: int = 3
    diverge_at: int = -1


class Duel(Method):
    """Two scalars: ``a`` descends on (a - mean x)^2, ``b`` on (b - a)^2; a third never steps."""

    Config = DuelConfig

    def __init__(self, config: DuelConfig, context: Context) -> None:
        super().__init__(config, context)
        self.a = nn.Parameter(torch.zeros(()))
        self.b = nn.Parameter(torch.zeros(()))
        self.calls: list[str] = []
        self.seen: list[dict[str, float]] = []

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        updates = (
            Update("look", "b", self.loss_b, step=False),
            Update("a", "a", self.loss_a),
            Update("b", "b", self.loss_b),
        )
        return (Phase("duel", self.config.epochs, updates, 2),)

    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        sgd = Optimiser("sgd", 0.1)
        return {"a": Player({"a": self.a}, sgd), "b": Player({"b": self.b}, sgd)}

    def loss_a(self, batch: Batch, step: Step) -> Terms:
        scale = math.nan if step.epoch == self.config.diverge_at else 1.0
        return {"fit": scale * (self.a - batch.x.mean()) ** 2}

    def loss_b(self, batch: Batch, step: Step) -> Terms:
        return {"follow": (self.b - self.a) ** 2}

    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        return torch.zeros(len(x), 2)

    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        self.calls.append("begin_task")

    def begin_phase(self, task: TaskInfo, phase: str) -> None:
        self.calls.append("begin_phase")

    def after_backward(self, player: str, grads: dict[str, Tensor], step: Step) -> None:
        self.calls.append(f"backward {player}")
        self.seen.append({k: float(v) for k, v in grads.items()})

    def after_step(self, player: str, step: Step) -> None:
        self.calls.append(f"step {player}")

    def end_phase(self, task: TaskInfo, phase: str) -> None:
        self.calls.append("end_phase")

    def end_task(self, task: TaskInfo, data: Samples) -> None:
        self.calls.append("end_task")


def duel(**options: Any) -> Duel:
    return Duel(DuelConfig(**options), Context(Mlp((4,)), (1, 1, 1), 2, "class", 0))


DATA = Samples(torch.full((4, 1, 1, 1), 255, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))


def test_updates_run_in_order_and_move_their_player_only() -> None:
    m = duel(epochs=1)
    train_task(m, TASK, DATA, LoopState(), 0)
    step = ["backward b", "backward a", "step a", "backward b", "step b"]
    assert m.calls == ["begin_task", "begin_phase", *step, *step, "end_phase", "end_task"]
    a = b = 0.0
    for seen in range(0, 6, 3):
        look, grad_a, grad_b = m.seen[seen : seen + 3]
        # The gradient of (b - a)^2 is for b alone, although a takes part.
        assert look == {"b": pytest.approx(2 * (b - a))}
        assert grad_a == {"a": pytest.approx(2 * (a - 1.0))}
        a -= 0.1 * 2 * (a - 1.0)
        assert grad_b == {"b": pytest.approx(2 * (b - a))}
        b -= 0.1 * 2 * (b - a)
    assert m.a.item() == pytest.approx(a)
    assert m.b.item() == pytest.approx(b)


def test_epochs_are_told_with_mean_losses_and_the_cursor_moves() -> None:
    m, state = duel(epochs=2), LoopState()
    told = []
    train_task(m, TASK, DATA, state, 0, on_epoch=lambda e: told.append((e, vars(state.cursor).copy())))
    assert [(e.epoch, e.n_epochs, e.phase) for e, _ in told] == [(0, 2, "duel"), (1, 2, "duel")]
    assert [c for _, c in told] == [
        {"task": 0, "phase": 0, "epochs": 1},
        {"task": 0, "phase": 0, "epochs": 2},
    ]
    assert told[0][0].losses["a/fit"] == pytest.approx((1.0 + 0.8**2) / 2)
    assert set(told[0][0].losses) == {"look/follow", "a/fit", "b/follow"}
    assert vars(state.cursor) == {"task": 1, "phase": 0, "epochs": 0}


def test_a_task_goes_on_where_its_cursor_stands() -> None:
    whole, part = duel(epochs=3), duel(epochs=3)
    train_task(whole, TASK, DATA, LoopState(), 0)

    class Cut(Exception):
        pass

    state = LoopState()

    def cut(event: Any) -> None:
        if event.epoch == 1:
            raise Cut

    with pytest.raises(Cut):
        train_task(part, TASK, DATA, state, 0, on_epoch=cut)
    assert state.cursor == Cursor(0, 0, 2)
    part.calls.clear()
    train_task(part, TASK, DATA, state, 0)
    assert "begin_task" not in part.calls
    assert "begin_phase" not in part.calls
    assert torch.equal(whole.a, part.a)
    assert torch.equal(whole.b, part.b)


def test_a_loss_that_is_not_finite_raises_before_anything_is_stored() -> None:
    m, state = duel(epochs=3, diverge_at=1), LoopState()
    told = []
    with pytest.raises(DivergedError, match=r"a/fit.*epoch 2 of phase 'duel' of task 1"):
        train_task(m, TASK, DATA, state, 0, on_epoch=told.append)
    assert state.cursor == Cursor(0, 0, 1)
    assert len(told) == 1


def test_global_random_state_is_left_alone_by_an_epoch() -> None:
    before = torch.get_rng_state()
    train_task(duel(), TASK, DATA, LoopState(), 0)
    assert torch.equal(before, torch.get_rng_state())
