"""The residual pair: sizes of the reference, growth over a stream that blocks share, and old tasks under later ones."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch

import engram
from engram.core.contract import Context
from engram.errors import ConfigError
from engram.learning.loop import EpochEnd
from engram.networks import Resgan, Resgan64, masks
from engram.networks.masked import MaskedGenerator
from engram.networks.resgan import CriticBlock
from engram.networks.vae import Vae
from engram.parts.gan import Critic
from engram.protocols.protocol import Protocol

SMALL = Resgan(n_f=3, n_d=2, n_z=6)
GROWTHS = [(2, 1, 0, 3, 1, 0, 2), (0, 0, 4, 1, 0, 2, 0)]


def generator(
    mask: Literal["weight", "unit"], network: Resgan = SMALL, act_gate: str = "post"
) -> MaskedGenerator:
    size = network.image_size or 0
    shape = network.generator((3, size, size), mask=mask)
    return MaskedGenerator(shape, mask=mask, act_gate=act_gate)  # type: ignore[arg-type]


def test_sizes_are_those_of_the_reference() -> None:
    g = generator("weight", Resgan())
    assert g.n_weights() == 128 * 1024 + 3 * 73728 == 352256
    g.begin(0)
    assert sum(p.numel() for p in g.outputs.parameters()) == 1731
    critic = Critic(Context(Resgan(), (3, 32, 32), 10, "class", 0), "batch", 0)
    critic.classes.grow(10, 0, 0)
    assert sum(p.numel() for p in critic.trunk.blocks.parameters()) == 11168832  # type: ignore[union-attr]
    # The released code counts 12246081 with a class head that has no bias in its first task.
    assert sum(p.numel() for p in critic.parameters()) == 12246081 + 10


def test_the_critic_of_wgan_has_its_size_and_no_normalisation() -> None:
    critic = Critic(Context(Resgan(critic="wgan"), (3, 32, 32), 10, "class", 0), "none", 0)
    critic.classes.grow(10, 0, 0)
    first, half, plain = (
        (3 * 9 + 1 + 128 * 9 + 1 + 3 + 1) * 128,
        (2 * (128 * 9 + 1) + 128 + 1) * 128,
        2 * 128 * 1153,
    )
    assert first + half + 2 * plain == 1053696
    assert sum(p.numel() for p in critic.trunk.parameters()) == 1053696
    assert sum(p.numel() for p in critic.parameters()) == 1053696 + 129 + 1290
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(critic.score(x)[:1], critic.score(x[:1]), atol=1e-5)
        normed = Resgan(n_d=2, critic="wgan").trunk((3, 32, 32), norm="batch")
        assert not torch.allclose(normed(x)[:1], normed(x[:1]), atol=1e-5)


def test_a_block_that_halves_is_the_mean_of_one_that_does_not() -> None:
    block = CriticBlock(3, 3, "none", half=True)
    x = torch.randn(2, 3, 8, 8)
    whole = block.branch(x) + block.shortcut(x)
    assert torch.allclose(block(x), whole.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5)), atol=1e-5)
    assert torch.equal(CriticBlock(3, 3, "none").shortcut(x), x)


def test_sizes_of_the_variational_autoencoder_are_pinned() -> None:
    n = sum(p.numel() for p in Vae((1, 28, 28), 400, 100, 0).parameters())
    assert n == (784 * 400 + 400) + (400 * 400 + 400) * 2 + 2 * (400 * 100 + 100) + (100 * 400 + 400) + (
        400 * 784 + 784
    )


@pytest.mark.parametrize("network", [SMALL, Resgan64(n_f=2, n_d=1, n_z=6)])
def test_images_have_the_right_shape_and_range(network: Resgan) -> None:
    g, size = generator("weight", network), network.image_size
    g.begin(0)
    x = g(torch.randn(2, g.shape.n_z), 0, g.soft_gates(1.0), statistics=True)
    assert x.shape == (2, 3, size, size)
    assert (x.abs() <= 1).all()
    trunk = network.trunk((3, size or 0, size or 0))
    assert trunk(x).shape == (2, 32 * network.n_d)
    assert trunk(x[:1]).shape == (1, 32 * network.n_d)  # one image has no variance


def test_the_stream_is_as_wide_as_the_widest_layer_that_feeds_it() -> None:
    shape = SMALL.generator((3, 32, 32), mask="weight")
    widths = [3, 9, 5, 8, 4, 7, 2]
    assert [shape.n_inputs(i, widths) for i in range(8)] == [6, 3, 9, 5, 8, 5, 7, 5]
    # The first layer's growth feeds every block, and is credited there where it widens the stream.
    new = masks.growth_per_weight([3, 3, 3], shape.n_inputs, [16, 9, 9], [6 * 16, 27, 28])
    assert new == [1, 0, 2]


@pytest.mark.parametrize(("mask", "act_gate"), [("weight", "post"), ("unit", "post"), ("unit", "pre_bn")])
@torch.no_grad()
def test_old_images_stay_bit_for_bit_whatever_happens_to_free_weights(
    mask: Literal["weight", "unit"], act_gate: str
) -> None:
    g = generator(mask, act_gate=act_gate).eval()
    r = torch.Generator().manual_seed(0)
    z = torch.randn((4, 6), generator=r)
    images = []
    for task, new in enumerate(GROWTHS):
        g.begin(task)
        for norm in g.norms[task]:  # type: ignore[attr-defined]
            norm.running_mean.normal_(generator=r)
            norm.bias.normal_(generator=r)
        blocked = g.blocked() if task else [torch.tensor(False)] * len(g.weights)
        for w, b in zip(g.weights, blocked, strict=True):
            w.copy_(torch.where(b, w, torch.randn(w.shape, generator=r)))
        if task:
            leaks = not torch.equal(g(z, 0, g.binary_gates(0)), images[0])
            assert leaks == (act_gate == "pre_bn")
        g.freeze([torch.rand(g.mask_shape(i, g.current), generator=r) < 0.5 for i in range(len(g.weights))])
        images.append(g(z, task, g.binary_gates(task)))
        g.grow(new)
    held = MaskedGenerator(g.shape, mask=mask, act_gate=act_gate).eval()  # type: ignore[arg-type]
    held.rebuild(g.structure())
    held.load_state_dict(g.state_dict())
    assert torch.equal(held(z, 1, held.binary_gates(1)), images[1])


@pytest.mark.parametrize("method", ["dgmw", "dgma"])
def test_a_run_resumes_to_the_same_end(method: str, tmp_path: Path) -> None:
    data = engram.DataSettings(data="digits:0-1", tasks=2, image_size=32, max_per_class=8)
    gan = {"epochs": 2, "steps_per_epoch": 2, "batch_size": 4, "critic_norm": "group", "n_label": 2}
    solver = {"solver_epochs": 1, "solver_steps": 2, "solver_batch": 4, "solver_samples": 4}
    spec = engram.method(method, **gan, solver="separate", **solver)
    how = {"protocol": Protocol("class", generated_per_class=0)}

    def stop(event: object) -> bool:
        return isinstance(event, EpochEnd) and (event.task, event.epoch) == (1, 0)

    whole = engram.run(data, SMALL, spec, **how)
    assert engram.run(data, SMALL, spec, **how, out=tmp_path, stop_after=stop)["status"] == "unfinished"
    again = engram.run(data, SMALL, spec, **how, out=tmp_path, resume=True)
    for key in ("status", "accuracy_matrix", "storage_bytes"):
        assert again[key] == whole[key]
    for task, other in zip(again["tasks"], whole["tasks"], strict=True):
        assert (task["growth"], task["phases"]) == (other["growth"], other["phases"])
    widths = [task["growth"]["widths_after"] for task in whole["tasks"]]
    assert widths[0] != [3] * 7  # it grew


def test_it_has_no_generator_without_masks() -> None:
    with pytest.raises(ConfigError, match="use dcgan"):
        SMALL.generator((3, 32, 32), mask="none")
