"""Progressive networks: Eq. 2 by hand, independent columns without adapters, sizes."""

from __future__ import annotations

import itertools
from typing import Any, cast

import pytest
import torch
from tests.methods.isolated import STREAM, answers, learn, made, noise
from torch import Tensor

from engram.core.contract import evaluating
from engram.learning.state import LoopState
from engram.methods.pnn import Pnn
from engram.networks import Mlp, PlainCnn

X = STREAM.train(0).x.float() / 255


def pnn(network: Any = None, **options: Any) -> Pnn:
    return cast(Pnn, made("pnn", network or Mlp((20, 15)), **options))


def learned(n: int, network: Any = None, **options: Any) -> Pnn:
    net, state = pnn(network, **options), LoopState()
    for t in range(n):
        learn(net, t, state)
    return net


def test_equation_two_by_hand() -> None:
    net = learned(3)
    first, second, third = (net.column(k) for k in range(3))

    def lin(layer: Any, h: Tensor) -> Tensor:
        return h @ layer.weight.T + layer.bias

    def lateral(k: int, i: int, before: list[Tensor]) -> Tensor:
        a = net.adapter(k, i)
        scaled = torch.cat([a.alpha[j] * h for j, h in enumerate(before)], 1)
        return lin(a.u, lin(a.v, scaled).relu())

    with evaluating(net):
        one, two, three = (lin(c.trunk.layers[0], X.flatten(1)).relu() for c in (first, second, third))
        one_, two_ = (
            lin(first.trunk.layers[1], one).relu(),
            (lin(second.trunk.layers[1], two) + lateral(1, 1, [one])).relu(),
        )
        three_ = (lin(third.trunk.layers[1], three) + lateral(2, 1, [one, two])).relu()
        logits = lin(third.head.layers[0], three_) + lateral(2, 2, [one_, two_])
        torch.testing.assert_close(net.logits(X, 2), logits)


@pytest.mark.parametrize("network", [Mlp((20, 15)), PlainCnn((4, 6))], ids=["mlp", "plain-cnn"])
def test_without_adapters_a_column_is_an_independent_network(network: Any) -> None:
    net, other = learned(2, network), learned(1, network)
    x = network.normalise(STREAM.train(0).x)
    with torch.no_grad():
        for name, p in net.adapters.named_parameters():
            if name.endswith(("alpha", "v.bias", "u.bias")):
                p.zero_()
    with evaluating(net), evaluating(other):
        torch.testing.assert_close(net.logits(x, 1), net.column(1)(x, (0, 2)))
        assert torch.equal(net.logits(x, 0), other.logits(x, 0))


def test_a_column_does_not_depend_on_later_tasks_and_learns_from_earlier_ones() -> None:
    net, state = pnn(), LoopState()
    learn(net, 0, state, noise(0))
    learn(net, 1, state)
    assert not torch.equal(answers(net, 1), answers(learned(2), 1))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    learn(net, 2, state, noise(2))
    assert all(torch.equal(net.state_dict()[k], v) for k, v in before.items())


@pytest.mark.parametrize("adapters", ["mlp", "linear"])
def test_parameters_are_counted(adapters: Any) -> None:
    inputs, widths = 64, (20, 15)
    counts = learned(3, adapters=adapters).report()["parameters"]
    for k, count in enumerate(counts):
        sizes = (inputs, *widths, 2)
        expected = sum(a * b + b for a, b in itertools.pairwise(sizes))
        for a, b in itertools.pairwise(sizes[1:]):
            v = k * a * a + a + k if adapters == "mlp" else 0  # V, c, alpha
            u = a * b + b if adapters == "mlp" else k * a * b
            expected += v + u if k else 0
        assert count == expected, k
