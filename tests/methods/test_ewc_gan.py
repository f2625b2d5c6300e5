"""EWC in a GAN: its Fisher information against a double loop, its penalty, what it holds."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch

from engram import seeds
from engram.checks import tiny_stream
from engram.checks.comparing import copied, same
from engram.core.contract import Context
from engram.learning.loop import train_task
from engram.learning.state import LoopState
from engram.methods.registry import method
from engram.networks import Dcgan8
from engram.protocols.protocol import Protocol

STREAM, PROTOCOL = tiny_stream((2, 1, 2)), Protocol("class")
SMALL = {
    "gan_epochs": 2,
    "gan_steps": 2,
    "gan_batch": 6,
    "gan_critic": 1,
    "fisher_samples": 7,
    "solver_epochs": 1,
    "solver_steps": 2,
    "solver_batch": 6,
    "solver_samples": 4,
}


def learned(n: int, **options: Any) -> Any:
    """A method after ``n`` tasks."""
    spec = method("ewc-gan", {**SMALL, **options})
    context = Context(Dcgan8(n_f=4, n_d=4, n_z=16), (1, 8, 8), 5, "class", 0)
    made, state = spec.make(spec.config, context), LoopState()
    for i in range(n):
        train_task(made, PROTOCOL.task(STREAM, i), STREAM.train(i), state, 0)
    return made


def go_on(made: Any, n: int) -> None:
    """Learn task ``n``."""
    state = LoopState()
    state.cursor.task = n
    train_task(made, PROTOCOL.task(STREAM, n), STREAM.train(n), state, 0)


@pytest.mark.parametrize("of", ["critic", "class"])
def test_fisher_information_is_that_of_a_double_loop(of: Literal["critic", "class"]) -> None:
    made = learned(2, fisher_of=of, normalise=False)
    gan, names = made.gan, list(made.theta)
    total = {n: torch.zeros_like(p, requires_grad=False) for n, p in made.theta.items()}
    z = torch.randn((7, 16), generator=seeds.generator(0, "fisher", 1))
    for i in range(7):
        y = torch.tensor([i % 3])
        image = gan.generator(z[i : i + 1], gan.generator.hot(y))
        says = (
            gan.critic.score(image)[0]
            if of == "critic"
            else gan.critic.classify(image).log_softmax(1)[0, y[0]]
        )
        for name, g in zip(names, torch.autograd.grad(says, list(made.theta.values())), strict=True):
            for entry in range(g.numel()):
                total[name].view(-1)[entry] += g.reshape(-1)[entry] ** 2 / 7
    assert made.fisher.names == names
    for name in names:
        torch.testing.assert_close(made.fisher[name], total[name], rtol=1e-3, atol=1e-10)
    assert any(float(t.max()) > 0 for t in total.values())


def test_it_is_scaled_to_one_and_nothing_where_a_label_is_unknown() -> None:
    made = learned(2)
    assert max(float(f.max()) for f in made.fisher.values()) == pytest.approx(1.0)
    assert all(float(f.min()) >= 0.0 for f in made.fisher.values())
    made.begin_task(PROTOCOL.task(STREAM, 2), STREAM.train(2))
    rows = made.fisher["gan.generator.norms.0.weight"]
    assert rows.shape[0] == 5
    assert bool(rows[:3].any())
    assert not bool(rows[3:].any())


def test_penalty_is_nothing_at_the_anchor_and_a_parabola_away_from_it() -> None:
    made = learned(1, strength=6.0)
    assert made.penalty.value(made.theta) == 0.0
    name = "gan.generator.first.weight"
    with torch.no_grad():
        made.theta[name].add_(0.5)
    expected = 3.0 * 0.25 * float(made.fisher[name].sum())
    assert made.penalty.value(made.theta) == pytest.approx(expected, rel=1e-4)
    grads = {name: torch.zeros_like(made.theta[name])}
    made.penalty.add_gradient(grads, made.theta)
    torch.testing.assert_close(grads[name], 6.0 * 0.5 * made.fisher[name])


def test_strength_decides_how_far_important_weights_move() -> None:
    moved = []
    for strength in (0.0, 1e6):
        made = learned(1, strength=strength, gan_lr=1e-3)
        before, weight = copied(made.gan.generator.state_dict()), made.fisher["gan.generator.first.weight"]
        go_on(made, 1)
        step = made.gan.generator.first.weight.detach() - before["first.weight"]
        moved.append(float((weight * step.square()).sum()))
    assert moved[1] < moved[0] / 3


def test_the_anchor_is_the_generator_at_the_last_tasks_end() -> None:
    made = learned(2)
    assert all(same(made.anchor[n], p.detach()) for n, p in made.theta.items())
