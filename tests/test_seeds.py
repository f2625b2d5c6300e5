"""Named random streams."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from engram import seeds

NAMES = st.lists(st.one_of(st.text(max_size=5), st.integers(0, 9)), max_size=4)


@given(seed=st.integers(-(2**40), 2**40), names=NAMES)
def test_a_seed_is_63_bits_and_a_function_of_its_names(seed: int, names: list[object]) -> None:
    value = seeds.derive(seed, *names)
    assert 0 <= value < 2**63
    assert value == seeds.derive(seed, *names)


@given(a=NAMES, b=NAMES)
def test_other_names_give_other_seeds(a: list[object], b: list[object]) -> None:
    assert (seeds.derive(0, *a) == seeds.derive(0, *b)) == (a == b)


def test_names_count_in_order_and_by_type() -> None:
    values = [seeds.derive(0), seeds.derive(1), seeds.derive(0, "a", "b"), seeds.derive(0, "b", "a")]
    values += [seeds.derive(0, "ab"), seeds.derive(0, 1), seeds.derive(0, "1"), seeds.derive(0, 11)]
    values += [seeds.derive(0, 1, 1)]
    assert len(set(values)) == len(values)


def test_the_derivation_is_pinned() -> None:
    # Results of earlier versions can be repeated only while this holds.
    assert seeds.derive(0, "noise", 1, "fit", 2) == PINNED


PINNED = 9021549917846486183


def test_generators_repeat() -> None:
    a = torch.rand(5, generator=seeds.generator(3, "x"))
    assert torch.equal(a, torch.rand(5, generator=seeds.generator(3, "x")))
    assert not torch.equal(a, torch.rand(5, generator=seeds.generator(3, "y")))


def test_a_seeded_block_repeats_and_puts_the_global_state_back() -> None:
    before = torch.get_rng_state()
    with seeds.seeded(1, "a"):
        first = torch.rand(3)
        with seeds.seeded(1, "b"):
            inner = torch.rand(3)
        rest = torch.rand(3)
    assert torch.equal(before, torch.get_rng_state())
    with seeds.seeded(1, "a"):
        assert torch.equal(first, torch.rand(3))
        assert torch.equal(rest, torch.rand(3))
    assert not torch.equal(first, inner)


def test_a_seeded_block_puts_the_state_back_after_an_error() -> None:
    before = torch.get_rng_state()
    try:
        with seeds.seeded(1):
            torch.rand(1)
            raise KeyError
    except KeyError:
        pass
    assert torch.equal(before, torch.get_rng_state())
