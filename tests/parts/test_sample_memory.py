"""Which samples are stored."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from engram.checks import tiny_stream
from engram.core.contract import Context, Samples, evaluating
from engram.errors import ConfigError
from engram.learning.loop import train_task
from engram.learning.state import LoopState
from engram.methods.registry import method
from engram.networks import Mlp
from engram.parts.memory import SampleMemory, herded
from engram.parts.window import Window, cross_entropy
from engram.protocols.protocol import Protocol


def greedy(features: Tensor, n: int) -> list[int]:
    """The definition, sample by sample: of those left, the one whose mean with the chosen is closest to the mean."""
    chosen: list[int] = []
    while len(chosen) < min(n, len(features)):
        left = [i for i in range(len(features)) if i not in chosen]
        gap = [(features[[*chosen, i]].mean(0) - features.mean(0)).square().sum().item() for i in left]
        chosen.append(left[gap.index(min(gap))])
    return chosen


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 15), st.integers(0, 10**6))
def test_herding_is_its_definition(n_rows: int, width: int, n: int, seed: int):
    features = torch.randn(n_rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert herded(features, n).tolist() == greedy(features, n)


def test_of_equals_the_first_and_none_twice():
    assert herded(torch.zeros(4, 2), 3).tolist() == [0, 1, 2]
    assert herded(torch.tensor([[5.0], [0.0], [1.0], [-1.0]]), 9).tolist() == [2, 1, 0, 3]


def test_each_class_is_herded_on_its_own():
    x = torch.arange(8, dtype=torch.uint8)[:, None, None, None]
    y = torch.tensor([0, 1] * 4)
    memory = SampleMemory((1, 1, 1))
    memory.add_herded(Samples(x, y), 2, lambda x: x.flatten(1).double())
    # Means 3 and 4: of 0 2 4 6 first 2 (as near as 4), then 4; of 1 3 5 7 likewise.
    assert memory.images.flatten().tolist() == [2, 4, 3, 5]
    assert memory.labels.tolist() == [0, 0, 1, 1]


def test_a_method_stores_what_its_trunk_herds():
    stream = tiny_stream((1, 2))
    options = {"epochs": 1, "memory_per_class": 3, "memory_choice": "mean_of_features"}
    spec = method("finetune", options)
    made = spec.make(spec.config, Context(Mlp((6,)), (1, 8, 8), 3, "class", 0))
    for i in range(2):
        train_task(made, Protocol("class").task(stream, i), stream.train(i), LoopState(), 0)
    data = stream.train(1)
    for c in (1, 2):
        rows = (data.y == c).nonzero().flatten()
        with evaluating(made.net):
            features = made.net.trunk(Mlp((6,)).normalise(data.x[rows]))
        expected = data.x[rows[greedy(features, 3)]]
        assert torch.equal(made.memory.images[made.memory.labels == c], expected)
    assert made.facts()["stored samples"] == "3 a class, mean of features, 0.5 of each batch (-S)"


@pytest.mark.parametrize("first_new", [1, 2, 4])
def test_classes_weigh_the_same_whatever_their_share_of_the_batch(first_new: int):
    g = torch.Generator().manual_seed(first_new)
    logits = torch.randn(40, 5, generator=g, dtype=torch.float64)
    y = torch.cat(
        [torch.randint(0, first_new, (30,), generator=g), torch.randint(first_new, 5, (10,), generator=g)]
    )
    found = cross_entropy(logits, y, Window((0, 5), first_new=first_new))
    old, new = (F.cross_entropy(logits[m], y[m]) for m in (y < first_new, y >= first_new))
    torch.testing.assert_close(found, (first_new * old + (5 - first_new) * new) / 5)
    # With as many samples a class it is the plain mean; a batch without old samples keeps the new ones' share.
    even = torch.arange(5).repeat(8)
    plain = cross_entropy(logits, even, Window((0, 5)))
    torch.testing.assert_close(cross_entropy(logits, even, Window((0, 5), first_new=first_new)), plain)
    alone = cross_entropy(logits[30:], y[30:], Window((0, 5), first_new=first_new))
    torch.testing.assert_close(alone, new * (5 - first_new) / 5)


def test_weights_by_class_reach_the_loss_of_later_tasks_only():
    stream = tiny_stream((1, 2))
    ends = []
    for weight in ("samples", "classes"):
        options = {"epochs": 1, "memory_per_class": 3, "memory_share": 0.2, "memory_weight": weight}
        spec = method("finetune", options)
        made = spec.make(spec.config, Context(Mlp((6,)), (1, 8, 8), 3, "class", 0))
        state, after = LoopState(), []
        for i in range(2):
            train_task(made, Protocol("class").task(stream, i), stream.train(i), state, 0)
            after.append(made.net.trunk.layers[0].weight.detach().clone())
        ends.append(after)
    assert torch.equal(ends[0][0], ends[1][0])
    assert not torch.equal(ends[0][1], ends[1][1])


def test_weights_by_class_need_classes_that_arrive_with_tasks():
    spec = method("finetune", {"memory_per_class": 3, "memory_weight": "classes"})
    with pytest.raises(ConfigError, match="memory_weight=classes needs classes that arrive with tasks"):
        spec.make(spec.config, Context(Mlp((6,)), (1, 8, 8), 3, "domain", 0))
