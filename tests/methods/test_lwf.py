"""Learning without Forgetting: the distillation's gradient, what is distilled where, the warm-up, the
teacher."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from engram.checks import tiny_domains, tiny_stream
from engram.checks.comparing import copied, same
from engram.core.contract import Batch, Context, Step, TaskInfo
from engram.errors import ConfigError
from engram.learning.loop import train_task
from engram.learning.state import LoopState
from engram.methods.lwf import Lwf, distillation
from engram.methods.registry import method
from engram.networks import Dcgan8, Mlp
from engram.protocols.protocol import Protocol

D = torch.float64


def step(task: TaskInfo) -> Step:
    return Step(task, "fit", 0, 1, 0, 1)


def logits(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=D)


def test_gradient_is_p_minus_q_over_t_and_constants_do_not_matter() -> None:
    z, target, T = logits(0, 5, 4).requires_grad_(), logits(1, 5, 4), 3.0
    (g,) = torch.autograd.grad(distillation(z, target, T), z)
    p, q = (z / T).softmax(1), (target / T).softmax(1)
    torch.testing.assert_close(g, ((p - q) / (T * 5)).detach())
    moved = distillation(z + 7.0, target - 3.0, T)
    torch.testing.assert_close(moved, distillation(z, target, T))
    (same_as_target,) = torch.autograd.grad(distillation(z, z.detach(), T), z)
    assert float(same_as_target.abs().max()) < 1e-17


def test_the_power_form_is_the_same() -> None:
    """q_i proportional to (softmax z)_i^(1/T)."""
    target = logits(2, 3, 4)
    powered = target.softmax(1) ** 0.5
    torch.testing.assert_close((target / 2.0).softmax(1), powered / powered.sum(1, keepdim=True))


def test_high_temperature_with_its_square_is_half_the_squared_distance() -> None:
    z, target, T = logits(3, 1, 6), logits(4, 1, 6), 1e4
    z, target = z - z.mean(), target - target.mean()
    gain = T**2 * (distillation(z, target, T) - distillation(target, target, T))
    assert float(gain) == pytest.approx(float((z - target).square().sum()) / 12, rel=1e-3)


def learned(
    scenario: Any, groups: tuple[int, ...] = (2, 2), n: int = 1, network: Any = None, **options: Any
) -> Any:
    """An Lwf after ``n`` tasks, at the start of the next, with a batch of it."""
    stream = tiny_domains(3) if scenario == "domain" else tiny_stream(groups)
    protocol = Protocol(scenario)
    spec = method("lwf", {"epochs": 2, "batch_size": 6, **options})
    made = spec.make(spec.config, Context(network or Mlp((9,)), (1, 8, 8), stream.n_classes, scenario, 0))
    state = LoopState()
    for i in range(n):
        train_task(made, protocol.task(stream, i), stream.train(i), state, 0)
    task, data = protocol.task(stream, n), stream.train(n)
    made.begin_task(task, data)
    return made, Batch(data.x.float() / 255, data.y, {}), task, data


@pytest.mark.parametrize(
    ("scenario", "distil"),
    [("class", "per_head"), ("task", "per_head"), ("domain", "per_head"), ("task", "joint")],
)
def test_no_distillation_gradient_against_its_own_copy(scenario: str, distil: str) -> None:
    made, batch, task, _ = learned(scenario, distil=distil)
    names, parameters = zip(*((n, p) for n, p in made.named_parameters() if p.requires_grad), strict=True)
    terms = made.loss(batch, step(task))
    grads = torch.autograd.grad(terms["distillation"], parameters, allow_unused=True)
    assert sum(g is not None for g in grads) >= 3
    for name, g in zip(names, grads, strict=True):
        assert g is None or float(g.abs().max()) < 1e-6, name


@pytest.mark.parametrize("scenario", ["class", "task"])
def test_rows_that_were_never_trained_are_not_distilled(scenario: str) -> None:
    made, batch, task, _ = learned(scenario)
    with torch.no_grad():
        made.net.trunk.layers[0].weight.add_(0.3)
    last = made.net.head.parts[-1].weight
    (g,) = torch.autograd.grad(made.loss(batch, step(task))["distillation"], last, allow_unused=True)
    if scenario == "task":
        assert g is None
    else:
        assert bool(g[: task.start].any())
        assert not bool(g[task.start :].any())


def test_each_old_head_has_a_softmax_of_its_own_or_all_have_one() -> None:
    made, batch, task, _ = learned("task", (2, 1, 2), n=2, temperature=2.0)
    with torch.no_grad():
        made.net.trunk.layers[0].weight.add_(0.3)
    old, was = made.net(batch.x, (0, 3)), made.teacher(batch.x, (0, 3))
    expected = distillation(old[:, :2], was[:, :2], 2.0) + distillation(old[:, 2:], was[:, 2:], 2.0)
    torch.testing.assert_close(made.loss(batch, step(task))["distillation"], expected)
    joint, batch, _, _ = learned(
        "task", (2, 1, 2), n=2, temperature=2.0, temperature_squared=True, distil="joint"
    )
    with torch.no_grad():
        joint.net.trunk.layers[0].weight.add_(0.3)
    old, was = joint.net(batch.x, (0, 3)), joint.teacher(batch.x, (0, 3))
    torch.testing.assert_close(
        joint.loss(batch, step(task))["distillation"], 4.0 * distillation(old, was, 2.0)
    )


@pytest.mark.parametrize("scenario", ["class", "task"])
@pytest.mark.parametrize("options", [{}, {"optimiser": "sgd", "momentum": 0.9, "weight_decay": 0.1}])
def test_the_warm_up_moves_new_rows_only(scenario: str, options: dict[str, Any]) -> None:
    made, _, task, data = learned(scenario, network=Dcgan8(n_d=3), warmup_epochs=2, **options)
    phases = made.phases(task, len(data))
    assert [p.name for p in phases] == ["adapt", "fit"]
    before = copied(made.state_dict())
    made.phases = lambda *_: phases[:1]
    train_task_only(made, task, data)
    after = made.state_dict()
    moved = {k for k in before if not same(before[k], after[k])}
    if scenario == "task":
        assert moved == {"net.head.parts.1.weight", "net.head.parts.1.bias"}
    else:
        assert moved == {"net.head.parts.0.weight", "net.head.parts.0.bias"}
        for k in moved:
            assert same(before[k][: task.start], after[k][: task.start])


def train_task_only(made: Lwf, task: Any, data: Any) -> None:
    """The phases of a task that has begun."""
    made.begin_task = lambda *_: None  # type: ignore[method-assign]
    train_task(made, task, data, LoopState(), 0)


def test_no_warm_up_on_the_first_task_nor_where_no_row_is_new() -> None:
    made, _, task, data = learned("class", n=0)
    assert [p.name for p in made.phases(task, len(data))] == ["fit"]
    made, _, task, data = learned("domain")
    assert [p.name for p in made.phases(task, len(data))] == ["fit"]


def test_the_teacher_stays_as_it_was_made() -> None:
    made, batch, task, data = learned("task", network=Dcgan8(n_d=3))
    before, answers = copied(made.teacher.state_dict()), made.teacher(batch.x, (0, 2))
    train_task_only(made, task, data)
    made.train()
    assert not any(m.training for m in made.teacher.modules())
    assert all(same(v, before[k]) for k, v in made.teacher.state_dict().items())
    assert torch.equal(made.teacher(batch.x, (0, 2)), answers)
    assert not any(p.requires_grad for p in made.teacher.parameters())


def test_bad_options_give_one_line() -> None:
    for option, value in (("temperature", 0.0), ("warmup_epochs", -1), ("distil", "none")):
        with pytest.raises(ConfigError, match=rf"^(lwf\.)?{option} must be [^\n]*$"):
            method("lwf", {option: value})


def test_one_softmax_over_all_heads_needs_several_heads() -> None:
    spec = method("lwf", {"distil": "joint"})
    with pytest.raises(
        ConfigError, match="distil=joint needs heads of several tasks, scenario class has one"
    ):
        spec.make(spec.config, Context(Mlp(), (1, 8, 8), 4, "class", 0))


def test_convex_balance_divides_by_one_plus_strength() -> None:
    model, batch, task, _ = learned("task", strength=3.0)
    convex = learned("task", strength=3.0, balance="convex")[0]
    with torch.no_grad():  # both were their own copy so far
        for made in (model, convex):
            for p in made.net.trunk.parameters():
                p.mul_(1.5)
    with torch.no_grad():
        plain, divided = model.loss(batch, step(task)), convex.loss(batch, step(task))
    assert plain.keys() == divided.keys() == {"ce", "distillation"}
    for name, term in plain.items():
        torch.testing.assert_close(divided[name], term / 4.0)
