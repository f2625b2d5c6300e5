"""Plain torch modules as networks."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import nn

import engram
from engram import seeds
from engram.core.network import n_features
from engram.errors import ConfigError
from engram.learning.learner import Learner, as_network
from engram.networks.mlp import MlpTrunk
from engram.studies.settings import DataSettings, NetworkSettings

SHAPE = (1, 8, 8)


class Net(nn.Module):
    """A hidden layer, as in a network of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = MlpTrunk(64, (16,))
        self.n_features = "a name of its own"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.hidden(x)


def make() -> nn.Module:
    """Lazy layers are sized by the pass that finds the width."""
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(12), nn.BatchNorm1d(12), nn.ReLU())


def weights(given: Any, seed: int) -> torch.Tensor:
    network = as_network(given, SHAPE)
    with seeds.seeded(seed, "test"):
        trunk = network.trunk(SHAPE)
    return torch.cat([p.detach().flatten() for p in trunk.parameters()])


@pytest.mark.parametrize(
    "given", [Net, make, make(), Net()], ids=["class", "function", "lazy instance", "instance"]
)
def test_each_seed_begins_from_its_own_weights_and_the_same_seed_from_the_same(given: Any):
    if isinstance(given, Net):  # MlpTrunk's layers can be reset
        before = torch.cat([p.detach().flatten() for p in given.parameters()])
        assert not torch.equal(weights(given, 0), before)
        assert torch.equal(torch.cat([p.detach().flatten() for p in given.parameters()]), before)
    assert torch.equal(weights(given, 0), weights(given, 0))
    assert not torch.equal(weights(given, 0), weights(given, 1))


def test_the_width_is_found_and_statistics_stay_as_they_were():
    trunk = as_network(make, SHAPE).trunk(SHAPE)
    assert n_features(trunk) == 12
    assert trunk.module[2].num_batches_tracked == 0
    assert trunk.training


def test_a_module_learns_what_the_named_network_of_its_layers_learns():
    data = DataSettings("digits", tasks=2, max_per_class=20)
    own = engram.run(data, Net, engram.method("ewc", epochs=1))
    named = engram.run(data, NetworkSettings("mlp", {"hidden": [16]}), "ewc:epochs=1")
    assert own["confusion"] == named["confusion"]
    assert own["accuracy_matrix"] == named["accuracy_matrix"]


class Frozen(nn.Module):
    """Owns a parameter that nothing can reset."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) * self.scale


class Less(nn.Flatten):
    """Loses a sample."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)[1:]


class Whole(nn.Flatten):
    """Gives whole numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).long()


class Locked(nn.Flatten):
    """Holds what cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


ONCE = make()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            nn.Sequential(nn.Flatten(), Frozen()),
            r"reset_parameters, .* 1 \(Frozen\) of network Sequential has none",
        ),
        (nn.Linear, "network Linear must be made without arguments, it stops with .*in_features"),
        (lambda: nn.Linear(3, 4), r"network lambda must take samples \[2, 1, 8, 8\], it stops with .*shape"),
        (lambda: nn.Conv2d(1, 4, 3), r"must give features \[B, F\], it gives \[2, 4, 6, 6\]"),
        (lambda: nn.Flatten(0), r"must give features \[B, F\], it gives \[128\]"),
        (lambda: Less(), r"must give features \[B, F\], it gives \[1, 64\] for samples \[2, 1, 8, 8\]"),
        (lambda: Whole(), "must give features that gradients reach, it gives torch.int64"),
        (Locked(), "must be a module that can be copied, it stops with cannot pickle"),
        (lambda: 3, "must make a new torch module each time, it makes int"),
        (lambda: ONCE, "must make a new torch module each time, it makes the same one twice"),
        (3, "must be a Network, a torch module, its class or a function that makes one, got 3"),
    ],
)
def test_what_is_no_network_is_refused_in_one_line(given: Any, words: str):
    with pytest.raises(ConfigError, match=words) as caught:
        _ = [as_network(given, SHAPE).trunk(SHAPE) for _ in range(2)]
    assert "\n" not in str(caught.value)


def test_a_generative_method_refuses_a_module_by_name():
    with pytest.raises(ConfigError, match="must have a generator for this method, Net has none"):
        Learner("dgmw", Net, image_shape=(1, 32, 32), n_classes=2)
