"""Residual Continual Learning: what each stage trains and keeps, its loss, its decay, the fold, sequences of tasks."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from engram.checks import tiny_stream
from engram.checks.comparing import copied, same
from engram.core.contract import Batch, Context, Step, TaskInfo
from engram.errors import ConfigError
from engram.learning.loop import gradients, train_task
from engram.learning.state import LoopState
from engram.methods.registry import method
from engram.methods.rescl import Rescl, divergence
from engram.networks import Dcgan8, Mlp
from engram.parts.proximal import shrink_
from engram.parts.statistics import norms_of
from engram.protocols.protocol import Protocol
from engram.streams.stream import Stream

D = torch.float64
PROTOCOL = Protocol("task")
SGD = {"epochs": 2, "batch_size": 6, "optimiser": "sgd", "lr": 0.05, "momentum": 0.0}


def made(network: Any = None, *, n_classes: int = 6, **options: Any) -> Any:
    spec = method("rescl", {**SGD, **options})
    return spec.make(spec.config, Context(network or Dcgan8(n_d=4), (1, 8, 8), n_classes, "task", 0))


def learn(model: Any, stream: Stream, upto: int, state: LoopState | None = None) -> LoopState:
    state = state or LoopState()
    while state.cursor.task < upto:
        i = state.cursor.task
        train_task(model, PROTOCOL.task(stream, i), stream.train(i), state, 0)
    return state


def alike(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())


class Stop(Exception):
    pass


def combining(stream: Stream, epochs: int = 1, **options: Any) -> Any:
    """A method with ``epochs`` epochs of the second task's second phase done; 0 at its start."""
    model = made(n_classes=stream.n_classes, **options)
    learn(model, stream, 1)
    task, data = PROTOCOL.task(stream, 1), stream.train(1)

    def stop(event: Any) -> None:
        if event.phase == "combine" and event.epoch + 1 == epochs:
            raise Stop

    if epochs:
        state = LoopState()
        state.cursor.task = 1
        with pytest.raises(Stop):
            train_task(model, task, data, state, 0, on_epoch=stop)
        return model
    model.begin_task(task, data)
    model.begin_phase(task, "finetune")
    model.begin_phase(task, "combine")
    return model


def batch(stream: Stream, task: int = 1) -> Batch:
    data = stream.train(task)
    return Batch(Dcgan8().normalise(data.x[:8]), data.y[:8], {})


def step(phase: str = "combine", epoch: int = 0, n_epochs: int = 2, task: int = 1) -> Step:
    first, last = 2 * task, 2 * task + 2
    return Step(TaskInfo(task, first, last, last, (first, last)), phase, epoch, n_epochs, 0, 1)


# The loss (6) -----------------------------------------------------------------------------------------------
def logits(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=D)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_divergence_and_its_gradient(temperature: float) -> None:
    z, t, T = logits(0, 5, 4).requires_grad_(), logits(1, 5, 4), temperature
    value = divergence(z, t, T)
    p, q = (z / T).softmax(1), (t / T).softmax(1)
    torch.testing.assert_close(value, T * T * (q * (q / p).log()).sum(1).mean())
    (g,) = torch.autograd.grad(value, z)
    torch.testing.assert_close(g, (T * (p - q) / 5).detach())
    assert float(value.detach()) > 0
    torch.testing.assert_close(divergence(t + 3.0, t, T), torch.zeros((), dtype=D), atol=1e-15, rtol=0)


def test_terms_vanish_at_the_corners() -> None:
    """T9: no source term at alpha = (0, 0), no target term at (-1, 1) in evaluation mode."""
    stream = tiny_stream((2, 2))
    for start, zero, other in (((0.0, 0.0), "source", "target"), ((-1.0, 1.0), "target", "source")):
        model = combining(stream, 0, alpha_start=start)
        with torch.no_grad():  # the copy and the network agree until the second phase: move them apart
            model.tuned.module.trunk.load_state_dict(model.net.trunk.state_dict())
            for p in model.source.module.parameters():
                p.add_(0.3)
        model.eval()
        with torch.no_grad():
            terms = model.combine_loss(batch(stream), step())
        assert float(terms[zero]) == pytest.approx(0.0, abs=1e-6)
        assert float(terms[other]) > 1e-3


@pytest.mark.parametrize(("old_tasks", "factor"), [("sum", 1.0), ("mean", 0.5)])
def test_old_heads_are_summed_or_averaged(old_tasks: str, factor: float) -> None:
    stream = tiny_stream((2, 2, 2))
    model = made(old_tasks=old_tasks)
    learn(model, stream, 2)
    task, data = PROTOCOL.task(stream, 2), stream.train(2)
    model.begin_task(task, data)
    model.begin_phase(task, "combine")
    model.eval()
    x = batch(stream, 2)
    features = model.features(x.x)
    parts = [divergence(model.net.head(features, w), model.source(x.x, w), 2.0) for w in ((0, 2), (2, 4))]
    torch.testing.assert_close(model.combine_loss(x, step(task=2))["source"], factor * (parts[0] + parts[1]))


# What is trained (T7, T13, T14) -----------------------------------------------------------------------------
def test_source_parameters_statistics_and_old_heads_never_move_while_combining() -> None:
    stream = tiny_stream((2, 2))
    model = combining(stream, 0)
    before = copied(model.source.state_dict()), copied(model.net.head.parts[0].state_dict())
    again = combining(stream, 2)
    assert alike(before[0], again.source.state_dict())
    assert alike(before[1], again.net.head.parts[0].state_dict())
    assert all(not m.training for m in again.source.modules())
    assert not alike(copied(model.net.trunk.state_dict()), again.net.trunk.state_dict())


def test_decay_touches_target_and_alpha_each_in_its_own_way() -> None:
    """T13: with no gradient from the data, theta_t shrinks by rate lambda_dec, alpha by rate lambda."""
    stream = tiny_stream((2, 2))
    model = combining(stream, 0, weight_decay=0.1, decay=0.5)
    player = model.players(step().task, "combine")["combined"]
    assert player.optimiser.weight_decay == 0.0
    grads = {n: torch.zeros_like(p) for n, p in player.parameters.items()}
    model.after_backward("net", grads, step())
    for name, g in grads.items():
        expected = torch.zeros_like(g) if name.startswith("combiner.") else 0.1 * player.parameters[name]
        torch.testing.assert_close(g, expected.detach())
    alphas = {n: p.detach().clone() for n, p in model.combiner.named_parameters()}
    model.after_step("net", step())
    for name, p in model.combiner.named_parameters():
        torch.testing.assert_close(p.detach(), alphas[name] - alphas[name].sign() * 0.05 * 0.5)
    assert not any(n.startswith("source.") for n in player.parameters)


def test_proximal_step_and_subgradient() -> None:
    alpha = torch.tensor([-0.5, -0.01, 0.0, 0.02, 0.5])
    shrink_(alpha, 0.02)
    assert alpha.tolist() == pytest.approx([-0.48, 0.0, 0.0, 0.0, 0.48])
    model = combining(tiny_stream((2, 2)), 0, decay_step="subgradient", decay=0.5, alpha_start=(-0.5, 0.0))
    grads = {
        n: torch.zeros_like(p)
        for n, p in model.players(step().task, "combine")["combined"].parameters.items()
    }
    model.after_backward("net", grads, step())
    for name, g in grads.items():
        if name.startswith("combiner."):
            assert g.unique().tolist() == [-0.5 if "alpha_s" in name else 0.0]
    before = copied(model.combiner.state_dict())
    model.after_step("net", step())
    assert alike(before, model.combiner.state_dict())


def test_decay_at_the_start_is_lambda_times_the_channels() -> None:
    """T10."""
    model = combining(tiny_stream((2, 2)), 0, decay=0.3)
    told = model.measures(step())
    assert told["decay"] == pytest.approx(0.3 * model.combiner.n_channels)
    assert (told["alpha_s"], told["alpha_t"], told["alpha_zero"]) == (-0.5, 0.5, 0.0)


@pytest.mark.parametrize("trained", ["both", "alphas", "target"])
@pytest.mark.parametrize("heads", [False, True])
def test_who_moves_in_the_second_phase(trained: str, heads: bool) -> None:
    model = combining(tiny_stream((2, 2)), 0, trained=trained, train_old_heads=heads)
    names = set(model.players(step().task, "combine")["combined"].parameters)
    assert any(n.startswith("combiner.") for n in names) == (trained != "target")
    assert any(n.startswith("net.trunk.") for n in names) == (trained != "alphas")
    assert any(n.startswith("net.head.parts.1.") for n in names) == (trained != "alphas")
    assert any(n.startswith("net.head.parts.0.") for n in names) == heads


def test_gradients_of_alphas_are_not_those_of_weights() -> None:
    """T7 in place: every alpha gets a gradient, the source none."""
    stream = tiny_stream((2, 2))
    model = combining(stream, 1)
    phase = model.phases(PROTOCOL.task(stream, 1), 12)[1]
    player = model.players(step().task, "combine")["combined"]
    _, grads = gradients(phase.updates[0], player, batch(stream), step())
    assert {n for n in grads if n.startswith("combiner.")} == {
        f"combiner.{n}" for n, _ in model.combiner.named_parameters()
    }
    assert all(p.grad is None and not p.requires_grad for p in model.source.parameters())


# The limits of lambda (T8) ----------------------------------------------------------------------------------
def test_huge_lambda_is_the_source_with_a_linear_probe() -> None:
    stream = tiny_stream((2, 2))
    model = made(n_classes=4, decay=1e6)
    learn(model, stream, 1)
    x = batch(stream, 0).x
    task = PROTOCOL.task(stream, 0)
    before, trunk = model.predict(x, task=task), copy.deepcopy(model.net.trunk).eval()
    alphas: list[Tensor] = []

    def look(event: Any) -> None:
        if event.phase == "combine":
            alphas.extend(p.detach().clone() for p in model.combiner.parameters())

    state = LoopState()
    state.cursor.task = 1
    train_task(model, PROTOCOL.task(stream, 1), stream.train(1), state, 0, on_epoch=look)
    assert alphas
    assert all(bool((a == 0).all()) for a in alphas)
    torch.testing.assert_close(model.predict(x, task=task)[:, :2], before[:, :2], rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(model.net.trunk.eval()(x), trunk(x), rtol=1e-4, atol=1e-5)


def test_alphas_zero_before_folding_answers_as_the_source_bit_for_bit() -> None:
    stream = tiny_stream((2, 2))
    model = combining(stream, 0, alpha_start=(0.0, 0.0))
    with torch.no_grad():
        for p in model.net.trunk.parameters():
            p.add_(0.5)
    x = torch.rand(1000, 1, 8, 8) * 2 - 1
    with torch.no_grad():
        model.eval()
        assert torch.equal(model.predict(x, task=PROTOCOL.task(stream, 0))[:, :2], model.source(x, (0, 2)))


def test_folding_keeps_the_answers_the_keys_and_the_size() -> None:
    stream = tiny_stream((2, 2))
    model = combining(stream, 2, reestimate=False)
    x, tasks = batch(stream).x, [PROTOCOL.task(stream, i) for i in range(2)]
    before = [model.predict(x, task=t) for t in tasks]
    shapes = {k: v.shape for k, v in model.source.module.trunk.state_dict().items()}
    model.end_task(tasks[1], stream.train(1))
    assert model.source.module is None
    assert model.combiner is None
    assert {k: v.shape for k, v in model.net.trunk.state_dict().items()} == shapes
    for t, was in zip(tasks, before, strict=True):
        torch.testing.assert_close(model.predict(x, task=t), was, rtol=1e-4, atol=1e-5)


# Sequences --------------------------------------------------------------------------------------------------
def test_three_tasks_keep_trunk_and_heads_of_one_size() -> None:
    stream = tiny_stream((2, 2, 2))
    model = made()
    sizes, state = [], LoopState()
    for n in (1, 2, 3):
        learn(model, stream, n, state)
        sizes.append({k: v.shape for k, v in model.net.trunk.state_dict().items()})
    assert sizes[0] == sizes[1] == sizes[2]
    assert set(model.state_dict()) == {f"net.{k}" for k in model.net.state_dict()}


def test_before_a_third_task_norms_are_refitted_and_old_answers_stay() -> None:
    """T12: both old heads answer as before when the third task begins, and with alpha = (0, 0)."""
    stream = tiny_stream((2, 2, 2))
    model = made(alpha_start=(0.0, 0.0))
    learn(model, stream, 2)
    x, olds = batch(stream, 2).x, [PROTOCOL.task(stream, i) for i in range(2)]
    before = [model.predict(x, task=t) for t in olds]
    assert all(float(m.running_mean.abs().max()) == 0.0 for m in norms_of(model.net.trunk))
    task, data = PROTOCOL.task(stream, 2), stream.train(2)
    model.begin_task(task, data)
    assert all(float(m.running_mean.abs().max()) > 0.0 for m in norms_of(model.net.trunk))
    for combined in (False, True):
        if combined:
            model.begin_phase(task, "combine")
        for t, was in zip(olds, before, strict=True):
            got = model.predict(x, task=t)[:, : was.shape[1]]
            finite = was.isfinite()
            torch.testing.assert_close(got[finite], was[finite], rtol=1e-4, atol=1e-5)


def test_networks_without_norms_work() -> None:
    stream = tiny_stream((2, 2, 2))
    model = made(Mlp((9,)))
    learn(model, stream, 3)
    assert model.predict(torch.rand(3, 1, 8, 8), task=PROTOCOL.task(stream, 0)).shape == (3, 6)


# The middle of the grid; bad input --------------------------------------------------------------------------
@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
def test_lambda_0_takes_a_free_alpha_to_zero_in_the_last_step(schedule: Any) -> None:
    spec = method("rescl", {**SGD, "epochs": 4, "schedule": schedule, "later_lr": 0.02})
    centre = Rescl.tradeoff_centre(spec.config, 20)
    model = spec.make(spec.config, Context(Dcgan8(n_d=4), (1, 8, 8), 4, "task", 0))
    stream = tiny_stream((2, 2))
    learn(model, stream, 1)
    model.begin_phase(PROTOCOL.task(stream, 1), "combine")
    rate = model.players(step().task, "combine")["combined"].optimiser.rate
    alpha = torch.tensor([0.5])
    total = sum(rate(e, 4) for e in range(4)) * math.ceil(20 / 6)
    assert centre == pytest.approx(0.5 / total)
    for epoch in range(4):
        for _ in range(4):
            shrink_(alpha, rate(epoch, 4) * centre)
    assert float(alpha) == pytest.approx(0.0, abs=1e-6)


def test_lambda_0_of_a_subgradient_knows_of_momentum() -> None:
    """A free alpha under SGD with momentum moves by about rate / (1 - momentum) a step."""
    given = {**SGD, "epochs": 50, "momentum": 0.9}
    plain, moving = (
        Rescl.tradeoff_centre(method("rescl", {**given, "decay_step": step}).config, 20)
        for step in ("proximal", "subgradient")
    )
    assert moving == pytest.approx(0.1 * plain)
    alpha = torch.nn.Parameter(torch.tensor([0.5]))
    sgd = torch.optim.SGD([alpha], lr=0.05, momentum=0.9)
    for _ in range(50 * 4):
        alpha.grad = torch.full((1,), moving)
        sgd.step()
    assert float(alpha.detach()) == pytest.approx(0.0, abs=0.05)


def test_a_network_that_cannot_be_combined_is_refused_when_the_method_is_made() -> None:
    class Grouped(Mlp):
        def trunk(self, image_shape: Any, *, norm: Any = "batch") -> Any:
            made = super().trunk(image_shape, norm=norm)
            made.layers.append(torch.nn.GroupNorm(1, self.hidden[-1]))
            return made

    with pytest.raises(ConfigError, match="GroupNorm"):
        made(Grouped((9,)))


def test_a_copy_in_the_middle_of_the_second_phase_answers_alike() -> None:
    stream = tiny_stream((2, 2))
    model = combining(stream, 1)
    x, task = batch(stream).x, PROTOCOL.task(stream, 0)
    assert same(copy.deepcopy(model).predict(x, task=task), model.predict(x, task=task))


@pytest.mark.parametrize(
    "options", [{"decay": -1.0}, {"temperature": 0.0}, {"combine_epochs": 0}, {"combine_lr": -0.1}]
)
def test_bad_values_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        method("rescl", options)


@pytest.mark.parametrize("scenario", ["class", "domain"])
def test_other_scenarios_are_refused(scenario: Any) -> None:
    spec = method("rescl")
    with pytest.raises(ConfigError, match="scenario"):
        spec.make(spec.config, Context(Dcgan8(), (1, 8, 8), 4, scenario, 0))
