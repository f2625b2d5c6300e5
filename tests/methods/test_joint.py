"""Joint training after some tasks only."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engram.checks import tiny_stream
from engram.errors import ConfigError
from engram.learning.loop import EpochEnd
from engram.methods.registry import method
from engram.networks import Mlp
from engram.protocols.session import TaskEnd, run


@pytest.mark.parametrize(
    ("at", "trained"), [([1], [1, 3]), ([2, 3], [2, 3]), ([1, 9], [1, 3]), (None, [1, 2, 3])]
)
def test_it_trains_after_the_named_tasks_and_the_last(at: list[int] | None, trained: list[int]):
    seen: list[int] = []

    def told(event: EpochEnd | TaskEnd) -> None:
        if isinstance(event, EpochEnd):
            seen.append(event.task + 1)

    spec = method("joint", {"epochs": 1, "at": at})
    entry: dict[str, Any] = run(tiny_stream((1, 2, 1)), Mlp((8,)), spec, "class", observer=told)
    assert seen == trained
    whole = run(tiny_stream((1, 2, 1)), Mlp((8,)), method("joint", {"epochs": 1}), "class")
    for t in trained:
        assert entry["accuracy_matrix"][t - 1] == whole["accuracy_matrix"][t - 1]


def test_tasks_count_from_one():
    with pytest.raises(ConfigError, match="at must hold"):
        method("joint", at=(0,))


def test_the_table_says_when_it_was_trained():
    from engram.core.contract import Context

    spec = method("joint", {"at": [1, 5]})
    made = [spec.make(spec.config, Context(Mlp((4,)), (1, 2, 2), 2, "domain", 0, n)) for n in (3, 10)]
    told = [m.facts()["trained"] for m in made]
    assert told == [f"after tasks {t} only; else an earlier network answers" for t in ("1, 3", "1, 5, 10")]
    with pytest.raises(ConfigError, match="n_tasks must be known beforehand by Joint"):
        spec.make(spec.config, Context(Mlp((4,)), (1, 2, 2), 2, "domain", 0))
    assert method("joint").make(method("joint").config, made[0].context).facts() == {}
    assert torch.is_tensor(next(made[0].parameters()))
