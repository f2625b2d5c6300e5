"""The masked generator: sizes of the paper, initialisation, growth, masks, and old tasks under later ones."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from engram.core.contract import Context
from engram.core.network import Network
from engram.networks import Dcgan, Dcgan8
from engram.networks.masked import MaskedGenerator
from engram.parts.gan import Critic

Mask = Literal["weight", "unit"]
KINDS: tuple[Mask, ...] = ("weight", "unit")


def generator(
    mask: Mask = "weight", network: Network | None = None, channels: int = 1, **more: str
) -> MaskedGenerator:
    network = network or Dcgan8(n_f=3, n_z=10)
    size = network.image_size or 8
    shape = network.generator((channels, size, size), mask=mask)
    return MaskedGenerator(shape, mask=mask, **more)  # type: ignore[arg-type]


def choose(g: MaskedGenerator, seed: int, share: float = 0.4) -> list[Tensor]:
    r = torch.Generator().manual_seed(seed)
    return [torch.rand(g.mask_shape(i, g.current), generator=r) < share for i in range(len(g.weights))]


def live(
    g: MaskedGenerator, task: int, *, share: float = 0.4, grow: tuple[int, ...] = (2, 1)
) -> list[Tensor]:
    """A task without training: begun, given random masks, frozen, grown."""
    g.begin(task)
    on = choose(g, task, share)
    g.freeze(on)
    g.grow(grow)
    return on


def trainable(g: MaskedGenerator) -> int:
    """Masked weights, batch norms and output layers: what the paper's tables count (no embeddings)."""
    kept = [*g.weights, *g.norms.parameters(), *g.outputs.parameters()]
    return sum(p.numel() for p in kept)


# Sizes --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("mask", "channels", "masked", "total"),
    [
        ("weight", 1, 54912, 55092),
        ("weight", 3, 54912, 55284),
        ("unit", 1, 227840, 228440),
        ("unit", 3, 227840, 229080),
    ],
)
def test_dcgan_generator_sizes_are_those_of_the_reference(
    mask: Mask, channels: int, masked: int, total: int
) -> None:
    g = generator(mask, Dcgan(), channels)
    g.begin(0)
    assert g.n_weights() == masked == sum(w.numel() for w in g.weights)
    assert trainable(g) == total
    assert sum(p.numel() for p in g.norms.parameters()) == (84 if mask == "weight" else 280)


@pytest.mark.parametrize(("channels", "total"), [(1, 279723), (3, 281323)])
def test_dcgan_critic_sizes_are_those_of_the_reference(channels: int, total: int) -> None:
    critic = Critic(Context(Dcgan(), (channels, 32, 32), 10, "class", 0), "batch", 0)
    critic.classes.grow(10, 0, 0)
    assert sum(p.numel() for p in critic.parameters()) == total


@pytest.mark.parametrize(("mask", "n_f", "masked"), [("weight", 16, 12288), ("unit", 24, 24576)])
def test_dcgan8_sizes_are_pinned(mask: Mask, n_f: int, masked: int) -> None:
    g = generator(mask, Dcgan8(n_f=n_f))
    g.begin(0)
    assert g.n_weights() == masked == 32 * 2 * n_f * 4 + 2 * n_f * n_f * 16
    assert trainable(g) == masked + 6 * n_f + 16 * n_f
    critic = Critic(Context(Dcgan8(), (1, 8, 8), 10, "class", 0), "batch", 0)
    critic.classes.grow(10, 0, 0)
    assert sum(p.numel() for p in critic.parameters()) == 9 * 32 + 9 * 32 * 64 + 128 + 257 * 11


def test_images_have_the_right_shape_and_range() -> None:
    for network, size in ((Dcgan(), 32), (Dcgan8(), 8)):
        g = generator("weight", network, 3)
        g.begin(0)
        x = g(torch.randn(2, g.shape.n_z), 0, g.soft_gates(1.0), statistics=True)
        assert x.shape == (2, 3, size, size)
        assert (x.abs() <= 1).all()


# Initialisation -----------------------------------------------------------------------------------
def xavier_bound(w: Tensor) -> float:
    return math.sqrt(2.0) * math.sqrt(6.0 / ((w.shape[0] + w.shape[1]) * w.shape[2] * w.shape[3]))


def test_first_weights_are_xavier_for_weights_and_normal_for_units() -> None:
    for w in generator("weight", Dcgan()).weights[:2]:
        bound = xavier_bound(w)
        assert w.abs().max().item() <= bound
        assert w.abs().max().item() > 0.97 * bound
        assert w.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
        assert abs(w.mean().item()) < 4 * bound / math.sqrt(3 * w.numel())
    for w in generator("unit", Dcgan()).weights:
        assert w.std().item() == pytest.approx(0.02, rel=0.03)
        assert abs(w.mean().item()) < 4 * 0.02 / math.sqrt(w.numel())


def test_new_weights_are_normal_for_weights_and_xavier_for_units() -> None:
    for mask in KINDS:
        g = generator(mask, Dcgan())
        g.begin(0)
        before = [w.detach().clone() for w in g.weights]
        g.freeze(choose(g, 0))
        g.grow((40, 20, 10))
        for i in range(2):
            w, old = g.weights[i].detach(), before[i]
            fresh = torch.ones_like(w, dtype=torch.bool)
            fresh[: old.shape[0], : old.shape[1]] = False
            values = w[fresh]
            if mask == "weight":
                assert values.std().item() == pytest.approx(0.02, rel=0.03)
                assert values.abs().max().item() > 0.05
            else:
                bound = xavier_bound(w)
                assert values.abs().max().item() <= bound
                assert values.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)


def test_batch_norms_and_output_layers_start_as_the_reference_says() -> None:
    g = generator("unit", Dcgan())
    live(g, 0, grow=(4, 2, 1))
    g.begin(1)
    first, later = [torch.cat([n.weight.detach() for n in g.norms[t]]) for t in (0, 1)]  # type: ignore[union-attr]
    assert first.std().item() == pytest.approx(0.02, rel=0.3)
    assert first.mean().item() == pytest.approx(1.0, abs=0.01)
    assert (later == 1).all()
    for t in (0, 1):
        assert all((n.bias == 0).all() for n in g.norms[t])  # type: ignore[union-attr]
        out = g.outputs[t].weight.detach()  # type: ignore[union-attr]
        assert out.abs().max().item() <= 1 / math.sqrt(16)
        assert out.abs().max().item() > 0.95 / math.sqrt(16)


def test_growth_is_repeatable_and_depends_on_seed_and_task() -> None:
    def grown(seed: int) -> list[Tensor]:
        g = MaskedGenerator(
            Dcgan8(n_f=3, n_z=10).generator((1, 8, 8), mask="weight"), mask="weight", seed=seed
        )
        live(g, 0)
        live(g, 1)
        return [w.detach() for w in g.weights]

    torch.manual_seed(1)
    a = grown(0)
    torch.manual_seed(2)
    assert all(torch.equal(x, y) for x, y in zip(a, grown(0), strict=True))
    assert not torch.equal(a[0], grown(1)[0])


# Gates --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mask", KINDS)
def test_a_task_starts_with_half_open_gates(mask: Mask) -> None:
    g = generator(mask)
    live(g, 0)
    g.begin(1)
    gates = g.soft_gates(123.0)
    assert all((m == 0.5).all() for m in gates)
    assert all((e == 0).all() for e in g.embeddings)
    z = torch.randn(5, 10)
    found = g(z, 1, gates, statistics=True)
    # The plain network with halved weights (or halved activations).
    h = z[:, :, None, None]
    for i, layer in enumerate(g.shape.layers):
        w = g.weights[i] * (0.5 if mask == "weight" else 1.0)
        h = F.conv_transpose2d(h, w, stride=layer.stride, padding=layer.padding)
        h = F.batch_norm(h, None, None, g.norms[1][i].weight, g.norms[1][i].bias, training=True).relu()  # type: ignore[index]
        h = h * (1.0 if mask == "weight" else 0.5)
    assert torch.allclose(found, g.outputs[1](h).tanh(), atol=1e-6)


def test_masks_per_weight_of_ones_are_the_plain_network() -> None:
    g = generator("weight")
    g.begin(0)
    z = torch.randn(3, 10)
    ones = [torch.ones_like(w) for w in g.weights]
    h = z[:, :, None, None]
    for i, layer in enumerate(g.shape.layers):
        h = F.conv_transpose2d(h, g.weights[i], stride=layer.stride, padding=layer.padding)
        norm = g.norms[0][i]  # type: ignore[index]
        h = F.batch_norm(h, torch.zeros(h.shape[1]), torch.ones(h.shape[1]), norm.weight, norm.bias).relu()
    assert torch.equal(g(z, 0, ones), g.outputs[0](h).tanh())


@pytest.mark.parametrize(("act_gate", "silent"), [("post", True), ("pre_bn", False)])
def test_a_closed_unit_is_silent_only_with_the_gate_after_the_relu(act_gate: str, silent: bool) -> None:
    g = generator("unit", act_gate=act_gate)
    g.begin(0)
    with torch.no_grad():
        for norm in g.norms[0]:  # type: ignore[union-attr]
            norm.bias.fill_(0.5)
    gates = [torch.ones(w) for w in g.current]
    gates[0][1] = 0.0
    z = torch.randn(4, 10)
    before = g(z, 0, gates)
    with torch.no_grad():
        g.weights[1][1] += 1.0  # what the closed unit feeds
    assert torch.equal(before, g(z, 0, gates)) is silent


def test_closing_a_weight_removes_its_influence() -> None:
    g = generator("weight")
    g.begin(0)
    gates = [torch.ones_like(w) for w in g.weights]
    gates[1][0, 1, 2, 3] = 0.0
    z = torch.randn(4, 10)
    before = g(z, 0, gates)
    with torch.no_grad():
        g.weights[1][0, 1, 2, 3] += 5.0
    assert torch.equal(before, g(z, 0, gates))
    with torch.no_grad():
        g.weights[1][0, 1, 2, 2] += 5.0
    assert not torch.equal(before, g(z, 0, gates))


# Freezing and growing -----------------------------------------------------------------------------
@pytest.mark.parametrize("mask", KINDS)
def test_stored_masks_are_binary_and_what_was_given(mask: Mask) -> None:
    g = generator(mask)
    given = [live(g, t) for t in range(3)]
    for t, on in enumerate(given):
        for m, b in zip(on, g.binary_gates(t), strict=True):
            assert torch.equal(m.float(), b)


@pytest.mark.parametrize("mask", KINDS)
def test_cumulated_mask_is_the_union_and_zero_on_new_units(mask: Mask) -> None:
    g = generator(mask)
    union: list[Tensor] = []
    for t in range(3):
        g.begin(t)
        for i, old in enumerate(union):
            block = tuple(slice(0, n) for n in old.shape)
            now = g.reserved[i]
            assert torch.equal(now[block], old)
            outside = torch.ones_like(now)
            outside[block] = False
            assert not now[outside].any()
        on = choose(g, t)
        before = [r.clone() for r in g.reserved]
        g.freeze(on)
        union = [b | m for b, m in zip(before, on, strict=True)]
        assert all(torch.equal(g.reserved[i], u) for i, u in enumerate(union))
        g.grow((2, 1))


@pytest.mark.parametrize("mask", KINDS)
def test_old_masks_ignore_new_units_and_widths_stay(mask: Mask) -> None:
    g = generator(mask)
    at_the_time = []
    for t in range(3):
        g.begin(t)
        at_the_time.append(list(g.current))
        g.freeze(choose(g, t))
        g.grow((2, 1))
    assert g.widths == at_the_time == [[6, 3], [8, 4], [10, 5]]
    assert g.current == [12, 6]
    for t, widths in enumerate(at_the_time):
        for i, m in enumerate(g.binary_gates(t)):
            assert tuple(m.shape) == g.mask_shape(i, widths)
        assert [n.num_features for n in g.norms[t]] == widths  # type: ignore[union-attr]
    shapes = [tuple(w.shape[:2]) for w in g.weights]
    assert shapes == [(10, 12), (12, 6)]  # the inputs of a layer are the outputs of the one before


@pytest.mark.parametrize("mask", KINDS)
def test_reserved_is_the_sum_of_newly_reserved(mask: Mask) -> None:
    g = generator(mask)
    newly = [0, 0]
    for t in range(4):
        g.begin(t)
        for row in g.freeze(choose(g, t)):
            assert row["used"] == row["newly"] + row["reused"]
            assert row["size"] == math.prod(g.mask_shape(row["layer"], g.current))
            newly[row["layer"]] += row["newly"]
        assert [int(g.reserved[i].sum()) for i in range(2)] == newly
        g.grow((2, 1))


def test_growing_keeps_the_old_block_and_nothing_else_changes() -> None:
    g = generator("weight")
    g.begin(0)
    g.freeze(choose(g, 0))
    before = [w.detach().clone() for w in g.weights]
    state = {k: v.clone() for k, v in g.state_dict().items() if k.startswith(("norms", "outputs", "mask_"))}
    g.grow((2, 0))
    for w, old in zip(g.weights, before, strict=True):
        assert torch.equal(w[: old.shape[0], : old.shape[1]], old)
    assert all(torch.equal(v, g.state_dict()[k]) for k, v in state.items())
    g.grow((0, 0))
    assert g.current == [8, 3]


def test_growth_per_unit_replaces_what_was_reserved() -> None:
    assert generator("unit").growth([3, 0], "per_task") == [3, 0]


@pytest.mark.parametrize("mask", KINDS)
def test_old_tasks_generate_the_same_bits_while_free_weights_change(mask: Mask) -> None:
    g = generator(mask)
    z = torch.randn(20, 10)
    images: list[Tensor] = []
    for t in range(4):
        g.begin(t)
        blocked = g.blocked()
        with torch.no_grad():
            for w, b in zip(g.weights, blocked, strict=True):
                w.copy_(torch.where(b, w, torch.randn_like(w)))
        g.train()
        for _ in range(3):
            g(z, t, g.soft_gates(2.0), statistics=True)
        g.freeze(choose(g, t))
        images.append(g(z, t, g.binary_gates(t)).detach())
        g.grow((2, 1))
        for old, x in enumerate(images):
            assert torch.equal(g(z, old, g.binary_gates(old)), x)


# Statistics and state -----------------------------------------------------------------------------
def test_running_statistics_move_only_when_asked_in_training() -> None:
    g = generator("weight")
    g.begin(0)
    z = torch.randn(6, 10)

    def statistics() -> list[Tensor]:
        return [b.clone() for b in g.norms.buffers()]

    def moved(before: list[Tensor]) -> bool:
        return not all(torch.equal(a, b) for a, b in zip(before, statistics(), strict=True))

    before = statistics()
    g(z, 0, g.soft_gates(1.0))
    assert not moved(before)
    g.eval()
    g(z, 0, g.soft_gates(1.0), statistics=True)
    assert not moved(before)
    g.train()
    g(z, 0, g.soft_gates(1.0), statistics=True)
    assert moved(before)


@pytest.mark.parametrize("mask", KINDS)
def test_rebuilding_makes_room_for_the_state(mask: Mask) -> None:
    g = generator(mask)
    live(g, 0)
    live(g, 1)
    g.begin(2)
    fresh = generator(mask)
    fresh.rebuild(g.structure())
    fresh.load_state_dict(g.state_dict(), strict=True)
    z = torch.randn(3, 10)
    for t in range(2):
        assert torch.equal(g(z, t, g.binary_gates(t)), fresh(z, t, fresh.binary_gates(t)))
    assert fresh.structure() == g.structure()


@pytest.mark.parametrize("mask", KINDS)
def test_storage_is_the_formula_of_the_reference(mask: Mask) -> None:
    g = generator(mask)
    for t in range(3):
        live(g, t)
    areas = [layer.kernel**2 for layer in g.shape.layers]
    p = sum(i * o * a for i, o, a in zip([10, g.current[0]], g.current, areas, strict=True))
    bits = norms = heads = 0
    for w in g.widths:
        sizes = [10 * w[0] * areas[0], w[0] * w[1] * areas[1]] if mask == "weight" else w
        bits += sum(math.ceil(n / 8) for n in sizes)
        norms += 4 * 4 * sum(w)
        heads += 4 * w[-1] * 16
    found = g.storage_bytes()
    assert found == {"weights": 4 * p, "masks": bits, "norms_and_heads": norms + heads}


def test_nearest_upsampling_has_its_sizes_and_keeps_old_images() -> None:
    network = Dcgan(n_f=3, n_z=16, upsample="nearest")
    g = generator(network=network, channels=3)
    assert g.n_weights() == 16 * 12 * 16 + (12 * 6 + 6 * 3) * 9
    z = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    live(g, 0, grow=(2, 1, 1))
    old = g(z, 0, g.binary_gates(0))
    assert old.shape == (4, 3, 32, 32)
    live(g, 1, grow=(2, 1, 1))
    assert torch.equal(g(z, 0, g.binary_gates(0)), old)
    # All four pixels made of one see the same kernel: of constant channels comes a constant inside.
    flat = F.interpolate(torch.ones(1, 3, 16, 16), scale_factor=2)
    inside = g.outputs[0](flat)[..., 1:-1, 1:-1]
    assert torch.allclose(inside, inside[..., :1, :1].expand_as(inside), atol=1e-6)
