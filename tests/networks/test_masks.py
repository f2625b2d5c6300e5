"""Masks as functions, against the paper's formulas and worked figures (numbers: DGM reference, section 7)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engram.networks import masks

I = 101


# Annealing ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("s_max", "table"),
    [
        (1e4, {0: 1e-4, 1: 99.0, 50: 4950.0, 100: 9901.0}),
        (1e5, {0: 1e-5, 1: 990.0, 50: 49505.0, 100: 99010.0}),
    ],
)
def test_official_annealing_gives_the_released_slopes(s_max: float, table: dict[int, float]) -> None:
    for epoch, s_e in table.items():
        found = masks.slope_of_epoch(s_max, epoch, I, "official")
        assert found == pytest.approx(s_e, rel=1e-9 if epoch == 0 else 2e-4)


def test_paper_annealing_runs_from_one_over_s_max_to_s_max() -> None:
    assert masks.slope_of_epoch(1e4, 0, I, "paper") == pytest.approx(1e-4)
    assert masks.slope_of_epoch(1e4, 50, I, "paper") == pytest.approx(1e-4 + (1e4 - 1e-4) / 2)
    assert masks.slope_of_epoch(1e4, 100, I, "paper") == pytest.approx(1e4)
    assert masks.slope_of_step(50.0, 0, 9, "paper") == pytest.approx(1 / 50)
    assert masks.slope_of_step(50.0, 8, 9, "paper") == pytest.approx(50.0)


def test_shifted_annealing_starts_one_step_up_and_reaches_s_max() -> None:
    assert masks.slope_of_epoch(1e4, 0, I, "shifted") == pytest.approx(1e-4 + (1e4 - 1e-4) / I)
    assert masks.slope_of_epoch(1e4, 100, I, "shifted") == 1e4


@pytest.mark.parametrize("kind", ["paper", "shifted", "official"])
@given(s_max=st.floats(2, 1e6), n=st.integers(1, 50), steps=st.integers(1, 60))
def test_slopes_increase_within_their_bounds(kind: masks.Annealing, s_max: float, n: int, steps: int) -> None:
    epochs = [masks.slope_of_epoch(s_max, e, n, kind) for e in range(n)]
    assert epochs == sorted(epochs)
    assert len(set(epochs)) == n
    assert epochs[0] >= 1 / s_max * (1 - 1e-9)
    assert epochs[-1] <= s_max * (1 + 1e-9)
    for s_e in epochs:
        inner = [masks.slope_of_step(s_e, b, steps, kind) for b in range(steps)]
        if s_e >= 1 + 1e-6:
            assert inner == sorted(inner)
            assert max(inner) <= s_e * (1 + 1e-9)
            if steps > 1:
                assert inner[0] == pytest.approx(1 / s_e)


def test_the_first_epoch_of_paper_and_official_runs_downwards() -> None:
    # B5: as printed and as released; the default does not.
    for kind in ("paper", "official"):
        s_e = masks.slope_of_epoch(1e4, 0, I, kind)  # type: ignore[arg-type]
        assert masks.slope_of_step(s_e, 0, 10, kind) > masks.slope_of_step(s_e, 5, 10, kind)  # type: ignore[arg-type]
    s_e = masks.slope_of_epoch(1e4, 0, I, "shifted")
    assert masks.slope_of_step(s_e, 0, 10, "shifted") < masks.slope_of_step(s_e, 5, 10, "shifted")


# Gates and their gradients ------------------------------------------------------------------------
@given(s=st.floats(1e-5, 1e5))
def test_gates_start_at_one_half_whatever_the_slope(s: float) -> None:
    assert (masks.gate(torch.zeros(4), s) == 0.5).all()


def embeddings_and_slopes() -> list[tuple[Tensor, float, float]]:
    g = torch.Generator().manual_seed(0)
    out = []
    for s in (0.01, 1.0, 7.0, 300.0):
        e = (torch.rand(200, generator=g, dtype=torch.float64) * 2 - 1) * min(15.0 / s, 6.0)
        out.append((e, s, max(s, 1.0) * 3))
    return out


@pytest.mark.parametrize(("e", "s", "s_e"), embeddings_and_slopes())
def test_compensated_gradient_is_independent_of_the_slope(e: Tensor, s: float, s_e: float) -> None:
    upstream = torch.linspace(-2, 2, len(e), dtype=torch.float64)  # dLoss/dm
    leaf = e.clone().requires_grad_(True)
    (q,) = torch.autograd.grad((masks.gate(leaf, s) * upstream).sum(), leaf)
    found = masks.compensate(q.clone(), e, s, s_e)
    sigmoid = torch.sigmoid(e)
    expected = upstream * s_e * sigmoid * (1 - sigmoid)
    # 1 - m loses digits as s e grows: its own rounding, exp(15) * 1e-16, bounds what is possible.
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-12)


def test_at_zero_the_factor_is_the_ratio_of_slopes() -> None:
    q = torch.tensor([1.0, -2.0], dtype=torch.float64)
    found = masks.compensate(q.clone(), torch.zeros(2, dtype=torch.float64), 4.0, 20.0)
    assert torch.allclose(found, q * 5.0, rtol=1e-15)


def test_compensation_clamps_the_product_at_fifty() -> None:
    e = torch.tensor([1.0], dtype=torch.float64)
    found = masks.compensate(torch.ones(1, dtype=torch.float64), e, 1000.0, 1000.0)
    assert found.item() == pytest.approx((math.cosh(50) + 1) / (math.cosh(1) + 1))
    assert e.item() == 1.0


def test_closed_form_gradient_equals_autograd_where_both_can_and_does_not_vanish() -> None:
    e = torch.linspace(-3, 3, 61, dtype=torch.float64, requires_grad=True)
    (auto,) = torch.autograd.grad(masks.gate(e, 4.0).sum(), e)
    (closed,) = torch.autograd.grad(masks.gate(e, 4.0, closed_form=True).sum(), e)
    assert torch.allclose(auto, closed, rtol=1e-8)
    assert torch.equal(masks.gate(e, 4.0), masks.gate(e, 4.0, closed_form=True))
    high = torch.tensor([20.0], requires_grad=True)
    (auto,) = torch.autograd.grad(masks.gate(high, 1.0).sum(), high)
    (closed,) = torch.autograd.grad(masks.gate(high, 1.0, closed_form=True).sum(), high)
    assert auto.item() == 0.0
    assert closed.item() == pytest.approx(math.exp(-20), rel=1e-4)


def test_closed_form_gradient_against_finite_differences() -> None:
    e = torch.linspace(-2, 2, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: masks.gate(x, 3.0, closed_form=True), (e,))


# Sparsity -----------------------------------------------------------------------------------------
def test_regulariser_is_one_half_at_the_start() -> None:
    shapes = [(7, 5, 2, 2), (5, 3, 4, 4)]
    gates = [torch.full(s, 0.5) for s in shapes]
    assert masks.sparsity(gates, [torch.zeros(s, dtype=torch.bool) for s in shapes]).item() == 0.5
    some = [torch.rand(s) > 0.3 for s in shapes]
    assert masks.sparsity(gates, some).item() == pytest.approx(0.5)


def test_regulariser_by_hand() -> None:
    gates = [torch.tensor([0.2, 0.4, 1.0]), torch.tensor([0.6, 0.0])]
    reserved = [torch.tensor([False, True, False]), torch.tensor([False, True])]
    # One denominator over all layers: (0.2 + 1.0 + 0.6) / 3 free elements.
    assert masks.sparsity(gates, reserved).item() == pytest.approx(0.6)


def test_reserved_elements_are_free_of_charge() -> None:
    m = torch.tensor([1.0, 0.0, 1.0, 0.0], requires_grad=True)
    reserved = torch.tensor([True, False, True, False])
    r = masks.sparsity([m], [reserved])
    (grad,) = torch.autograd.grad(r, m)
    assert r.item() == 0.0
    assert grad.tolist() == [0.0, 0.5, 0.0, 0.5]


def test_regulariser_where_nothing_is_free() -> None:
    assert masks.sparsity([torch.ones(3)], [torch.ones(3, dtype=torch.bool)]).item() == 0.0


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=20))
def test_regulariser_lies_in_zero_to_one(entries: list[tuple[float, bool]]) -> None:
    m, r = torch.tensor([e[0] for e in entries]), torch.tensor([e[1] for e in entries])
    assert 0.0 <= masks.sparsity([m], [r]).item() <= 1.0 + 1e-6


# What is blocked ----------------------------------------------------------------------------------
def test_units_block_weights_between_reserved_units_only() -> None:
    below, own = torch.tensor([True, False, True]), torch.tensor([True, False])
    blocked = masks.blocked_weights(own, below)
    assert blocked.shape == (3, 2, 1, 1)
    for p in range(3):
        for q in range(2):
            assert (blocked[p, q] == bool(min(below[p], own[q]))).all()
    first = masks.blocked_weights(own, None)
    assert first.shape == (1, 2, 1, 1)
    assert first[0, :, 0, 0].tolist() == [True, False]


def chain(n_z: int) -> Callable[[int, Sequence[int]], int]:
    """Inputs of layers that read one another."""
    return lambda i, widths: widths[i - 1] if i else n_z


# Growth -------------------------------------------------------------------------------------------
def test_worked_check_of_the_reference() -> None:
    new = masks.growth_per_weight([24, 12, 6], chain(128), [16, 16, 16], [19660, 1843, 460])
    assert new == [10, 0, 3]
    widths = [34, 12, 9]
    sizes = [128 * 34 * 16, 34 * 12 * 16, 12 * 9 * 16]
    assert sizes == [69632, 6528, 1728]
    assert sum(sizes) == 77888
    assert 19660 + 1843 + 460 == 21963
    assert sum(sizes) - 21963 == 55925 >= 54912
    # At a constant 40 % of the free weights for ten tasks: 124-12-36 and 284672 weights.
    widths = [24, 12, 6]
    initial = [49152, 4608, 1152]
    for _ in range(10):
        n = [round(0.4 * p) for p in initial]
        widths = [
            w + d
            for w, d in zip(widths, masks.growth_per_weight(widths, chain(128), [16] * 3, n), strict=True)
        ]
    assert widths == [124, 12, 36]
    assert 16 * (128 * 124 + 124 * 12 + 12 * 36) == 284672


@pytest.mark.parametrize(
    ("inputs", "widths", "area", "newly", "expected"),
    [
        (8, [4, 6], 2, [0, 0], [0, 0]),  # nothing used
        (8, [4, 6], 2, [16, 0], [1, 0]),  # n mod I K = 0; the second layer's credit exceeds its need
        (8, [4, 6], 2, [17, 0], [2, 0]),  # rounded up
        (8, [4, 6], 2, [16, 12], [1, 0]),  # credit 1 * 6 * 2 equals the need
        (8, [4, 6], 2, [16, 13], [1, 1]),  # one more than the credit: ceil(1 / ((4 + 1) 2))
        (8, [4, 6], 2, [64, 48], [4, 0]),  # all free weights: layer 1 doubles, the credit 48 pays for layer 2
        (8, [4, 6], 2, [0, 48], [0, 6]),  # all of layer 2 alone
    ],
)
def test_growth_table(
    inputs: int, widths: list[int], area: int, newly: list[int], expected: list[int]
) -> None:
    assert masks.growth_per_weight(widths, chain(inputs), [area, area], newly) == expected


NEWLY = st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=6)


@settings(max_examples=60)
@given(share=NEWLY, rule=st.sampled_from(["per_task", "carry"]))
def test_free_capacity(share: list[list[float]], rule: str) -> None:
    areas, n_z, widths = [16, 16, 16], 32, [8, 4, 2]

    def sizes(w: list[int]) -> list[int]:
        return [i * o * a for i, o, a in zip([n_z, *w[:-1]], w, areas, strict=True)]

    initial = sizes(widths)
    reserved = [0, 0, 0]
    for part in share:
        free = [p - r for p, r in zip(sizes(widths), reserved, strict=True)]
        newly = [int(f * s) for f, s in zip(free, part, strict=True)]
        reserved = [r + n for r, n in zip(reserved, newly, strict=True)]
        new = masks.growth_per_weight(
            widths,
            chain(n_z),
            areas,
            newly,
            rule=rule,
            reserved=reserved,
            initial=initial,  # type: ignore[arg-type]
        )
        assert all(d >= 0 for d in new)
        grown = [w + d for w, d in zip(widths, new, strict=True)]
        free_now = [p - r for p, r in zip(sizes(grown), reserved, strict=True)]
        for i in range(3):
            inputs = n_z if i == 0 else grown[i - 1]
            credit = 0 if i == 0 else new[i - 1] * widths[i] * areas[i]
            if rule == "per_task":
                step = free_now[i] - free[i]
                assert step >= 0
                assert step < inputs * areas[i] if new[i] > 0 else step == credit - newly[i]
            else:
                assert free_now[i] >= initial[i]
                assert free_now[i] - initial[i] < inputs * areas[i] or new[i] == 0
        widths = grown


# Packing ------------------------------------------------------------------------------------------
@given(shape=st.lists(st.integers(1, 6), min_size=1, max_size=4), seed=st.integers(0, 9))
def test_packed_masks_round_trip(shape: list[int], seed: int) -> None:
    m = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) > 0.4
    bits = masks.pack(m)
    assert bits.dtype == torch.uint8
    assert len(bits) == math.ceil(m.numel() / 8)
    assert torch.equal(masks.unpack(bits, shape), m)


def test_the_first_element_is_the_lowest_bit() -> None:
    m = torch.tensor([True, False, False, True, False, False, False, True, True])
    assert masks.pack(m).tolist() == [1 + 8 + 128, 1]
