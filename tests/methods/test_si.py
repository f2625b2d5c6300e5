"""Synaptic Intelligence: closed forms, worked vectors and invariants of its theory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from quadratics import THETA, Bare
from torch import Tensor, nn

from engram.checks import tiny_stream
from engram.checks.comparing import copied, same
from engram.core.contract import Batch, Context, Step
from engram.core.network import Network, Norm
from engram.core.samples import Shape
from engram.errors import ConfigError
from engram.learning.loop import take_step, train_task
from engram.learning.optimisers import Stepper
from engram.learning.state import LoopState
from engram.methods.registry import method
from engram.methods.si import Si, consolidated
from engram.networks import Mlp
from engram.protocols.protocol import Protocol
from engram.protocols.session import Session, resolve
from engram.streams import Stream

D = torch.float64


def tensor(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=D)


def si(start: Tensor, **options: Any) -> Bare:
    return Bare("si", start, **options)


def omega(bare: Bare) -> Tensor:
    return bare.method.omega[THETA]  # type: ignore[union-attr, index]


def importance(bare: Bare) -> Tensor:
    return bare.method.importance[THETA]  # type: ignore[union-attr, index]


# The path integral on quadratics ----------------------------------------------------------------------------
def test_one_dimension_after_seven_steps_and_at_convergence() -> None:
    h, x0, eta = 3.0, 0.7, 0.05
    one = si(tensor(x0), lr=eta, xi=1e-300)
    one.begin()
    one.run(lambda x: h * x, 7)
    assert float(omega(one)) == pytest.approx(0.712934370697081, rel=1e-13)
    held = omega(one).clone()
    one.end()
    assert float(importance(one)) == pytest.approx(3.151904833408787, rel=1e-12)
    r = 1 - eta * h
    assert float(held) == pytest.approx(h * x0**2 * (1 - r**14) / (2 - eta * h), rel=1e-13)
    assert float(importance(one)) == pytest.approx(h * (1 + r**7) / ((2 - eta * h) * (1 - r**7)), rel=1e-12)
    far = si(tensor(x0), lr=eta)
    far.begin()
    far.run(lambda x: h * x, 400)
    assert float(omega(far)) == pytest.approx(0.7945945945945945, rel=1e-12)


@pytest.mark.parametrize(
    ("h", "start", "expected"),
    [
        ([[2.0, 1.0], [1.0, 2.0]], [1.0, 0.0], [0.875, 0.125]),  # V2
        ([[2.0, 1.0], [1.0, 2.0]], [1.0, 1.0], [1.5, 1.5]),  # V3
        ([[2.0, 0.0], [0.0, 0.5]], [1.0, -3.0], [1.0, 2.25]),  # V4
    ],
)
def test_gradient_flow(h: Any, start: Any, expected: Any) -> None:
    H = torch.tensor(h, dtype=D)
    found = []
    for eta in (0.02, 0.01):
        bare = si(torch.tensor(start, dtype=D), lr=eta)
        bare.begin()
        bare.run(lambda x: H @ x, round(40 / eta))
        found.append(omega(bare).clone())
        drop = 0.5 * torch.tensor(start, dtype=D) @ H @ torch.tensor(start, dtype=D)
        assert float(found[-1].sum()) == pytest.approx(float(drop), rel=2 * eta)
    # Left-point sums over-count by a term of the order of the step size; extrapolation takes it away.
    torch.testing.assert_close(2 * found[1] - found[0], torch.tensor(expected, dtype=D), rtol=0, atol=1e-3)


def test_importance() -> None:
    bare = si(tensor(1.0, 0.0), lr=0.003, xi=0.1)
    H = tensor([2.0, 1.0], [1.0, 2.0])
    bare.task(lambda x: H @ x, 4000)
    torch.testing.assert_close(importance(bare), tensor(0.875 / 1.1, 0.125 / 0.1), rtol=1e-2, atol=0)
    diagonal = si(tensor(1.0, -3.0), lr=0.005, xi=1e-300)
    diagonal.task(lambda x: tensor(2.0, 0.5) * x, 5000)
    torch.testing.assert_close(importance(diagonal), tensor(1.0, 0.25), rtol=1e-2, atol=0)


def test_path_integral_is_the_closed_form_with_the_hessians_eigenvectors() -> None:
    """omega_k = Q_kk, Q_ij = sum_ab u_ai d_a [l_a l_b / (l_a + l_b - eta l_a l_b)] d_b u_bj; eta -> 0 is the
    paper's."""
    g = torch.Generator().manual_seed(0)
    a = torch.randn(4, 4, generator=g, dtype=D)
    H, start, eta = a @ a.T + 0.3 * torch.eye(4, dtype=D), torch.randn(4, generator=g, dtype=D), 0.01
    l, u = torch.linalg.eigh(H)
    d = u.T @ start
    kernel = l[:, None] * l[None] / (l[:, None] + l[None] - eta * l[:, None] * l[None])
    Q = u @ (d[:, None] * kernel * d[None]) @ u.T
    bare = si(start, lr=eta)
    bare.begin()
    bare.run(lambda x: H @ x, 6000)
    torch.testing.assert_close(omega(bare), Q.diag(), rtol=1e-9, atol=1e-12)


def test_averaged_over_starting_points_it_recovers_the_hessians_diagonal() -> None:
    g = torch.Generator().manual_seed(1)
    a = torch.randn(3, 3, generator=g, dtype=D)
    H, sigma, eta = a @ a.T + 0.5 * torch.eye(3, dtype=D), 0.7, 0.004
    starts = sigma * torch.randn(10000, 3, generator=g, dtype=D)
    bare = si(starts, lr=eta)
    bare.begin()
    bare.run(lambda x: x @ H, 700)
    ratio = omega(bare).mean(0) / starts.square().mean(0)
    torch.testing.assert_close(ratio, H.diag() / 2, rtol=0.05, atol=0)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"optimiser": "adam"}, {"weight_decay": 0.1}])
def test_the_sum_over_counts_by_exactly_the_second_order_term(options: dict[str, Any]) -> None:
    H, start = tensor([2.0, 1.0], [1.0, 3.0]), tensor(1.0, -0.6)
    bare = si(start, lr=0.03, **options)
    bare.begin()
    path = torch.stack(bare.run(lambda x: H @ x, 60))
    loss = 0.5 * ((path @ H) * path).sum(1)
    steps = path.diff(dim=0)
    expected = loss[0] - loss[-1] + 0.5 * ((steps @ H) * steps).sum()
    assert float(omega(bare).sum()) == pytest.approx(float(expected), rel=1e-12)


class Smooth(nn.Module):
    n_features = 5

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1)).tanh()


@dataclass(frozen=True)
class SmoothNetwork(Network):
    name: ClassVar[str] = "smooth"

    def trunk(self, image_shape: Shape, *, norm: Norm = "batch") -> nn.Module:
        return Smooth()


def learner(network: Network | None = None, **options: Any) -> tuple[Si, Batch]:
    """An Si in its first task and one batch, in float64."""
    stream = tiny_stream((3,))
    spec = method("si", {"optimiser": "sgd", "lr": 0.1, **options})
    made = spec.make(spec.config, Context(network or SmoothNetwork(), (1, 8, 8), 3, "class", 0))
    task, data = Protocol("class").task(stream, 0), stream.train(0)
    made.begin_task(task, data)
    made.double()
    assert isinstance(made, Si)
    return made, Batch(data.x.double() / 255, data.y, {})


def descend(made: Si, batch: Batch, n_steps: int) -> float:
    """Plain steps on one batch; by how much its loss fell."""
    task = Protocol("class").task(tiny_stream((3,)), 0)
    player = made.players(task, "fit")["net"]
    optimiser = Stepper.of(player)
    update = made.phases(task, 1)[0].updates[0]
    first = float(made.loss(batch, Step(task, "fit", 0, 1, 0, n_steps))["ce"].detach())
    for i in range(n_steps):
        take_step(made, update, player, optimiser, batch, Step(task, "fit", 0, 1, i, n_steps))
    return first - float(made.loss(batch, Step(task, "fit", 0, 1, 0, n_steps))["ce"].detach())


def test_the_sum_of_omega_is_the_decrease_of_the_loss_as_steps_shrink() -> None:
    excess = []
    for halvings in range(3):
        made, batch = learner(lr=0.1 / 2**halvings)
        drop = descend(made, batch, 30 * 2**halvings)
        total = float(sum(o.sum() for o in made.omega.values()))
        excess.append(total / drop - 1)
    assert excess[0] > excess[1] > excess[2] > 0
    assert excess[1] / excess[0] == pytest.approx(0.5, abs=0.05)
    assert excess[2] / excess[1] == pytest.approx(0.5, abs=0.05)
    assert excess[2] < 0.02


def test_plain_descent_gives_no_negative_contribution() -> None:
    made, batch = learner()
    descend(made, batch, 20)
    assert all(bool((o >= 0).all()) for o in made.omega.values())


def test_scaling_the_loss_scales_omega() -> None:
    H, start = tensor([2.0, 1.0], [1.0, 2.0]), tensor(1.0, 0.4)
    found = []
    for s in (1.0, 4.0):
        bare = si(start, lr=0.08 / s)
        bare.task(lambda x, s=s: s * (H @ x), 50)
        found.append(importance(bare))
    torch.testing.assert_close(found[1], 4.0 * found[0], rtol=1e-12, atol=0)


def test_what_never_moved_counts_nothing() -> None:
    bare = si(tensor(1.0, 2.0), xi=1e-30)
    bare.task(lambda x: torch.zeros_like(x), 5)
    assert importance(bare).tolist() == [0.0, 0.0]


def test_permuting_hidden_units_permutes_omega() -> None:
    order = torch.tensor([3, 0, 4, 1, 2])
    a, batch = learner(Mlp((5,)))
    b, _ = learner(Mlp((5,)))
    weight, bias, head = "net.trunk.layers.0.weight", "net.trunk.layers.0.bias", "net.head.parts.0.weight"
    with torch.no_grad():
        for name in (weight, bias):
            b.get_parameter(name).copy_(a.get_parameter(name)[order])
        b.get_parameter(head).copy_(a.get_parameter(head)[:, order])
    descend(a, batch, 10)
    descend(b, batch, 10)
    torch.testing.assert_close(b.omega[weight], a.omega[weight][order], rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(b.omega[head], a.omega[head][:, order], rtol=1e-9, atol=1e-15)


# Consolidation ----------------------------------------------------------------------------------------------
V5 = {
    "none": ([0.4 / 1.1, -0.2 / 0.14], [0.4 / 1.1 - 1.1, -0.2 / 0.14 + 0.5]),
    "accumulated": ([0.4 / 1.1, 0.0], [0.0, 0.5]),
    "increment": ([0.4 / 1.1, 0.0], [0.4 / 1.1, 0.5]),
}


@pytest.mark.parametrize("clamp", ["none", "accumulated", "increment"])
def test_two_tasks_by_hand(clamp: Any) -> None:
    first, second = (tensor(*v) for v in V5[clamp])
    one = consolidated(tensor(0.0, 0.0), tensor(0.4, -0.2), tensor(1.0, 0.2), 0.1, clamp)
    torch.testing.assert_close(one, first, rtol=1e-14, atol=1e-16)
    torch.testing.assert_close(
        consolidated(one, tensor(-0.11, 0.07), tensor(0.0, 0.2), 0.1, clamp), second, rtol=1e-12, atol=1e-15
    )
    # The same through the method: Delta is taken before the reference moves, omega is cleared after use.
    bare = si(tensor(0.5, 0.5), xi=0.1, clamp=clamp)
    for o, move, expected in (
        (tensor(0.4, -0.2), tensor(1.0, 0.2), first),
        (tensor(-0.11, 0.07), tensor(0.0, 0.2), second),
    ):
        bare.begin()
        with torch.no_grad():
            bare.theta.add_(move)
            omega(bare).copy_(o)
        bare.end()
        torch.testing.assert_close(importance(bare), expected, rtol=1e-12, atol=1e-15)
        assert omega(bare).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("clamp", ["accumulated", "increment"])
def test_clamped_importance_is_never_negative(clamp: str) -> None:
    bare = si(tensor(1.0, -0.5), lr=0.2, momentum=0.9, clamp=clamp, c=0.01)
    before = torch.zeros(2, dtype=D)
    for target in (0.3, -0.2, 0.1):
        bare.task(lambda x, t=target: tensor(2.0, 1.0) * (x - t), 9)
        assert bool((importance(bare) >= 0).all())
        if clamp == "increment":
            assert bool((importance(bare) >= before).all())
        before = importance(bare).clone()


def test_reference_and_step_snapshot_are_copies() -> None:
    bare = si(tensor(1.0, 2.0))
    bare.task(lambda x: x, 3)
    reference = bare.method.reference[THETA]  # type: ignore[union-attr, index]
    assert torch.equal(reference, bare.theta)
    assert reference.data_ptr() != bare.theta.data_ptr()
    bare.begin()
    bare.run(lambda x: x, 1)
    assert not torch.equal(reference, bare.theta)
    assert bool((omega(bare) != 0).all())


def test_first_reference_zero_measures_from_the_origin() -> None:
    for choice, displacement in (("initial", -0.2), ("zero", 1.8)):
        bare = si(tensor(2.0), lr=0.1, xi=1.0, first_reference=choice)
        bare.task(lambda x: torch.ones_like(x), 2)
        assert float(importance(bare)) == pytest.approx(0.2 / (displacement**2 + 1.0), rel=1e-12)


# The surrogate ----------------------------------------------------------------------------------------------
def test_two_tasks_end_at_the_joint_optimum_and_over_count_as_derived() -> None:
    h, a = (2.0, 3.0), (0.5, -1.0)
    bare = si(tensor(2.5), lr=0.004, xi=1e-300, c=1.0)
    bare.task(lambda x: h[0] * (x - a[0]), 3000)
    assert float(importance(bare)) == pytest.approx(h[0] / 2, rel=5e-3)
    bare.task(lambda x: h[1] * (x - a[1]), 3000)
    assert float(bare.theta) == pytest.approx(-0.4, abs=5e-3)
    assert float(importance(bare)) - h[0] / 2 == pytest.approx(h[0] + h[1] / 2, rel=2e-2)


def test_one_reference_point_suffices_with_the_sum_of_importances() -> None:
    h, a = tensor(2.0, 3.0, 0.5), tensor(0.5, -1.0, 4.0)
    bare = si(tensor((h[:2] * a[:2]).sum() / h[:2].sum()), lr=0.05)
    bare.task(lambda x: torch.zeros_like(x), 1)
    importance(bare).fill_(float(h[:2].sum() / 2))
    bare.begin()
    bare.run(lambda x: h[2] * (x - a[2]), 300)
    assert float(bare.theta) == pytest.approx(float((h * a).sum() / h.sum()), rel=1e-10)


def test_the_first_step_of_a_task_is_not_penalised_and_the_second_is() -> None:
    paths = []
    for c in (0.0, 5.0):
        bare = si(tensor(1.0, -1.0), lr=0.05, c=c)
        bare.task(lambda x: tensor(1.0, 2.0) * x, 5)
        bare.begin()
        paths.append(bare.run(lambda x: x - 3.0, 2))
    assert torch.equal(paths[0][1], paths[1][1])
    assert not torch.equal(paths[0][2], paths[1][2])


def test_penalty_gradient_is_not_part_of_omega() -> None:
    """-g dtheta with g of the loss alone, and the displacement of the whole update."""
    bare = si(tensor(1.0), lr=0.1, c=2.0, xi=0.5)
    bare.task(lambda x: 2.0 * x, 4)
    held, anchor, start = float(importance(bare)), float(bare.theta), float(bare.theta)
    bare.begin()
    expected, x = 0.0, start
    for _ in range(3):
        g = x - 4.0
        new = x - 0.1 * (g + 2.0 * 2.0 * held * (x - anchor))
        expected, x = expected - g * (new - x), new
    bare.run(lambda x: x - 4.0, 3)
    assert float(bare.theta) == pytest.approx(x, rel=1e-13)
    assert float(omega(bare)) == pytest.approx(expected, rel=1e-12)


def test_a_huge_strength_holds_what_is_important() -> None:
    bare = si(tensor(1.0, 1.0), lr=1e-7, c=1e6, xi=1e-3)
    bare.begin()
    bare.end()
    importance(bare).copy_(tensor(1.0, 0.0))
    bare.begin()
    bare.run(lambda x: torch.full_like(x, -1.0), 2000)
    moved = bare.theta.detach() - 1.0
    assert float(moved[0]) <= 1e-6
    assert float(moved[1]) == pytest.approx(2e-4, rel=1e-6)


# On real layers ---------------------------------------------------------------------------------------------
def trained(**options: Any) -> dict[str, Tensor]:
    stream, protocol = tiny_stream((2, 2, 1)), Protocol("task")
    spec = method("si", {"epochs": 3, "batch_size": 4, **options})
    made = spec.make(spec.config, Context(Mlp((9,)), (1, 8, 8), 5, "task", 0))
    state, rows = LoopState(), {}
    for i in range(3):
        train_task(made, protocol.task(stream, i), stream.train(i), state, 0)
        rows |= {f"{i}/{k}": v for k, v in copied(made.state_dict()).items()}
    return rows


def test_any_strength_is_the_same_on_the_first_task_and_none_later() -> None:
    weak, strong = trained(c=0.0), trained(c=3.0)
    name = "net.trunk.layers.0.weight"
    assert same(weak[f"0/{name}"], strong[f"0/{name}"])
    assert not same(weak[f"1/{name}"], strong[f"1/{name}"])
    assert float(strong["0/importance.net/trunk/layers/0/weight"].max()) > 0


def test_rows_that_a_head_gains_enter_without_importance() -> None:
    stream, protocol = tiny_stream((2, 2)), Protocol("class")
    spec = method("si", {"epochs": 2, "batch_size": 4})
    made = spec.make(spec.config, Context(Mlp((9,)), (1, 8, 8), 4, "class", 0))
    train_task(made, protocol.task(stream, 0), stream.train(0), LoopState(), 0)
    made.begin_task(protocol.task(stream, 1), stream.train(1))
    head = "net.head.parts.0.weight"
    assert bool((made.importance[head][:2] > 0).any())
    assert not bool(made.importance[head][2:].any())
    assert torch.equal(made.reference[head], made.get_parameter(head))


@pytest.mark.parametrize(
    ("options", "word"),
    [({"c": -1.0}, "c"), ({"xi": 0.0}, "xi"), ({"clamp": "upper"}, "clamp"), ({"c": math.nan}, "c")],
)
def test_bad_options_give_one_line(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=rf"^(si\.)?{word} must be [^\n]*$"):
        method("si", options)


def learned(stream: Stream, **options: Any) -> Session:
    network, spec, protocol = resolve(stream, Mlp((8,)), method("si", options), "task")
    session = Session(
        stream, network, spec, protocol, seed=0, device="cpu", out=None, resume=False, observer=None
    )
    session.go(None)
    return session


def test_omegas_are_kept_counted_and_correlated() -> None:
    stream = tiny_stream((2, 2, 2))
    options = {"epochs": 2, "c": 0.5}
    plain, kept = learned(stream, **options), learned(stream, keep_omegas=True, **options)
    own = kept.method.state_dict()
    assert all(torch.equal(v, own[k]) for k, v in plain.method.state_dict().items())  # training is the same
    rows = [task["omega_correlations"]["trunk.layers.0.weight"] for task in kept.record["tasks"]]
    assert [len(row) for row in rows] == [1, 2, 3]
    assert all(row[-1] == pytest.approx(1.0) for row in rows)
    tables = list(kept.method.kept)
    x, y = (t["net.trunk.layers.0.weight"].double().flatten() for t in (tables[0], tables[2]))
    assert rows[2][0] == pytest.approx(float(torch.corrcoef(torch.stack([x, y]))[0, 1]))
    before, after = plain.method.storage_bytes(), kept.method.storage_bytes()
    n = sum(t.numel() * t.element_size() for k, t in own.items() if k.startswith("kept."))
    assert after["other"] == before["other"] + n
