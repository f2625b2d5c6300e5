"""VCL: divergences, draws, coresets that q never sees, old heads that stay, doubt on what was never seen."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from tests.methods.isolated import MLP, STREAM, learn, made, task_of
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from engram import seeds
from engram.checks import tiny_stream
from engram.core.contract import Context
from engram.errors import ConfigError
from engram.learning.loop import train_task
from engram.learning.state import LoopState
from engram.methods.registry import method
from engram.methods.vcl import Vcl
from engram.networks import Mlp, PlainCnn, PreactResnet
from engram.parts.gaussian import Gaussian
from engram.parts.memory import k_centre
from engram.protocols.protocol import Protocol

SMALL: dict[str, Any] = {"n_samples": 2, "n_predict": 20}
X = STREAM.train(0).x.float() / 255


def vcl(network: Any = MLP, **options: Any) -> Vcl:
    return cast(Vcl, made("vcl", network, **{**SMALL, **options}))


def learned(n: int, **options: Any) -> Vcl:
    net, state = vcl(**options), LoopState()
    for t in range(n):
        learn(net, t, state)
    return net


def prior_of(net: Vcl) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return ({n: net.prior_m[n] for n in net.q.m}, {n: net.prior_v[n] for n in net.q.m})


def test_divergence_is_that_of_torch_and_zero_where_a_task_starts() -> None:
    net = learned(2)
    m0, v0 = prior_of(net)
    expected = sum(
        kl_divergence(Normal(m, (net.q.variance(n) / 2).exp()), Normal(m0[n], (v0[n] / 2).exp())).sum()
        for n, m in net.q.m.items()
    )
    found = net.q.divergence(m0, v0, list(net.q.m))
    torch.testing.assert_close(found, cast(Tensor, expected), rtol=1e-4, atol=1e-3)
    assert float(found.detach()) > 0
    kept = list(net.q.m)
    net.begin_task(task_of(2), STREAM.train(2))
    start = net.q.divergence(*prior_of(net), kept)
    assert float(start.detach()) == 0.0
    moved = [p for n in kept for p in (net.q.m[n], net.q.variance(n))]
    assert all(not bool(g.any()) for g in torch.autograd.grad(start, moved))
    # New rows have the first prior, N(0, 1), and start away from it.
    new = [n for n in net.q.m if n not in kept]
    assert len(new) == 2
    assert all(not bool(net.prior_m[n].any()) and not bool(net.prior_v[n].any()) for n in new)


def test_first_means_are_drawn_wide_and_those_of_known_weights_stay() -> None:
    net, own = vcl(Mlp((64,)), mean_sd=0.1), vcl(Mlp((64,)), mean_sd=None)
    network = {n: m.clone() for n, m in own.q.m.items()}
    for each in (net, own):
        each.begin_task(task_of(0), STREAM.train(0))
    assert all(torch.equal(own.q.m[n], m) for n, m in network.items())
    for name, m in net.q.m.items():
        if name.endswith("bias"):
            assert not bool(m.any())
        else:  # a normal law cut at two standard deviations has 0.88 of its own
            assert float(m.detach().abs().max()) <= 0.2
            assert float(m.detach().std()) == pytest.approx(0.088, rel=0.15)
    before = {n: m.clone() for n, m in net.q.m.items()}
    net.begin_task(task_of(1), STREAM.train(1))
    assert all(torch.equal(net.q.m[n], m) for n, m in before.items())
    assert len(net.q.m) == len(before) + 2


@pytest.mark.parametrize("how", ["drawn", "drawn_locally"])
@pytest.mark.parametrize("network", [MLP, PlainCnn((4, 6))], ids=["mlp", "plain-cnn"])
def test_one_draw_without_variance_is_the_plain_network(how: str, network: Any) -> None:
    net = vcl(network)
    net.begin_task(task_of(0), STREAM.train(0))
    for v in net.q.v.values():
        v.data.fill_(-200.0)
    g = seeds.generator(0, "draw")
    if how == "drawn":
        found = net.q.drawn(X, list(net.q.m), (0, 2), 1, g)
    else:
        found = net.q.drawn_locally(X, net.order, (0, 2), 1, g)
    torch.testing.assert_close(found[0], net.q.net(X, (0, 2)), rtol=1e-4, atol=1e-5)


def test_both_draws_have_the_same_mean_and_variance_for_one_layer() -> None:
    q = Gaussian(Context(Mlp((4,)), (1, 8, 8), 2, "task", 0))
    q.net.grow(task_of(0))
    q.fit_variances(-2.0)
    for n in q.m:
        if n.startswith("trunk"):
            q.variance(n).data.fill_(-200.0)  # the output layer alone is random
    net, x = vcl(Mlp((4,))), X[:3]
    found = [
        q.drawn(x, list(q.m), (0, 2), 4000, seeds.generator(0, "a")),
        q.drawn_locally(x, net.order, (0, 2), 4000, seeds.generator(0, "b")),
    ]
    h = q.net.trunk(x)
    variance = (h.square().sum(1) + 1.0).mul(torch.tensor(-2.0).exp())[:, None].expand(3, 2)
    for logits in found:
        torch.testing.assert_close(logits.var(0), variance, rtol=0.1, atol=0.0)
        torch.testing.assert_close(logits.mean(0), q.net.head(h, (0, 2)), rtol=0.0, atol=0.05)


@pytest.mark.parametrize("local", ["weights", "local"])
def test_old_heads_stay_bit_for_bit(local: Any) -> None:
    net, state = vcl(reparameterisation=local, weight_decay=0.1), LoopState()
    learn(net, 0, state)
    before = {k: v.clone() for k, v in net.q.state_dict().items() if "parts.0" in k or "parts/0" in k}
    assert len(before) == 4
    for t in (1, 2):
        learn(net, t, state)
    now = net.q.state_dict()
    assert all(torch.equal(now[k], v) for k, v in before.items())


@pytest.mark.parametrize("coreset", ["random", "k_centre"])
def test_q_never_sees_a_coreset_and_is_left_alone_by_its_copies(coreset: Any) -> None:
    net = learned(1, coreset=coreset, coreset_size=5)
    task, data = task_of(1), STREAM.train(1)
    net.begin_task(task, data)
    rest = net.pools(task, "posterior", 0, data)["rest"]
    assert len(rest) + 5 == len(data) == int(net.n_fit) + 5
    stored = net.pools(task, "coreset-1", 0, data)["coreset-1"]
    assert torch.equal(stored.x, data.x[net.rows])
    seen = {bytes(x.flatten().tolist()) for x in rest.x}
    assert not any(bytes(x.flatten().tolist()) in seen for x in stored.x)
    assert [p.name for p in net.phases(task, len(data))] == ["posterior", "coreset-0", "coreset-1"]
    net.begin_phase(task, "coreset-0")
    player = net.players(task, "coreset-0")["copy"]
    assert all(n.startswith("copies.0.") and "parts.1" not in n for n in player.parameters)


def test_copies_move_and_q_does_not() -> None:
    with_copies = learned(1, coreset="random", coreset_size=5)
    q = {k: v.clone() for k, v in with_copies.q.state_dict().items()}
    again = vcl(coreset="random", coreset_size=5)
    phases = Vcl.phases

    def first_two(task: Any, n: int) -> Any:
        return tuple(p for p in phases(again, task, n) if not p.name.startswith("coreset"))

    again.phases = first_two  # type: ignore[method-assign]
    learn(again, 0, LoopState())
    without = again.q.state_dict()
    assert all(torch.equal(without[k], v) for k, v in q.items())
    assert any(not torch.equal(with_copies.copy_of(0).state_dict()[k], v) for k, v in q.items())


def test_k_centre_by_hand() -> None:
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [5.0, 0.0], [0.0, 3.0], [5.0, 0.5]])
    assert k_centre(x, 4).tolist() == [0, 4, 3, 1]


def test_it_doubts_more_on_classes_that_it_never_saw() -> None:
    stream, protocol = tiny_stream((3, 3), n_train=30), Protocol("task")
    spec = method("vcl", epochs=40, batch_size=30, n_samples=3, n_predict=50)
    net = spec.make(spec.config, Context(MLP, (1, 8, 8), 6, "task", 0, 2))
    task = protocol.task(stream, 0)
    train_task(net, task, stream.train(0), LoopState(), 0)

    def entropy(x: Tensor) -> float:
        p = net.predict(x.float() / 255, task=task)[:, :3].exp()
        return float(-(p * p.clamp(min=1e-12).log()).sum(1).mean())

    assert entropy(stream.test(1).x) > 2.0 * entropy(stream.test(0).x)


def test_what_it_cannot_do_is_refused_in_one_line() -> None:
    with pytest.raises(
        ConfigError, match=r"^vcl needs a network with its layers in a row, PreactResnet[^\n]*$"
    ):
        vcl(PreactResnet((1, 1), (4, 6)))
    with pytest.raises(
        ConfigError, match=r"^a task must have more samples than its coreset, task 1 has 24[^\n]*$"
    ):
        learned(1, coreset="random", coreset_size=24)
    with pytest.raises(ConfigError, match=r"^keep_optimiser must be false[^\n]*$"):
        method("vcl", keep_optimiser=True)
