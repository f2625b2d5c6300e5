"""The pre-activation residual network and the plain one: layers, order, initial weights, tracing, bad options."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from engram.core.network import Network, Norm, n_features
from engram.errors import ConfigError
from engram.networks import CifarCnn, PlainCnn, PreactResnet, by_name
from engram.networks.heads import Head

SMALL: dict[str, Network] = {
    "preact-resnet": PreactResnet((1, 2), (4, 6)),
    "plain-cnn": PlainCnn((4, 6)),
}


def trunk(network: Network, size: int = 8, norm: Norm = "batch") -> nn.Module:
    torch.manual_seed(0)
    return network.trunk((3, size, size), norm=norm)


def count(module: nn.Module, *kinds: type) -> int:
    return sum(isinstance(m, kinds) for m in module.modules())


def shaken(module: nn.Module) -> nn.Module:
    """Statistics and affine parameters as after training, so that no normalisation is the identity."""
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            for t in (m.weight.data, m.running_var):
                t.uniform_(0.5, 2.0)
            for t in (m.bias.data, m.running_mean):
                t.normal_()
    return module


def test_the_default_is_32_layers_and_half_a_million_weights() -> None:
    made = trunk(PreactResnet())
    convolutions = [m for m in made.modules() if isinstance(m, nn.Conv2d)]
    projections = [m for m in convolutions if m.kernel_size == (1, 1)]
    assert (len(convolutions) - len(projections) + 1, len(projections)) == (32, 2)
    assert all(m.bias is None for m in convolutions)
    # 3x3 convolutions, projections, scale and offset of each unit's two normalisations and of the last one.
    thirds = 9 * (3 * 16 + 10 * 16**2 + 16 * 32 + 9 * 32**2 + 32 * 64 + 9 * 64**2)
    norms = 2 * (10 * 16 + (16 + 32) + 8 * 32 + (32 + 64) + 8 * 64 + 64)
    assert sum(p.numel() for p in made.parameters()) == thirds + 16 * 32 + 32 * 64 + norms
    assert made(torch.randn(2, 3, 32, 32)).shape == (2, 64)
    assert n_features(made) == 64


def test_a_unit_is_the_paper_s_order_of_layers() -> None:
    """By functions, with a projection that reads the unit's input and not what its first ReLU gives."""
    made = shaken(trunk(PreactResnet((1, 1), (4, 6)))).eval().double()
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)

    def bn(m: Any, h: Tensor) -> Tensor:
        return F.batch_norm(h, m.running_mean, m.running_var, m.weight, m.bias)

    h = F.conv2d(x, made.stem.weight, padding=1)
    for i, stride in ((0, 1), (1, 2)):
        u = made.units[i]
        r = F.conv2d(F.relu(bn(u.bn1, h)), u.conv1.weight, stride=stride, padding=1)
        r = F.conv2d(F.relu(bn(u.bn2, r)), u.conv2.weight, padding=1)
        h = r + (h if i == 0 else F.conv2d(h, u.shortcut.weight, stride=2))
    expected = F.relu(bn(made.bn, h)).mean((2, 3))
    torch.testing.assert_close(made(x), expected, rtol=1e-12, atol=1e-12)


def test_units_of_a_stage_keep_their_shape_and_identity_shortcuts() -> None:
    made = trunk(PreactResnet((2, 2, 2), (4, 6, 8)), 32)
    kinds = [type(u.shortcut) for u in made.units]
    assert kinds == [nn.Identity, nn.Identity, nn.Conv2d, nn.Identity, nn.Conv2d, nn.Identity]
    assert made.units(made.stem(torch.zeros(1, 3, 32, 32))).shape == (1, 8, 8, 8)


@pytest.mark.parametrize("network", [PreactResnet((1, 1, 1), (64, 64, 128)), PlainCnn((64, 128))])
def test_convolutions_start_as_he_et_al(network: Network) -> None:
    for m in trunk(network).modules():
        if isinstance(m, nn.Conv2d):
            fan_out = m.out_channels * m.kernel_size[0] ** 2
            assert float(m.weight.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
            assert abs(float(m.weight.detach().mean())) < 4 * (2 / fan_out / m.weight.numel()) ** 0.5


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    ("norm", "kind"), [("batch", nn.BatchNorm2d), ("group", nn.GroupNorm), ("none", None)]
)
def test_every_norm(name: str, norm: Norm, kind: type | None) -> None:
    made = trunk(SMALL[name], norm=norm)
    norms = {nn.BatchNorm2d, nn.GroupNorm} & {type(m) for m in made.modules()}
    assert norms == ({kind} if kind else set())
    assert all((m.bias is None) == (norm != "none") for m in made.modules() if isinstance(m, nn.Conv2d))
    features = made(torch.randn(5, 3, 8, 8))
    assert features.shape == (5, n_features(made))
    assert bool(torch.isfinite(features).all())


def test_without_norm_a_unit_starts_as_its_shortcut() -> None:
    made = trunk(PreactResnet((3, 3), (4, 6)), norm="none")
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(made.units[1](x), x)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_traceable(name: str, norm: Norm) -> None:
    """torch.fx sees every layer as a module, and no value decides a path."""
    made = shaken(trunk(SMALL[name], norm=norm)).eval()
    traced = fx.symbolic_trace(made)
    x = torch.randn(4, 3, 8, 8)
    assert torch.equal(traced(x), made(x))
    called = {n.target for n in traced.graph.nodes if n.op == "call_module"}
    leaves = {n for n, m in made.named_modules() if not list(m.children())}
    assert called == leaves
    others = {str(n.target) for n in traced.graph.nodes if n.op in ("call_function", "call_method")}
    assert others <= {"<built-in function add>", "flatten"}


@pytest.mark.parametrize("name", SMALL)
def test_same_seed_same_weights_and_no_other_draws(name: str) -> None:
    a, b = trunk(SMALL[name]).state_dict(), trunk(SMALL[name]).state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_plain_layers() -> None:
    made = trunk(PlainCnn((4, 6)), 9)
    assert [type(m).__name__ for m in made.layers[:7]] == [
        *["Conv2d", "BatchNorm2d", "ReLU"] * 2,
        "MaxPool2d",
    ]
    assert count(made, nn.Conv2d) == count(made, nn.ReLU) == 4
    assert made(torch.zeros(1, 3, 9, 9)).shape == (1, 6 * 2 * 2)


def test_plain_without_batch_norm_whatever_is_asked_for() -> None:
    made = trunk(PlainCnn((4,), batch_norm=False), norm="batch")
    assert count(made, nn.BatchNorm2d) == 0
    assert all(m.bias is not None for m in made.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize("name", SMALL)
def test_pixels_lie_within_one(name: str) -> None:
    x = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    assert SMALL[name].normalise(x).flatten().tolist() == pytest.approx([-1.0, -0.6, 1.0])
    assert torch.equal(SMALL[name].to_pixels(SMALL[name].normalise(x)), x)


def test_other_image_sizes() -> None:
    for size in (7, 8, 28, 33):
        assert trunk(PreactResnet((1, 1), (4, 6)), size)(torch.zeros(1, 3, size, size)).shape == (1, 6)
    PreactResnet().check((1, 8, 8))
    with pytest.raises(ConfigError, match=r"^images must be at least 8x8[^\n]*got 8x7[^\n]*$"):
        PlainCnn().check((1, 8, 7))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("preact-resnet", {"units": ()}, "an entry for each stage, got 0 and 3"),
        ("preact-resnet", {"units": (1, 0, 1)}, "units must be a list"),
        ("preact-resnet", {"widths": (8, 16.0, 32)}, "widths must be a list"),
        ("preact-resnet", {"units": 5}, "units must be a list"),
        ("preact-resnet", {"units": (1, 1)}, "an entry for each stage, got 2 and 3"),
        ("plain-cnn", {"widths": (True,)}, "widths must be a list"),
        ("plain-cnn", {"batch_norm": "yes"}, "batch_norm must be true . false"),
        ("plain-cnn", {"widths": ()}, "an entry for each stage, got none"),
        ("dcgan8", {"n_f": 0}, "n_f must be an integer >= 1"),
    ],
)
def test_bad_options_give_one_line(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=rf"^[^\n]*{words}[^\n]*$"):
        by_name(name)(**options)


def test_cifar_network_has_the_authors_size():
    trunk, head = CifarCnn().trunk((3, 32, 32)), Head(512, "single")
    head.grow(60, 0, 0)
    assert sum(p.numel() for part in (trunk, head) for p in part.parameters()) == 1_276_508
    assert trunk(torch.zeros(2, 3, 32, 32)).shape == (2, 512)
    assert all(not p.any() for n, p in trunk.named_parameters() if n.endswith("bias"))
    with pytest.raises(ConfigError, match="n_c must be"):
        CifarCnn(n_c=0)
