"""EWC, online EWC, RWalk and MAS by hand, and what holds of every penalty: strength 0 is fine-tuning bit for
bit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from quadratics import NOTHING, THETA, Bare
from torch import Tensor, nn

from engram.checks import tiny_domains, tiny_stream
from engram.checks.comparing import copied, same
from engram.core.contract import Context, Method, Step
from engram.errors import ConfigError, DivergedError
from engram.learning.loop import train_task
from engram.learning.state import LoopState
from engram.methods.registry import entry, method
from engram.methods.rwalk import scaled
from engram.networks import Dcgan8, Mlp
from engram.parts import task_importance
from engram.parts.penalty import QuadraticPenalty, proximal_step
from engram.parts.tables import Table
from engram.protocols.protocol import Protocol

D = torch.float64


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=D)


def ones(*args: Any, **more: Any) -> dict[str, Tensor]:
    """A Fisher information (or sensitivity) of 1 for theta alone."""
    return {k: torch.full_like(p, float("trunk" in k), requires_grad=False) for k, p in args[1].items()}


@pytest.fixture
def _known_importance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_importance, "diagonal_fisher", ones)
    monkeypatch.setattr(task_importance, "output_sensitivity", ones)


# EWC --------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("_known_importance")
@pytest.mark.parametrize(
    ("name", "expected"), [("ewc", (0.0, 0.5, 5.0 / 6.0)), ("ewc-online", (0.0, 0.5, 1.0))]
)
def test_three_scalar_quadratics(name: str, expected: tuple[float, ...]) -> None:
    """L_i = (theta - a_i)^2 / 2, F = 1, a = 0, 1, 2: only the single penalty ends at the joint optimum
    (Huszar)."""
    bare = Bare(name, tensor(0.3), lr=0.1, strength=1.0)
    for a, end in zip((0.0, 1.0, 2.0), expected, strict=True):
        bare.task(lambda x, a=a: x - a, 400)
        assert float(bare.theta) == pytest.approx(end, abs=1e-12)


@pytest.mark.usefixtures("_known_importance")
def test_gamma_enters_twice() -> None:
    bare = Bare("ewc-online", tensor(0.0), strength=3.0, gamma=0.5)
    for _ in range(3):
        bare.task(lambda x: torch.zeros_like(x), 1)
    # F~ = 1, then 0.5 + 1, then 0.75 + 1; the penalty holds with gamma F~.
    assert float(bare.method.fisher[THETA]) == pytest.approx(1.75)  # type: ignore[union-attr, index]
    with torch.no_grad():
        bare.theta.add_(2.0)
    grads = {THETA: torch.zeros(1, dtype=D)}
    bare.method.after_backward("net", grads, Step(bare.task_info, "fit", 0, 1, 0, 1))
    assert float(grads[THETA]) == pytest.approx(3.0 * 0.5 * 1.75 * 2.0)


@pytest.mark.usefixtures("_known_importance")
@pytest.mark.parametrize(("name", "factor"), [("ewc", 1.0), ("ewc-online", 1.0), ("mas", 2.0)])
def test_conventions_of_strength(name: str, factor: float) -> None:
    """lambda / 2 for EWC, lambda for MAS; the value told is the integral of the gradient added."""
    bare = Bare(name, tensor(1.0, -1.0), strength=7.0)
    bare.task(lambda x: torch.zeros_like(x), 1)
    d = tensor(0.5, -2.0)
    with torch.no_grad():
        bare.theta.add_(d)
    grads = {THETA: torch.zeros(2, dtype=D)}
    step = Step(bare.task_info, "fit", 0, 1, 0, 1)
    bare.method.after_backward("net", grads, step)
    torch.testing.assert_close(grads[THETA], 7.0 * factor * d)
    assert bare.method.measures(step)["penalty"] == pytest.approx(7.0 * factor / 2 * float(d.square().sum()))


def test_online_normalisation_divides_by_the_largest_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        task_importance,
        "diagonal_fisher",
        lambda m, p, *a, **k: {n: torch.full_like(v, 4.0) for n, v in p.items()},
    )
    bare = Bare("ewc-online", tensor(0.0), normalise="max")
    bare.task(lambda x: x, 1)
    assert float(bare.method.fisher[THETA]) == 1.0  # type: ignore[union-attr, index]


# The quadratic penalty --------------------------------------------------------------------------------------
@pytest.mark.parametrize("keep", [False, True])
def test_closed_form_gradient_is_that_of_the_penalty(keep: bool) -> None:
    g = torch.Generator().manual_seed(0)
    shapes = {"a.w": (3, 4), "a.b": (3,), "c": (2, 2, 2)}
    theta = {n: torch.randn(s, generator=g, dtype=D).requires_grad_() for n, s in shapes.items()}
    importance, anchor = Table(), Table()
    for n, s in shapes.items():
        if n != "c":
            importance.put(n, torch.rand(s, generator=g, dtype=D))
            anchor.put(n, torch.randn(s, generator=g, dtype=D))
    loss = {n: torch.randn(s, generator=g, dtype=D) for n, s in shapes.items()}
    penalty = QuadraticPenalty(importance, anchor, 1.7, keep=keep)
    value = 1.7 * sum((importance[n] * (theta[n] - anchor[n]).square()).sum() for n in importance.names)
    assert penalty.value(theta) == pytest.approx(float(value.detach()), rel=1e-14)
    expected = torch.autograd.grad(value, [theta["a.w"], theta["a.b"]])
    given = {n: v.clone() for n, v in loss.items()}
    grads = dict(given)
    penalty.add_gradient(grads, theta)
    for n, e in zip(("a.w", "a.b"), expected, strict=True):
        torch.testing.assert_close(grads[n], loss[n] + e, rtol=1e-14, atol=1e-14)
        assert torch.equal(given[n], loss[n]) == keep
    assert grads["c"] is given["c"]
    at_anchor = {n: anchor[n].clone() for n in ("a.w", "a.b")}
    grads = {n: loss[n].clone() for n in at_anchor}
    penalty.add_gradient(grads, at_anchor)
    assert all(torch.equal(grads[n], loss[n]) for n in grads)


# RWalk ------------------------------------------------------------------------------------------------------
def table(bare: Bare, name: str) -> Tensor:
    return getattr(bare.method, name)[THETA]


def test_rwalk_score_by_hand() -> None:
    """Four steps, two intervals: s = sum max(0, dL) / (F d^2 / 2 + eps), F of the interval's start."""
    g, eps, alpha, lr = (1.0, 2.0, -1.0, 3.0), 0.01, 0.6, 0.1
    bare = Bare("rwalk", tensor(0.0), lr=lr, alpha=alpha, interval=2, damping=eps, normalise=False)
    bare.begin()
    given = iter(g)
    bare.run(lambda x: torch.full_like(x, next(given)), 4)
    f0 = g[0] ** 2
    s1 = lr * (g[0] ** 2 + g[1] ** 2) / (0.5 * f0 * (lr * (g[0] + g[1])) ** 2 + eps)
    f1 = alpha * (g[0] ** 2 + g[1] ** 2) / 2 + (1 - alpha) * f0
    s2 = lr * (g[2] ** 2 + g[3] ** 2) / (0.5 * f1 * (lr * (g[2] + g[3])) ** 2 + eps)
    f2 = alpha * (g[2] ** 2 + g[3] ** 2) / 2 + (1 - alpha) * f1
    assert float(table(bare, "score")) == pytest.approx(s1 + s2, rel=1e-12)
    assert float(table(bare, "fisher")) == pytest.approx(f2, rel=1e-12)
    bare.end()
    assert float(table(bare, "importance")) == pytest.approx(s1 + s2 + f2, rel=1e-12)


def test_rwalk_last_interval_may_be_shorter() -> None:
    bare = Bare("rwalk", tensor(0.0), lr=0.1, alpha=1.0, interval=2, damping=1.0)
    bare.begin()
    given = iter((1.0, 1.0, 3.0))
    bare.run(lambda x: torch.full_like(x, next(given)), 3)
    assert float(table(bare, "fisher")) == pytest.approx(9.0)
    assert not bool(table(bare, "path").any())


def test_rwalk_raising_the_loss_gives_no_negative_score() -> None:
    bare = Bare("rwalk", tensor(0.0), interval=1)
    bare.begin()
    step = Step(bare.task_info, "fit", 0, 1, 0, 1)
    bare.method.after_backward("net", {THETA: tensor(1.0)}, step)
    with torch.no_grad():
        bare.theta.add_(0.5)
    bare.method.after_step("net", step)
    assert float(table(bare, "score")) == 0.0


def test_rwalk_running_fisher() -> None:
    bare = Bare("rwalk", tensor(0.0, 0.0), alpha=1.0, interval=1)
    bare.begin()
    given = iter((1.0, 5.0, 2.0))
    bare.run(lambda x: tensor(next(given), 0.0), 3)
    assert table(bare, "fisher").tolist() == [4.0, 0.0]  # the last squared gradient
    constant = Bare("rwalk", tensor(0.0, 1.0), alpha=0.9, interval=10)
    constant.begin()
    constant.run(lambda x: tensor(3.0, -0.5), 37)
    torch.testing.assert_close(table(constant, "fisher"), tensor(9.0, 0.25), rtol=1e-14, atol=0)
    still = Bare("rwalk", tensor(0.0), interval=2)
    still.begin()
    still.run(lambda x: torch.zeros_like(x), 5)
    assert float(table(still, "score")) == 0.0


def test_rwalk_one_interval_with_fisher_two_is_the_increment_of_synaptic_intelligence() -> None:
    g, n, lr = math.sqrt(2.0), 6, 0.05
    bare = Bare("rwalk", tensor(1.0), lr=lr, interval=n, damping=1e-300)
    bare.begin()
    bare.run(lambda x: torch.full_like(x, g), n)
    drop, moved = n * lr * g**2, n * lr * g
    assert float(table(bare, "score")) == pytest.approx(drop / moved**2, rel=1e-12)


def test_rwalk_averages_scores_over_tasks_and_scales_at_the_end() -> None:
    bare = Bare("rwalk", tensor(0.0, 0.0), lr=0.1, interval=1, damping=1.0, strength=0.0)
    scores = []
    for g in (2.0, 1.0, 3.0):
        bare.begin()
        bare.run(lambda x, g=g: tensor(g, 0.0), 3)
        scores.append(float(table(bare, "score")[0]))
        bare.end()
        assert float(table(bare, "score")[0]) == 0.0
    kept = ((scores[0] + scores[1]) / 2 + scores[2]) / 2
    assert float(table(bare, "kept_score")[0]) == pytest.approx(kept, rel=1e-12)
    # F and s of the one parameter that moved are both the largest of all, those of the other the smallest.
    assert table(bare, "importance").tolist() == [2.0, 0.0]


def test_scaling_is_over_all_tensors_together() -> None:
    a, b = scaled([tensor(1.0, 3.0), tensor(5.0)])
    assert (a.tolist(), b.tolist()) == ([0.0, 0.5], [1.0])
    assert [v.tolist() for v in scaled([tensor(2.0), tensor(2.0)])] == [[0.0], [0.0]]


# Strength 0 is fine-tuning ----------------------------------------------------------------------------------
OFF: dict[str, dict[str, Any]] = {
    "si": {"c": 0.0},
    "ewc": {"strength": 0.0},
    "ewc-online": {"strength": 0.0},
    "rwalk": {"strength": 0.0, "interval": 2},
    "mas": {"strength": 0.0},
    "lwf": {"strength": 0.0, "warmup_epochs": 0},
    "l2sp": {"strength": 0.0},
    "imm-mean": {"ratio": 0.0, "l2": 0.0},
    "imm-mode": {"ratio": 0.0, "l2": 0.0},
    "averaging": {"ratio": 0.0},
}
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "class": ("class", {}),
    "stored": ("class", {"memory_per_class": 3, "memory_share": 0.5}),
    "task": ("task", {"zero_head": True}),
    "task stored": ("task", {"memory_per_class": 2}),
    "masked": ("task", {"masked_head": True, "keep_optimiser": True}),
    "momentum": ("task", {"optimiser": "sgd", "lr": 0.02, "momentum": 0.9, "keep_optimiser": True}),
    "domain": ("domain", {"weight_decay": 0.01}),
    "domain stored": ("domain", {"memory_per_class": 2}),
}


def final(name: str, setting: str, **options: Any) -> dict[str, Tensor]:
    """The network's tensors after three tiny tasks."""
    scenario, common = SETTINGS[setting]
    stream = tiny_domains(3) if scenario == "domain" else tiny_stream((2, 1, 2))
    network = Dcgan8(n_d=3) if setting in ("class", "masked") else Mlp((9, 7))
    spec = method(name, {"epochs": 2, "batch_size": 6, **common, **options})
    made: Method = spec.make(spec.config, Context(network, (1, 8, 8), stream.n_classes, scenario, 0))  # type: ignore[arg-type]
    state = LoopState()
    for i in range(stream.n_tasks):
        train_task(made, Protocol(scenario).task(stream, i), stream.train(i), state, 0)  # type: ignore[arg-type]
    return {k: v for k, v in copied(made.state_dict()).items() if k.startswith("net.")}


@pytest.mark.parametrize("setting", SETTINGS)
def test_strength_zero_is_fine_tuning_bit_for_bit(setting: str) -> None:
    plain = final("finetune", setting)
    for name, options in OFF.items():
        if SETTINGS[setting][0] not in entry(name).make.scenarios:  # type: ignore[attr-defined]
            continue
        found = final(name, setting, **options)
        assert found.keys() == plain.keys()
        assert all(same(found[k], plain[k]) for k in plain), name


@pytest.mark.parametrize("name", OFF)
def test_a_strength_is_not_fine_tuning(name: str) -> None:
    """Also what catches aliased snapshots: with them SI computes nothing on a CPU."""
    on = {"si": {"c": 1.0}, "lwf": {}}.get(
        name, {"ratio": 0.5} if "ratio" in OFF[name] else {"strength": 5.0}
    )
    for setting in ("task", "domain") if "ratio" in on else ("task", "class", "domain"):
        plain, found = final("finetune", setting), final(name, setting, **on)
        assert not all(same(found[k], plain[k]) for k in plain), setting


@pytest.mark.parametrize("name", ["ewc", "ewc-online", "rwalk", "mas", "lwf", "l2sp"])
def test_negative_strength_gives_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}.strength must be a number >= 0, got -1.0[^\n]*$"):
        method(name, strength=-1.0)


@pytest.mark.parametrize("name", ["ewc", "ewc-online", "mas"])
def test_no_samples_give_one_line(name: str) -> None:
    bare = Bare(name, tensor(0.0))
    bare.begin()
    with pytest.raises(ConfigError, match=r"^importances need at least one sample[^\n]*$"):
        bare.end()


def test_importances_are_padded_where_a_head_grows() -> None:
    stream, protocol = tiny_stream((2, 2)), Protocol("class")
    for name in ("ewc", "ewc-online", "mas", "rwalk"):
        spec = method(name, {"epochs": 1, "batch_size": 6})
        made = spec.make(spec.config, Context(Mlp((9,)), (1, 8, 8), 4, "class", 0))
        train_task(made, protocol.task(stream, 0), stream.train(0), LoopState(), 0)
        made.begin_task(protocol.task(stream, 1), stream.train(1))
        head = "net.head.parts.0.weight"
        importance = (
            made.fishers[0] if name == "ewc" else getattr(made, "fisher" if "ewc" in name else "importance")
        )
        anchor = made.anchors[0] if name == "ewc" else made.anchor
        assert importance[head].shape == (4, 9)
        assert bool((importance[head][:2] > 0).any())
        assert not bool(importance[head][2:].any())
        assert torch.equal(anchor[head], made.get_parameter(head))
        assert anchor[head].data_ptr() != made.get_parameter(head).data_ptr()


def test_ewc_keeps_one_pair_a_task_of_what_took_part() -> None:
    stream, protocol = tiny_stream((2, 2)), Protocol("task")
    spec = method("ewc", {"epochs": 1, "batch_size": 6})
    made = spec.make(spec.config, Context(Mlp((9,)), (1, 8, 8), 4, "task", 0))
    state = LoopState()
    for i in range(2):
        train_task(made, protocol.task(stream, i), stream.train(i), state, 0)
    heads = [[n for n in f.names if ".head." in n] for f in made.fishers]
    assert heads == [
        ["net.head.parts.0.weight", "net.head.parts.0.bias"],
        ["net.head.parts.1.weight", "net.head.parts.1.bias"],
    ]


def test_bare_harness_is_what_the_loop_would_do() -> None:
    """Tests of the test's own tool: NOTHING and its tasks fit a domain-incremental method."""
    bare = Bare("finetune", tensor(2.0), lr=0.5)
    bare.begin()
    assert float(bare.run(lambda x: x, 2)[-1]) == 0.5
    assert (bare.task_info.n_seen, len(NOTHING)) == (2, 0)


# The proximal step ------------------------------------------------------------------------------------------
def _tables(values: dict[str, Tensor]) -> Table:
    table = Table()
    for name, value in values.items():
        table.put(name, value)
    return table


def test_proximal_step_is_the_minimum_of_the_step_and_all_penalties() -> None:
    g = torch.Generator().manual_seed(0)
    theta = torch.randn(5, generator=g, dtype=torch.float64)
    pairs = [
        (torch.rand(5, generator=g, dtype=torch.float64), torch.randn(5, generator=g, dtype=torch.float64))
        for _ in range(2)
    ]
    moved = nn.Parameter(theta.clone())
    penalties = [QuadraticPenalty(_tables({"w": i}), _tables({"w": a}), 1.5) for i, a in pairs]
    proximal_step({"w": moved}, penalties, 0.2)
    at = moved.detach().clone().requires_grad_()
    value = (at - theta).square().sum() / 0.4 + sum(1.5 * (i * (at - a).square()).sum() for i, a in pairs)
    (slope,) = torch.autograd.grad(value, at)
    assert float(slope.abs().max()) < 1e-12


def test_proximal_step_is_stable_at_any_strength_and_leaves_anchors_alone() -> None:
    theta, anchor = torch.tensor([1.0, 2.0, 0.3]), torch.tensor([0.0, 0.0, 0.3])
    moved = nn.Parameter(theta.clone())
    tables = _tables({"w": torch.tensor([1e12, 0.0, 5.0])}), _tables({"w": anchor})
    proximal_step({"w": moved}, [QuadraticPenalty(*tables, 0.5)], 0.1)
    assert moved.tolist() == [pytest.approx(0.0, abs=1e-6), 2.0, theta[2].item()]
    proximal_step({"w": moved}, [QuadraticPenalty(*tables, 0.0)], 0.1)
    assert moved[1].item() == 2.0


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_proximal_steps_end_where_gradient_steps_do(momentum: float) -> None:
    """Loss (theta - 1)^2 / 2 and penalty theta^2 / 2 (lambda = F = 1) have their minimum together at 1/2."""
    end = []
    for kind in ("gradient", "proximal"):
        options = {"optimiser": "sgd", "momentum": momentum, "strength": 1.0, "penalty_step": kind}
        bare = Bare("ewc", tensor(0.0), lr=1e-3, **options)
        bare.index = 1
        bare.begin()
        bare.method.fishers.append(_tables({THETA: tensor(1.0)}))  # type: ignore[union-attr, operator]
        bare.method.anchors.append(_tables({THETA: tensor(0.0)}))  # type: ignore[union-attr, operator]
        end.append(float(bare.run(lambda x: x - 1, 4000)[-1]))
    assert end == [pytest.approx(0.5, abs=1e-3)] * 2


def test_proximal_steps_need_sgd() -> None:
    with pytest.raises(ConfigError, match="penalty_step=proximal needs optimiser sgd, got adam"):
        method("ewc", {"penalty_step": "proximal"})


def test_small_proximal_steps_are_gradient_steps() -> None:
    """EWC with one and the other agrees as strength and rate fall."""
    stream = tiny_stream((2, 2))
    ends = []
    for kind in ("gradient", "proximal"):
        spec = method(
            "ewc",
            {
                "epochs": 1,
                "batch_size": 6,
                "optimiser": "sgd",
                "lr": 1e-3,
                "strength": 1.0,
                "penalty_step": kind,
            },
        )
        made = spec.make(spec.config, Context(Mlp((9,)), (1, 8, 8), 4, "task", 0))
        state = LoopState()
        for i in range(2):
            train_task(made, Protocol("task").task(stream, i), stream.train(i), state, 0)
        ends.append(torch.cat([p.detach().flatten() for p in made.net.parameters()]))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-6)


def test_a_strength_far_too_large_for_gradient_steps_holds_the_source_with_proximal_ones() -> None:
    stream = tiny_stream((2, 2))
    options = {"epochs": 2, "batch_size": 6, "optimiser": "sgd", "lr": 0.1, "strength": 1e9}
    gradient, proximal = (method("ewc", {**options, "penalty_step": k}) for k in ("gradient", "proximal"))
    ends = []
    for spec in (gradient, proximal):
        made = spec.make(spec.config, Context(Mlp((9,)), (1, 8, 8), 4, "task", 0))
        state = LoopState()
        train_task(made, Protocol("task").task(stream, 0), stream.train(0), state, 0)
        before = made.net.trunk.layers[0].bias.detach().clone()
        fisher = made.fishers if len(made.fishers) else None
        assert fisher is not None
        if spec is gradient:
            with pytest.raises(DivergedError, match="lower the learning rate, or the option strength"):
                train_task(made, Protocol("task").task(stream, 1), stream.train(1), state, 0)
            continue
        train_task(made, Protocol("task").task(stream, 1), stream.train(1), state, 0)
        ends.append((before, made.net.trunk.layers[0].bias.detach(), fisher[0]["net.trunk.layers.0.bias"]))
    ((before, after, importance),) = ends
    held = importance > 1e-6
    assert held.any()
    torch.testing.assert_close(after[held], before[held], rtol=1e-3, atol=1e-5)
