"""Progress & Compress: who moves when, adapters, distillation, online EWC, a size that does not grow."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from tests.methods.isolated import MLP, STREAM, learn, made, task_of

from engram.core.contract import Batch, Context, Step, evaluating
from engram.errors import ConfigError
from engram.learning.state import LoopState
from engram.methods.pc import COMPRESS, Adapter, Pc
from engram.methods.registry import method
from engram.networks import Mlp, PlainCnn, PreactResnet

STEP = Step(task_of(1), COMPRESS, 0, 1, 0, 1)


def pc(network: Any = MLP, **options: Any) -> Pc:
    return cast(Pc, made("pc", network, **options))


def begun(network: Any = MLP, **options: Any) -> Pc:
    """One task learned, the second one begun."""
    net = pc(network, **options)
    learn(net, 0, LoopState())
    net.begin_task(task_of(1), STREAM.train(1))
    return net


def test_the_base_stands_in_progress_and_the_column_in_compress() -> None:
    net, state = pc(), LoopState()
    learn(net, 0, state)
    seen: dict[str, dict[str, torch.Tensor]] = {}

    def noted(name: str) -> None:
        seen[name] = {k: v.clone() for k, v in net.state_dict().items()}

    begin, end = net.begin_phase, net.end_phase
    net.begin_phase = lambda task, phase: (begin(task, phase), noted(f"begin {phase}"))[0]  # type: ignore[func-returns-value, method-assign]
    net.end_phase = lambda task, phase: (end(task, phase), noted(f"end {phase}"))[0]  # type: ignore[func-returns-value, method-assign]
    learn(net, 1, state)
    for phase, still, moving in (
        ("progress", "net.", "active."),
        (COMPRESS, ("active.", "adapters."), "net."),
    ):
        a, b = seen[f"begin {phase}"], seen[f"end {phase}"]
        assert all(torch.equal(v, b[k]) for k, v in a.items() if k.startswith(still))
        assert any(not torch.equal(v, b[k]) for k, v in a.items() if k.startswith(moving))
    assert any(k.startswith("before.") for k in seen[f"end {COMPRESS}"])


@pytest.mark.parametrize("network", [MLP, PlainCnn((4, 6))], ids=["mlp", "plain-cnn"])
def test_without_alpha_the_active_column_is_an_independent_network(network: Any) -> None:
    net = begun(network)
    x = network.normalise(STREAM.train(1).x)
    with evaluating(net):
        kb = net._read(net.net, x)
        helped = net.active_logits(x, kb)
        for a in net.adapters:
            cast(Adapter, a).alpha.zero_()
        alone = net.active_logits(x, kb)
        assert net.active is not None
        torch.testing.assert_close(alone, net.active(x, (0, 2)))
    assert not torch.equal(helped, alone)


def test_an_adapter_by_hand() -> None:
    layer = torch.nn.Linear(3, 2)
    a, h = Adapter(layer, 0.1), torch.randn(4, 3)
    assert 0.0 <= float(a.alpha.detach()) <= 0.1
    expected = a.alpha * ((h @ a.v.weight.T + a.v.bias).relu() @ a.u.weight.T)  # type: ignore[operator, union-attr]
    torch.testing.assert_close(a(h), expected)


def test_distillation_is_zero_where_base_and_column_agree() -> None:
    net = begun(Mlp((9,)))
    net.begin_phase(task_of(1), COMPRESS)
    data = STREAM.train(1)
    batch = Batch(data.x.float() / 255, data.y, {})
    assert float(net.compress_loss(batch, STEP)["kl"].detach()) > 1e-4
    active = net.active
    assert active is not None
    with torch.no_grad():
        for a in net.adapters:
            cast(Adapter, a).alpha.zero_()
        net.net.trunk.load_state_dict(active.trunk.state_dict())
        net.net.head.parts[1].load_state_dict(active.head.parts[0].state_dict())
    loss = net.compress_loss(batch, STEP)["kl"]
    assert abs(float(loss.detach())) < 1e-6


def test_fisher_information_is_normed_decays_and_holds_from_the_second_task_on() -> None:
    net, state = pc(gamma=0.5), LoopState()
    learn(net, 0, state)
    first = {n: net.fisher[n].clone() for n in net.fisher.names}
    assert float(torch.stack([f.norm() for f in first.values()]).norm()) == pytest.approx(1.0, rel=1e-5)
    learn(net, 1, state)
    added = {n: net.fisher[n] - 0.5 * f for n, f in first.items()}
    new = [net.fisher[n] for n in net.fisher.names if n not in first]
    total = torch.stack([f.norm() for f in [*added.values(), *new]]).norm()
    assert float(total) == pytest.approx(1.0, rel=1e-4)
    assert net.penalty.strength == pytest.approx(0.5 * 1000.0 * 0.5)
    net.begin_task(task_of(2), STREAM.train(2))
    name = "net.trunk.layers.0.weight"
    weight = net.get_parameter(name)
    grads = {name: torch.zeros_like(weight)}
    with torch.no_grad():
        weight.add_(0.5)
    net.after_backward("kb", grads, STEP)
    torch.testing.assert_close(grads[name], 1000.0 * 0.5 * net.fisher[name] * 0.5)


def test_nothing_holds_the_base_in_the_first_compress() -> None:
    net = pc()
    net.begin_task(task_of(0), STREAM.train(0))
    theta = net.players(task_of(0), "compress")["kb"].parameters
    grads = {name: torch.zeros_like(p) for name, p in theta.items()}
    with torch.no_grad():
        for p in theta.values():
            p.add_(0.5)
    net.after_backward("kb", grads, Step(task_of(0), COMPRESS, 0, 1, 0, 1))
    assert not any(bool(g.any()) for g in grads.values())


def test_what_lasts_is_one_network_and_two_tensors_a_parameter() -> None:
    net, state = pc(), LoopState()
    for t in range(3):
        learn(net, t, state)
        assert net.active is None
        assert not len(net.adapters)
        count = sum(p.numel() for p in net.net.parameters())
        assert sum(v.numel() for v in net.state_dict().values()) == 3 * count
        bytes_ = net.storage_bytes()
        assert bytes_["other"] == 2 * (bytes_["weights"] + bytes_["norms_and_heads"]) == 8 * count


def test_what_it_cannot_do_is_refused_in_one_line() -> None:
    with pytest.raises(
        ConfigError, match=r"^pc needs a network with its layers in a row, PreactResnet[^\n]*$"
    ):
        pc(PreactResnet((1, 1), (4, 6)))
    spec = method("pc")
    with pytest.raises(
        ConfigError, match=r"^scenario must be one of domain, task for Pc, got 'class'[^\n]*$"
    ):
        spec.make(spec.config, Context(MLP, (1, 8, 8), 4, "class", 0, 2))
