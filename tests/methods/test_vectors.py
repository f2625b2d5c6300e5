"""Feature vectors: every method learns them with the networks mlp and linear, or says in one line why it cannot."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from engram import features
from engram.checks import SMALL
from engram.core.contract import Context
from engram.core.network import Network
from engram.errors import ConfigError
from engram.features.extractor import Extractor
from engram.methods.registry import METHODS, entry, method
from engram.networks import Linear, Mlp
from engram.protocols.protocol import Protocol
from engram.protocols.session import run
from engram.streams import Stream, class_incremental, from_arrays, load

#: What cannot be, by method and network: the line that says so.
REFUSED = {
    **{(name, "linear"): "the network must have a generator" for name in ("dgmw", "dgma")},
    **{
        (name, "mlp"): "samples must be images"
        for name in ("mergan-jtr", "mergan-ra", "ewc-gan", "dgr", "dgdmn")
    },
    ("dgdmn", "linear"): "samples must be images",
    **{
        (name, "linear"): "the network must have a generator"
        for name in ("mergan-jtr", "mergan-ra", "ewc-gan", "dgr")
    },
    ("rescl", "linear"): "must have a layer",
    ("hat", "linear"): "masks per unit need a trunk",
    **{(name, "linear"): "masks per weight need linear layers" for name in ("packnet", "piggyback")},
    **{(name, "linear"): "needs a network of linear layers" for name in ("pnn", "vcl", "pc", "den")},
}
MOVED = dict.fromkeys(("shift", "rotate", "solver_shift", "solver_rotate"), 0.0)


def vectors(n: int = 12, d: int = 6) -> Stream:
    """Two tasks of two classes, far from [-1, 1]."""
    y = torch.arange(4).repeat_interleave(n)
    x = 4.0 * F.one_hot(y, d) + 0.3 * torch.randn(len(y), d, generator=torch.Generator().manual_seed(0))
    return class_incremental(from_arrays(x, y, x, y), n_tasks=2)


@pytest.mark.parametrize("network", [Mlp((8, 8), n_f=8, n_z=16), Linear()], ids=lambda n: n.name)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_learns_vectors_or_says_why_not(name: str, network: Network) -> None:
    options = next(iter(SMALL[name].values()))
    spec = method(name, {k: MOVED.get(k, v) for k, v in options.items()})
    scenarios = getattr(entry(name).make, "scenarios", {"class"})
    protocol: Any = Protocol("class" if "class" in scenarios else "task", 0)
    words = REFUSED.get((name, network.name))
    if words is not None:
        with pytest.raises(ConfigError, match=words) as refused:
            run(vectors(), network, spec, protocol)
        assert "\n" not in str(refused.value)
        return
    entry_of_seed = run(vectors(), network, spec, protocol)
    assert entry_of_seed["status"] == "done"


@pytest.mark.parametrize(
    ("name", "option"),
    [("joint", "shift"), ("joint", "colour"), ("dgmw", "solver_rotate"), ("dgmw", "solver")],
)
def test_what_moves_images_is_refused_for_vectors(name: str, option: str) -> None:
    given = {"solver": "separate", option: 1.0} if option != "solver" else {"solver": "discriminants"}
    spec = method(name, {k: v for k, v in given.items() if name == "dgmw" or k == option})
    said = rf"samples must be images for {option}=1\.0, they are vectors[^\n]+"
    if option == "solver":
        said = r"[^\n]*needs images, the samples are vectors[^\n]+"
    with pytest.raises(ConfigError, match=rf"^{said}$"):
        spec.make(spec.config, Context(Mlp((4,)), (6,), 4, "class", 0))


# The masked generator of vectors ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "n_weights"), [("dgmw", 64 * 128 + 128 * 128), ("dgma", 64 * 256 + 256 * 256)]
)
def test_the_generator_of_vectors_has_two_masked_dense_layers(name: str, n_weights: int) -> None:
    made: Any = method(name).make(method(name).config, Context(Mlp(), (500,), 4, "class", 0))
    g = made.generator
    assert g.n_weights() == n_weights
    g.begin(0)
    width = g.current[-1]
    assert sum(p.numel() for p in g.outputs[0].parameters()) == width * 500
    assert sum(p.numel() for p in g.norms[0].parameters()) == 2 * 2 * width
    z = torch.randn(3, 64)
    gates = g.soft_gates(1.0)
    h = z
    for i in range(2):  # a dense layer, written as one
        w = g.weights[i][:, :, 0, 0] * (gates[i][:, :, 0, 0] if name == "dgmw" else 1.0)
        h = (h @ w / (1.0 + 1e-5) ** 0.5 * g.norms[0][i].weight).relu()
        h = h if name == "dgmw" else h * gates[i]
    torch.testing.assert_close(g(z, 0, gates), h @ g.outputs[0].weight[:, :, 0, 0])


@pytest.mark.parametrize("name", ["dgmw", "dgma"])
def test_generated_vectors_keep_old_classes(name: str) -> None:
    options = {
        **{
            "epochs": 12,
            "steps_per_epoch": 10,
            "batch_size": 16,
            "lr_d": 2e-3,
            "lr_g": 4e-3,
            "critic_norm": "none",
        },
        **{
            "lambda_ru": 0.01,
            "solver": "separate",
            "solver_epochs": 4,
            "solver_steps": 25,
            "solver_samples": 60,
        },
        **{"solver_lr": 5e-3},
    }
    found = run(vectors(40), Mlp((32,), n_f=24, n_z=16), method(name, options), Protocol("class", 0))
    plain = run(vectors(40), Mlp((32,)), method("finetune", {"epochs": 20}), Protocol("class", 0))
    assert plain["final_average_accuracy"] < 0.6
    assert found["final_average_accuracy"] > 0.9


def test_features_of_real_images_are_generated_well_enough_to_keep_old_classes() -> None:
    images = class_incremental(load("digits"), n_tasks=5, max_per_class=60)
    seen = images.through(Extractor(features.make("scattering", {"J": 1, "L": 3}), images.image_shape))
    gan = {"epochs": 10, "steps_per_epoch": 12, "batch_size": 24, "lr_g": 4e-3, "beta1": 0.0, "beta2": 0.9}
    masks = {
        "lambda_ru": 0.01,
        "hard_tail": 0.3,
        "bn_reestimate": 10,
        "average_g": 0.9,
        "critic_norm": "none",
    }
    solver = {"solver_epochs": 3, "solver_steps": 30, "solver_samples": 60, "solver_lr": 5e-3}
    options = {**gan, **masks, "solver": "separate", **solver, "solver_smoothing": 0.1}
    found = run(seen, Mlp((32,), n_f=32, n_z=32), method("dgmw", options), Protocol("class", 0))
    plain = run(seen, Mlp((32,)), method("finetune", {"epochs": 10}), Protocol("class", 0))
    assert plain["final_average_accuracy"] < 0.2
    assert found["final_average_accuracy"] > 0.35


def test_the_last_vector_of_an_epoch_may_stand_alone() -> None:
    options = {**next(iter(SMALL["dgmw"].values())), "batch_size": 23}
    assert run(vectors(12), Mlp((8,), n_f=8, n_z=16), method("dgmw", options), Protocol("class", 0))
