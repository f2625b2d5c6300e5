"""L2-SP by hand: where quadratics end, which rows are held, and that it is EWC with a Fisher information of 1."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from quadratics import THETA, Bare
from torch import Tensor

from engram.checks import tiny_domains, tiny_stream
from engram.checks.comparing import copied
from engram.core.contract import Context, Step, TaskInfo
from engram.errors import ConfigError
from engram.learning.loop import train_task
from engram.learning.state import LoopState
from engram.methods import ewc_online
from engram.methods.registry import method
from engram.networks import Mlp
from engram.parts import task_importance
from engram.parts.penalty import QuadraticPenalty
from engram.parts.tables import Table
from engram.protocols.protocol import Protocol

D = torch.float64
STEP = Step(TaskInfo(1, 0, 2, 2, (0, 2)), "fit", 0, 1, 0, 1)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=D)


def test_scalar_quadratics_end_where_the_sum_has_its_minimum() -> None:
    """(x - a) + alpha (x - x_prev) = 0; the first task is free, the anchor is the task before only."""
    bare, held = Bare("l2sp", tensor(0.3), strength=3.0), None
    for a in (1.0, 5.0, -2.0):
        bare.task(lambda x, a=a: x - a, 400)
        held = a if held is None else (a + 3.0 * held) / 4.0
        assert float(bare.theta) == pytest.approx(held, abs=1e-12)


def test_gradient_and_value_of_the_penalty() -> None:
    bare = Bare("l2sp", tensor(1.0, -1.0), strength=7.0)
    bare.task(lambda x: torch.zeros_like(x), 1)
    bare.begin()
    d = tensor(0.5, -2.0)
    with torch.no_grad():
        bare.theta.add_(d)
    grads = {THETA: tensor(0.25, 4.0)}
    bare.method.after_backward("net", grads, STEP)
    torch.testing.assert_close(grads[THETA], tensor(0.25, 4.0) + 7.0 * d)
    assert bare.method.measures(STEP)["penalty"] == pytest.approx(3.5 * float(d.square().sum()))
    bare.end()
    assert bare.method.measures(STEP) == {"penalty": 0.0}


def test_rows_that_have_grown_are_not_pulled() -> None:
    anchor = Table()
    anchor.hold({"old": tensor(1.0, 2.0), "trunk": tensor(3.0)})
    now = {"old": tensor(1.5, 2.0, 4.0), "trunk": tensor(5.0), "new": tensor(-2.0)}
    grads = {n: torch.zeros_like(v) for n, v in now.items()}
    penalty = QuadraticPenalty(None, anchor, 5.0)
    penalty.add_gradient(grads, now)
    assert {n: v.tolist() for n, v in grads.items()} == {
        "old": pytest.approx([5.0, 0.0, 0.0]),
        "trunk": [20.0],
        "new": [0.0],
    }
    assert penalty.value(now) == pytest.approx(5 * (0.25 + 4.0))
    anchor.hold({"trunk": tensor(0.0)})
    assert anchor.names == ["trunk"]


@pytest.mark.parametrize("scenario", ["task", "class"])
def test_rows_that_have_grown_are_held_at_zero(scenario: Any) -> None:
    stream = tiny_stream((2, 2))
    spec = method("l2sp", {"epochs": 1, "strength": 10.0, "head_strength": 0.1})
    made = spec.make(spec.config, Context(Mlp((9,)), (1, 8, 8), 4, scenario, 0))
    train_task(made, Protocol(scenario).task(stream, 0), stream.train(0), LoopState(), 0)
    task = Protocol(scenario).task(stream, 1)
    made.begin_task(task, stream.train(1))
    grads = {n: torch.zeros_like(p) for n, p in made.named_parameters()}
    step = Step(task, "fit", 0, 1, 0, 1)
    made.after_backward("net", grads, step)
    head = torch.cat([part.weight.detach() for part in made.net.head.parts])  # type: ignore[union-attr]
    found = torch.cat([g for n, g in grads.items() if n.startswith("net.head") and n.endswith("weight")])
    torch.testing.assert_close(found, torch.cat([torch.zeros_like(head[:2]), 0.1 * head[2:]]))
    biases = torch.cat([part.bias.detach() for part in made.net.head.parts])  # type: ignore[union-attr]
    value = 0.05 * float(head[2:].square().sum() + biases[2:].square().sum())
    assert made.measures(step)["penalty"] == pytest.approx(value)


def learn(name: str, scenario: str, **options: Any) -> dict[str, Tensor]:
    stream = tiny_domains(3) if scenario == "domain" else tiny_stream((2, 2, 1))
    spec = method(name, {"epochs": 2, "batch_size": 6, "optimiser": "sgd", "lr": 0.05, **options})
    made = spec.make(spec.config, Context(Mlp((9, 7)), (1, 8, 8), stream.n_classes, scenario, 0))  # type: ignore[arg-type]
    state = LoopState()
    for i in range(stream.n_tasks):
        train_task(made, Protocol(scenario).task(stream, i), stream.train(i), state, 0)  # type: ignore[arg-type]
    return {k: v for k, v in copied(made.state_dict()).items() if k.startswith("net.")}


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_it_is_ewc_with_a_fisher_information_of_one(scenario: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the Fisher information of the latest task alone: gamma multiplies the older ones away."""
    monkeypatch.setattr(
        task_importance,
        "diagonal_fisher",
        lambda m, p, *a, **k: {n: torch.ones_like(v) for n, v in p.items()},
    )
    penalties = learn("l2sp", scenario, strength=0.5)

    def single(self: Any, player: str, grads: dict[str, Tensor], step: Step) -> None:
        for value in self.fisher.values():
            value.clamp_(max=1.0)
        before(self, player, grads, step)

    before = ewc_online.EwcOnline.after_backward
    monkeypatch.setattr(ewc_online.EwcOnline, "after_backward", single)
    other = learn("ewc-online", scenario, strength=0.5)
    for k, v in penalties.items():
        torch.testing.assert_close(v, other[k], rtol=1e-5, atol=1e-6)


def test_a_strong_pull_keeps_the_network_and_a_head_decay_shrinks_the_new_head() -> None:
    free, held, first = (
        learn(n, "task", **o)
        for n, o in (("l2sp", {"strength": 0.0}), ("l2sp", {"strength": 19.0}), ("frozen", {}))
    )
    for k in (k for k in free if "trunk" in k):
        # lr * strength = 0.95: each step leaves little of the way made so far.
        assert float((held[k] - first[k]).norm()) < 0.5 * float((free[k] - first[k]).norm()), k
    small = learn("l2sp", "task", strength=0.0, head_strength=10.0)
    head = "net.head.parts.{}.weight".format
    assert float(small[head(1)].norm()) < 0.5 * float(free[head(1)].norm())
    assert torch.equal(small[head(0)], free[head(0)])  # of the first task


def test_negative_values_give_one_line() -> None:
    for option in ("strength", "head_strength"):
        with pytest.raises(ConfigError, match=rf"^l2sp.{option} must be a number >= 0, got -1.0[^\n]*$"):
            method("l2sp", {option: -1.0})
