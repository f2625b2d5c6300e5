"""The combination of two networks: folding is exact, the corners are the networks themselves, errors name the layer."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from engram.errors import ConfigError
from engram.networks import NETWORKS, by_name
from engram.parts.combining import Combiner
from engram.parts.statistics import norms_of, reestimated_statistics, refit_norms

D = torch.float64


# Networks of every kind of unit ---------------------------------------------------------------------------------
class Plain(nn.Module):
    """Convolutions with and without bias and batch norm, pooling, two linear layers; functional activations."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, padding=1)
        self.b = nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.c = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.d = nn.Linear(32, 12)
        self.norm_d = nn.BatchNorm1d(12)
        self.e = nn.Linear(12, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        x = torch.relu(self.norm(self.b(x)))
        x = F.max_pool2d(self.c(x).relu(), 2)
        x = self.norm_d(self.d(x.flatten(1))).relu()
        return self.e(x)


class Modules(nn.Sequential):
    """The same idea with modules only, an average pool inside a stretch, two convolutions in a row."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.Conv2d(4, 6, 1),
            nn.AvgPool2d(2, padding=1),
            nn.BatchNorm2d(6),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.BatchNorm2d(6),
            nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect"),
            nn.LeakyReLU(0.1),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(24, 7),
        )


class Unit(nn.Module):
    """Pre-activation units with an identity and a projection shortcut: two branches that meet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.n1, self.n2 = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.c1 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.c2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.m1, self.m2 = nn.BatchNorm2d(8), nn.BatchNorm2d(16)
        self.d1 = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
        self.d2 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.project = nn.Conv2d(8, 16, 1, stride=2, bias=False)
        self.last = nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.c2(self.n2(self.c1(self.n1(x).relu())).relu())
        h = self.m1(x).relu()
        x = self.project(x) + self.d2(self.m2(self.d1(h)).relu())
        return F.relu(self.last(x)).mean((2, 3))


class Post(nn.Module):
    """A post-activation unit: ReLU after the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.n, self.m = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return (self.m(self.b(self.n(self.a(x)).relu())) + x).relu().flatten(1)


class Twice(nn.Module):
    """A convolution called twice, the second time behind another batch norm; both norms are used once."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.n, self.m = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.m(self.conv(self.n(self.conv(x)).relu())).relu().flatten(1)


class Sequence(nn.Module):
    """Linear layers over the last of three axes, a one-dimensional convolution with its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 6)
        self.conv = nn.Conv1d(12, 5, 3, padding=1)
        self.norm = nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(self.a(x.reshape(-1, 12, 4)).relu())).relu()


UNITS = (Plain, Modules, Unit, Post, Twice, Sequence)


def randomised(net: nn.Module, seed: int) -> nn.Module:
    """Random weights, scales of either sign, random statistics; evaluation mode."""
    g = torch.Generator().manual_seed(seed)
    for name, t in net.state_dict().items():
        if t.dtype.is_floating_point:
            drawn = torch.randn(t.shape, generator=g, dtype=D)
            with torch.no_grad():
                t.copy_(drawn.abs() + 0.1 if name.endswith("running_var") else drawn)
    return net.eval()


def pair(make: Any, seed: int = 0, dtype: torch.dtype = D) -> tuple[nn.Module, nn.Module]:
    net = make().to(dtype)
    return randomised(net, 2 * seed), randomised(copy.deepcopy(net), 2 * seed + 1)


def random_alphas(combiner: Combiner, seed: int = 0) -> None:
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in combiner.parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=D))


def images(n: int = 4, dtype: torch.dtype = D) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(9), dtype=D).to(dtype)


# T1: folded equals combined -------------------------------------------------------------------------------------
@pytest.mark.parametrize("make", UNITS)
@pytest.mark.parametrize("per_channel", [True, False])
def test_folded_equals_combined(make: Any, per_channel: bool) -> None:
    for dtype, bound in ((D, 1e-10), (torch.float32, 1e-5)):
        for seed in range(5):
            source, target = pair(make, seed, dtype)
            combiner = Combiner(source, target, per_channel=per_channel)
            random_alphas(combiner, seed)
            with torch.no_grad():
                combined = combiner(source, target, images(dtype=dtype))
                folded = make().to(dtype).eval()
                folded.load_state_dict(combiner.fold(source, target))
                gap = (folded(images(dtype=dtype)) - combined).abs().max()
            scale = max(1.0, float(combined.abs().max()))
            assert float(gap) < bound * scale, (make.__name__, dtype, seed, float(gap), scale)
            assert folded.state_dict().keys() == source.state_dict().keys()
            assert {k: v.shape for k, v in folded.state_dict().items()} == {
                k: v.shape for k, v in source.state_dict().items()
            }


# All but `linear`, which has no layer below its head, and the residual critics of GANs, whose last norm asks how many
# images there are: they are refused in one line.
@pytest.mark.parametrize("name", sorted({*NETWORKS} - {"linear", "resgan", "resgan64"}))
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_every_network_of_ours_folds(name: str, norm: Any) -> None:
    network = by_name(name)()
    size = network.image_size or 8
    net = network.trunk((3, size, size), norm=norm).double()
    source, target = randomised(net, 1), randomised(copy.deepcopy(net), 2)
    combiner = Combiner(source, target)
    random_alphas(combiner)
    x = torch.rand(2, 3, size, size, dtype=D)
    with torch.no_grad():
        combined = combiner(source, target, x)
        folded = copy.deepcopy(source)
        folded.load_state_dict(combiner.fold(source, target))
        torch.testing.assert_close(folded(x), combined, rtol=1e-9, atol=1e-9)


def test_combining_weights_and_norms_separately_is_wrong() -> None:
    """Negative control: the product of two combinations is not the combination of the products."""
    source, target = pair(Unit)
    combiner = Combiner(source, target, start=(0.3, 0.4))
    with torch.no_grad():
        a, b = source.state_dict(), target.state_dict()
        mixed = {k: (1.3 * a[k] + 0.4 * b[k] if a[k].is_floating_point() else a[k]) for k in a}
        mixed |= {k: b[k] for k in b if "running" in k}
        wrong = Unit().double().eval()
        wrong.load_state_dict(mixed)
        combined = combiner(source, target, images())
        assert float((wrong(images()) - combined).norm() / combined.norm()) > 0.1


# T2 to T5: the corners ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("make", UNITS)
@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_alpha_zero_is_the_source_bit_for_bit(make: Any, dtype: torch.dtype) -> None:
    source, target = pair(make, dtype=dtype)
    combiner = Combiner(source, target, start=(0.0, 0.0))
    x = images(1000, dtype)
    with torch.no_grad():
        assert torch.equal(combiner(source, target, x), source(x))
        folded = copy.deepcopy(source)
        folded.load_state_dict(combiner.fold(source, target))
        scale = float(source(x).abs().max())
        assert float((folded(x) - source(x)).abs().max()) < (1e-10 if dtype is D else 1e-5) * max(1.0, scale)


@pytest.mark.parametrize("make", UNITS)
def test_alpha_minus_one_and_one_is_the_target_bit_for_bit(make: Any) -> None:
    source, target = pair(make)
    combiner = Combiner(source, target, start=(-1.0, 1.0))
    x = images(50)
    with torch.no_grad():
        assert torch.equal(combiner(source, target, x), target(x))  # -0.0 equals 0.0
        folded = copy.deepcopy(source)
        folded.load_state_dict(combiner.fold(source, target))
        torch.testing.assert_close(folded(x), target(x), rtol=1e-10, atol=1e-10)


def test_the_start_without_norms_is_the_mean_of_the_weights() -> None:
    net = by_name("mlp")().trunk((1, 8, 8)).double()
    source, target = randomised(net, 0), randomised(copy.deepcopy(net), 1)
    folded = Combiner(source, target).fold(source, target)
    for key, value in folded.items():
        torch.testing.assert_close(value, (source.state_dict()[key] + target.state_dict()[key]) / 2)


@settings(max_examples=15, deadline=None)
@given(alpha=st.floats(-3, 3), make=st.sampled_from(UNITS))
def test_equal_networks_and_opposite_alphas_are_the_source(alpha: float, make: Any) -> None:
    source, _ = pair(make)
    combiner = Combiner(source, source, start=(-alpha, alpha))
    with torch.no_grad():
        torch.testing.assert_close(combiner(source, source, images()), source(images()))


# T7, T14 --------------------------------------------------------------------------------------------------------
def test_gradient_of_alpha_is_upstream_times_branch() -> None:
    source, target = pair(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    combiner = Combiner(source, target)
    y = combiner(source, target, images())
    upstream = torch.randn_like(y)
    (y * upstream).sum().backward()
    (name,) = combiner.alpha_s
    for alphas, net in ((combiner.alpha_s, source), (combiner.alpha_t, target)):
        torch.testing.assert_close(alphas[name].grad, (upstream * net(images())).sum((0, 2, 3)))


def test_only_the_networks_own_modes_decide_on_statistics() -> None:
    source, target = pair(Unit)
    combiner = Combiner(source, target).train()
    target.train()
    before = [{k: v.clone() for k, v in net.state_dict().items()} for net in (source, target)]
    combiner(source, target, images())
    assert all(torch.equal(v, before[0][k]) for k, v in source.state_dict().items())
    moved = [k for k, v in target.state_dict().items() if not torch.equal(v, before[1][k])]
    assert moved
    assert all("running" in k or "tracked" in k for k in moved)


# Where stretches begin and end ----------------------------------------------------------------------------------
def test_one_pair_of_alphas_before_each_non_linearity_and_sum() -> None:
    def names(make: Any) -> list[str]:
        net = make()
        return [s.name for s in Combiner(net, net).stretches]

    assert names(Unit) == ["stem", "n1", "c1+n2", "c2", "m1", "project", "d1+m2", "d2", "last"]
    assert names(Plain) == ["a", "b+norm", "c", "d+norm_d", "e"]
    assert names(Modules) == ["0", "1+3+4", "7", "8", "12"]
    assert names(Twice) == ["conv", "n", "m"]
    combiner = Combiner(Unit(), Unit())
    assert combiner.n_channels == 8 * 4 + 8 + 16 * 4
    assert sum(p.numel() for p in combiner.parameters()) == 2 * combiner.n_channels


def test_a_wide_reader_ends_a_stretch() -> None:
    """The convolution's output is read twice, so its batch norm is a stretch of its own."""

    class Read(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.conv(x)
            return self.norm(h).relu() + h

    source, target = pair(Read)
    combiner = Combiner(source, target)
    assert [s.name for s in combiner.stretches] == ["conv", "norm"]
    random_alphas(combiner)
    folded = copy.deepcopy(source)
    folded.load_state_dict(combiner.fold(source, target))
    with torch.no_grad():
        torch.testing.assert_close(folded(images()), combiner(source, target, images()))


class InPlace(nn.Module):
    """The input of a stretch is changed in place before the stretch's last layer is called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return self.relu(x) + self.norm(h)


class Alias(nn.Module):
    """One layer under two names: its weights stand twice in the state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 3, 3, padding=1)
        self.b = self.a

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu())


class Reserved(nn.Module):
    """Layers called as methods of a dictionary are."""

    def __init__(self) -> None:
        super().__init__()
        self.keys, self.values = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.values(self.keys(x).relu())


class Keywords(nn.Module):
    """Layers called with keywords."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(input=self.conv(input=x)).relu()


class Single(nn.Module):
    """One image without a batch axis, as many channels as rows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x[0]).relu()


@pytest.mark.parametrize("make", [InPlace, Alias, Reserved, Keywords, Single])
def test_what_a_trace_can_get_wrong(make: Any) -> None:
    source, target = pair(make)
    combiner = Combiner(source, target, start=(0.0, 0.0))
    with torch.no_grad():
        assert torch.equal(combiner(source, target, images()), source(images()))
        random_alphas(combiner)
        folded = copy.deepcopy(source)
        folded.load_state_dict(combiner.fold(source, target))
        torch.testing.assert_close(folded(images()), combiner(source, target, images()))


def test_a_copy_of_a_combiner_combines_alike() -> None:
    source, target = pair(Unit)
    combiner = Combiner(source, target)
    random_alphas(combiner)
    other = copy.deepcopy(combiner)
    with torch.no_grad():
        assert torch.equal(other(source, target, images()), combiner(source, target, images()))
        for p in other.parameters():
            p.zero_()
        assert torch.equal(other(source, target, images()), source(images()))
        assert not torch.equal(combiner(source, target, images()), source(images()))


# Statistics -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("make", [Unit, Plain, Modules, Keywords])
def test_refitting_norms_keeps_evaluation_and_makes_training_mode_agree(make: Any) -> None:
    source, target = pair(make)
    combiner = Combiner(source, target)
    random_alphas(combiner)
    net = copy.deepcopy(source)
    net.load_state_dict(combiner.fold(source, target))
    x = images(64)
    with torch.no_grad():
        before = net(x)
        modes = [m.training for m in net.modules()]
        refit_norms(net, [x[:10], x[10:]])
        assert modes == [m.training for m in net.modules()]
        torch.testing.assert_close(net(x), before, rtol=1e-8, atol=1e-8)
        for m in norms_of(net):
            m.train()
        torch.testing.assert_close(net(x), before, rtol=1e-6, atol=1e-6)


def test_reestimated_statistics_are_the_mean_over_batches() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout()).double().train()
    x = images(12)
    with torch.no_grad(), reestimated_statistics(net):
        net(x[:6])
        net(x[6:])
    with torch.no_grad():
        z = net[0](x).transpose(0, 1)
    halves = [z[:, :6].flatten(1), z[:, 6:].flatten(1)]
    norm = norms_of(net)[0]
    torch.testing.assert_close(norm.running_mean, sum(h.mean(1) for h in halves) / 2)
    torch.testing.assert_close(norm.running_var, sum(h.var(1) for h in halves) / 2)
    assert norm.momentum == 0.1
    assert all(m.training for m in net.modules())


# Bad input ------------------------------------------------------------------------------------------------------
class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.sum() > 0 else x


class Modal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.layer(x), training=self.training)


class Loose(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.scale


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.layer(x + y)


def tied() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    net[2].weight = net[0].weight
    return net


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Branching, "traceable"),
        (Modal, "self.training"),
        (Loose, "scale"),
        (TwoInputs, "one tensor"),
        (tied, "0 and 2 share"),
        (nn.ReLU, "a layer that can be combined"),
        (lambda: nn.Sequential(nn.Linear(3, 3), nn.PReLU()), "1 (PReLU)"),
        (lambda: nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), "1 (LayerNorm)"),
        (lambda: nn.Sequential(nn.ConvTranspose2d(3, 3, 1)), "0 (ConvTranspose2d)"),
        (lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, affine=False)), "1 lacks"),
        (lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))), "0"),
    ],
)
def test_what_cannot_be_combined_is_named(make: Any, said: str) -> None:
    net = make()
    with pytest.raises(ConfigError) as error:
        Combiner(net, net)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_networks_of_different_shape_are_named() -> None:
    with pytest.raises(ConfigError, match=r"0\.weight is \(3, 2\) in the source and \(4, 2\) in the target"):
        Combiner(nn.Sequential(nn.Linear(2, 3)), nn.Sequential(nn.Linear(2, 4)))
    with pytest.raises(ConfigError, match=r"0\.bias is \(3,\) in the source and absent"):
        Combiner(nn.Sequential(nn.Linear(2, 3)), nn.Sequential(nn.Linear(2, 3, bias=False)))


def test_a_norm_over_another_axis_than_its_layer_is_refused() -> None:
    net = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
    with pytest.raises(ConfigError, match="flatten"):
        Combiner(net, net)(net, net, torch.zeros(2, 5, 3))


class Strided(nn.Module):
    def __init__(self, stride: int = 1, dilation: int = 1, twice: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=dilation, stride=stride, dilation=dilation)
        self.twice = twice

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x).relu()
        return h + h if self.twice else h


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        (Strided(), Strided(stride=2), r"conv is Conv2d.*stride=\(1, 1\).* and Conv2d.*stride=\(2, 2\)"),
        (Strided(), Strided(dilation=2), r"conv is .*dilation=\(2, 2\)"),
        (Strided(), Strided(twice=True), "forwards differ"),
        (nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.Sequential(nn.Linear(3, 3), nn.Tanh()), "1 is ReLU"),
        (nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.Sequential(nn.Linear(3, 3)), "1 is absent"),
    ],
)
def test_networks_that_differ_in_what_they_compute_are_refused(
    source: nn.Module, target: nn.Module, said: str
) -> None:
    """All have the same tensors: one network's folded weights would be put through the other's layers."""
    with pytest.raises(ConfigError, match=said):
        Combiner(source, target)


def test_rates_of_dropout_and_settings_of_norms_may_differ() -> None:
    def net(p: float, eps: float) -> nn.Module:
        return nn.Sequential(
            nn.Linear(3, 4), nn.BatchNorm1d(4, eps=eps), nn.Dropout(p), nn.Linear(4, 2)
        ).double()

    source, target = randomised(net(0.5, 1e-5), 0), randomised(net(0.0, 1e-3), 1)
    combiner = Combiner(source, target)
    random_alphas(combiner)
    x = torch.randn(5, 3, dtype=D)
    with torch.no_grad():
        combined = combiner(source, target, x)
        source.load_state_dict(combiner.fold(source, target))
        torch.testing.assert_close(source(x), combined)


def test_pooling_over_the_channels_of_a_stretch_is_refused() -> None:
    """One-dimensional pooling of [B, C] takes the batch for channels, and would mix features."""
    for first in (nn.Linear(6, 6), nn.BatchNorm1d(6)):
        source, target = pair(
            lambda first=first: nn.Sequential(first, nn.AvgPool1d(3, 1, 1), nn.BatchNorm1d(6))
        )
        with pytest.raises(ConfigError, match="1 reads 2: it would mix the channels of 0"):
            Combiner(source, target)(source, target, torch.zeros(4, 6, dtype=D))


def test_layers_with_forward_hooks_are_refused() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    net[0].register_forward_hook(lambda module, args, output: output.relu())
    with pytest.raises(ConfigError, match="0 has: remove them"):
        Combiner(net, net)
