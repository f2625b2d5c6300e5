"""Initial weights of the perceptron."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from engram.errors import ConfigError
from engram.networks import Mlp

SHAPE = (1, 6, 5)


def layers(init: str, seed: int = 0) -> list[nn.Linear]:
    torch.manual_seed(seed)
    return list(Mlp((400, 300), init=init).trunk(SHAPE).layers)  # type: ignore[arg-type, union-attr]


@pytest.mark.parametrize("init", ["glorot", "pytorch"])
def test_weights_are_uniform_within_their_bound(init: str):
    for layer in layers(init):
        n_out, n_in = layer.weight.shape
        bound = math.sqrt(6 / (n_in + n_out)) if init == "glorot" else 1 / math.sqrt(n_in)
        assert layer.weight.abs().max() <= bound
        assert layer.weight.abs().max() > 0.99 * bound
        # Variance of the uniform distribution; its estimate from 12,000 weights or more is within 5 standard errors.
        assert layer.weight.var().item() == pytest.approx(bound**2 / 3, rel=5 / math.sqrt(12_000))
        assert layer.bias.any() == (init == "pytorch")


def test_the_default_is_pytorch_and_draws_what_it_drew():
    torch.manual_seed(0)
    expected = [nn.Linear(30, 400), nn.Linear(400, 300)]
    for ours, theirs in zip(layers("pytorch"), expected, strict=True):
        assert torch.equal(ours.weight, theirs.weight)
        assert torch.equal(ours.bias, theirs.bias)
    assert Mlp().init == "pytorch"


def test_an_unknown_word_is_refused():
    with pytest.raises(ConfigError, match=r"init must be pytorch . glorot, got 'he'"):
        Mlp(init="he")  # type: ignore[arg-type]
