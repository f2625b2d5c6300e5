"""Incremental Moment Matching by hand: what a merge keeps, joint optima of quadratics, and both ends of the ratio."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from quadratics import THETA, Bare
from torch import Tensor, nn

from engram.checks import tiny_domains, tiny_stream
from engram.checks.comparing import copied, same
from engram.core.contract import Context
from engram.core.network import Network
from engram.errors import ConfigError
from engram.learning.loop import EpochEnd, train_task
from engram.learning.state import LoopState
from engram.methods.registry import method
from engram.networks import Mlp, PreactResnet
from engram.parts import task_importance
from engram.protocols.protocol import Protocol

D = torch.float64
NAMES = ["imm-mean", "imm-mode", "averaging"]


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=D)


def fishers(monkeypatch: pytest.MonkeyPatch, *values: Tensor) -> None:
    """The Fisher information of each task in turn."""
    given = iter(values)
    monkeypatch.setattr(
        task_importance, "diagonal_fisher", lambda m, p, *a, **k: {"trunk.theta": next(given).clone()}
    )


# Quadratics -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("ratio", "ends"), [(0.25, (1.0, 2.5, 0.25 * 2.5 + 0.75 * 7)), (None, (1.0, 2.0, 11 / 3))]
)
def test_mean_of_three_scalar_quadratics(ratio: float | None, ends: tuple[float, ...]) -> None:
    """Each task ends at its optimum 1, 3, 7; no ratio gives the mean of all three."""
    bare = Bare("averaging", tensor(0.3), ratio=ratio)
    for a, end in zip((1.0, 3.0, 7.0), ends, strict=True):
        bare.task(lambda x, a=a: x - a, 400)
        assert float(bare.theta) == pytest.approx(end, abs=1e-12)


def test_mode_of_quadratics_is_their_joint_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    """L_k = sum_i F_ki (theta_i - a_ki)^2 / 2: the mode with equal weights minimises their sum."""
    g = torch.Generator().manual_seed(0)
    f, a = torch.rand(3, 5, generator=g, dtype=D) + 0.1, torch.randn(3, 5, generator=g, dtype=D)
    fishers(monkeypatch, *f)
    bare = Bare("imm-mode", torch.zeros(5, dtype=D), lr=0.5, l2=0.0, ratio=None)
    for k in range(3):
        bare.task(lambda x, k=k: f[k] * (x - a[k]), 2000)
    torch.testing.assert_close(bare.theta, (f * a).sum(0) / f.sum(0), rtol=1e-6, atol=1e-6)


def test_mode_with_a_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    fishers(monkeypatch, tensor(2.0), tensor(6.0))
    bare = Bare("imm-mode", tensor(0.0), l2=0.0, ratio=0.8)
    for a in (1.0, 3.0):
        bare.task(lambda x, a=a: x - a, 400)
    p = 0.8 * 2 + 0.2 * 6
    assert float(bare.theta) == pytest.approx((0.8 * 2 * 1 + 0.2 * 6 * 3) / p, rel=1e-7)
    assert float(bare.method.precision[THETA]) == pytest.approx(p, rel=1e-7)  # type: ignore[union-attr, index]


def test_equal_fishers_make_the_mode_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    fishers(monkeypatch, *[tensor(0.7, 0.7)] * 3)
    found = {}
    for name in ("imm-mean", "imm-mode"):
        bare = Bare(name, tensor(0.0, 0.0), ratio=0.3)
        for a in (1.0, 3.0, -2.0):
            bare.task(lambda x, a=a: x - a * tensor(1.0, 2.0), 50)
        found[name] = bare.theta
    torch.testing.assert_close(found["imm-mode"], found["imm-mean"], rtol=1e-14, atol=1e-14)


def test_mode_lies_between_the_networks_and_follows_certainty(monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(1)
    ends = [torch.randn(50, generator=g, dtype=D) for _ in range(2)]
    f = [10 ** (8 * torch.rand(50, generator=g, dtype=D) - 4) for _ in range(2)]
    f[1][:3], f[0][3:6] = 0.0, 0.0
    fishers(monkeypatch, *f)
    bare = Bare("imm-mode", torch.zeros(50, dtype=D), lr=1.0, l2=0.0)
    for end in ends:
        bare.task(lambda x, end=end: x - end, 1)
    low, high = torch.minimum(*ends), torch.maximum(*ends)
    assert bool(((bare.theta >= low) & (bare.theta <= high)).all())
    # A Fisher information of 0 leaves 1e-8 against the other's.
    torch.testing.assert_close(bare.theta[:3], ends[0][:3], rtol=0, atol=1e-3)
    torch.testing.assert_close(bare.theta[3:6], ends[1][3:6], rtol=0, atol=1e-3)


def test_transfer_has_no_factor_one_half() -> None:
    """(x - 3) + 2 lambda (x - 1) = 0, then the mean with 1."""
    bare = Bare("imm-mean", tensor(0.0), l2=2.0, ratio=0.5)
    bare.task(lambda x: x - 1.0, 400)
    path = bare.task(lambda x: x - 3.0, 400)
    assert float(path[-1]) == pytest.approx((3 + 4 * 1) / 5, abs=1e-12)
    assert float(bare.theta) == pytest.approx((1 + 7 / 5) / 2, abs=1e-12)


def test_one_task_is_left_as_it_is() -> None:
    for name in ("imm-mean", "averaging"):
        bare = Bare(name, tensor(0.25, -1.0), ratio=0.9)
        path = bare.task(lambda x: x.cos(), 3)
        assert torch.equal(bare.theta, path[-1])


# Networks ---------------------------------------------------------------------------------------------------
NORMED = PreactResnet((1,), (4,))


def learn(
    name: str, scenario: str = "task", n_tasks: int = 2, network: Network = NORMED, **options: Any
) -> tuple[Any, dict[str, Tensor]]:
    """The method after some tiny tasks, and its state after the last epoch, before the last merge."""
    stream = tiny_domains(3) if scenario == "domain" else tiny_stream((2, 2, 1))
    spec = method(name, {"epochs": 2, "batch_size": 6, **options})
    made = spec.make(spec.config, Context(network, (1, 8, 8), stream.n_classes, scenario, 0))  # type: ignore[arg-type]
    state, held = LoopState(), {}

    def keep(_: EpochEnd) -> None:
        held.update(copied(made.state_dict()))

    for i in range(n_tasks):
        train_task(made, Protocol(scenario).task(stream, i), stream.train(i), state, 0, on_epoch=keep)  # type: ignore[arg-type]
    return made, held


def net(made: nn.Module) -> dict[str, Tensor]:
    return {k: v for k, v in copied(made.state_dict()).items() if k.startswith("net.")}


@pytest.mark.parametrize("scenario", ["task", "domain"])
@pytest.mark.parametrize("name", NAMES)
def test_both_ends_of_the_ratio(name: str, scenario: str) -> None:
    """One-hot weights give one of the two networks, bit for bit, running statistics included."""
    after_one = net(learn(name, scenario, 1)[0])
    old, before = learn(name, scenario, ratio=1.0)
    new, _ = learn(name, scenario, ratio=0.0)
    for k, v in net(old).items():
        if "head" in k and scenario == "task":
            assert same(v, before[k])  # real heads are not merged
        elif not k.endswith("num_batches_tracked"):
            assert same(v, after_one[k]), k
    assert all(same(v, before[k]) for k, v in net(new).items())


@pytest.mark.parametrize("scenario", ["task", "domain"])
def test_mean_is_the_straight_line(scenario: str) -> None:
    """Weights, scale and offset of normalisation and its running statistics, all at the same ratio."""
    ends = [net(learn("averaging", scenario, ratio=r)[0]) for r in (0.0, 1.0)]
    found = net(learn("averaging", scenario, ratio=0.3)[0])
    moved = 0
    for k, v in found.items():
        if k.endswith("num_batches_tracked"):
            continue
        torch.testing.assert_close(v, 0.7 * ends[0][k] + 0.3 * ends[1][k], rtol=1e-5, atol=1e-6)
        moved += not same(v, ends[0][k])
    assert moved == sum("trunk" in k or scenario == "domain" for k in found if "num_batches" not in k)


def test_next_task_starts_from_the_merged_network() -> None:
    made, _ = learn("averaging", ratio=1.0, n_tasks=3)
    first = net(learn("averaging", n_tasks=1)[0])
    for k, v in net(made).items():
        if "trunk" in k and not k.endswith("num_batches_tracked"):
            assert same(v, first[k]), k


def test_mode_uses_the_fisher_information_of_both_networks() -> None:
    """The formula, entry by entry, with F of each network taken before it is merged."""
    first, _ = learn("imm-mode", n_tasks=1, l2=0.0)
    made, before = learn("imm-mode", l2=0.0, ratio=0.4)
    for name in made.precision.names:
        p1, p2 = first.precision[name].double(), made.precision[name].double()
        f2 = (p2 - 0.4 * p1) / 0.6
        old, new = first.state_dict()[name].double(), before[name].double()
        torch.testing.assert_close(
            made.state_dict()[name].double(), (0.4 * p1 * old + 0.6 * f2 * new) / p2, rtol=1e-4, atol=1e-5
        )
    assert made.precision.names == [n for n, _ in made.named_parameters() if ".trunk." in n]
    assert all(float(p.min()) >= 1e-8 for p in made.precision.values())


@pytest.mark.parametrize("name", ["imm-mean", "imm-mode"])
def test_recomputed_statistics_are_those_of_the_new_data(name: str) -> None:
    """One batch of all samples: the first normalisation's statistics are mean and variance of what it receives."""
    made, _ = learn(name, statistics="recompute", batch_size=1000, ratio=0.5)
    plain, _ = learn(name, statistics="merge", batch_size=1000, ratio=0.5)
    stream, trunk = tiny_stream((2, 2, 1)), made.net.trunk
    with torch.no_grad():
        h = trunk.stem(NORMED.normalise(stream.train(1).x))
    torch.testing.assert_close(trunk.units[0].bn1.running_mean, h.mean((0, 2, 3)))
    torch.testing.assert_close(trunk.units[0].bn1.running_var, h.var((0, 2, 3)))
    assert trunk.units[0].bn1.momentum == 0.1
    for k, v in net(made).items():
        if "running" not in k and "num_batches" not in k:
            assert same(v, net(plain)[k]), k
    assert not same(trunk.bn.running_var, plain.net.trunk.bn.running_var)


def test_between_tasks_only_the_network_and_its_precision_are_kept() -> None:
    for name, kept in (("averaging", 0), ("imm-mode", 1)):
        made, _ = learn(name, network=Mlp((9,)))
        trunk = sum(p.numel() * p.element_size() for p in made.net.trunk.parameters())
        assert made.storage_bytes()["other"] == kept * trunk
        assert not made.source.names


def test_bad_use_gives_one_line() -> None:
    spec = method("averaging")
    with pytest.raises(ConfigError, match=r"^imm-mean.ratio must be a number in \[0, 1\] or none"):
        method("imm-mean", ratio=1.5)
    with pytest.raises(
        ConfigError, match=r"^scenario must be one of domain, task for Imm, got 'class'[^\n]*$"
    ):
        spec.make(spec.config, Context(Mlp(), (1, 8, 8), 2, "class", 0))
    with pytest.raises(ConfigError, match=r"^options of averaging[^\n]*got 'l2'[^\n]*$"):
        method("averaging", l2=1.0)
