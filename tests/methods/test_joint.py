"""Joint training after some tasks only."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engram.checks import tiny_stream
from engram.core.contract import Context, TaskInfo
from engram.errors import ConfigError
from engram.learning.loop import EpochEnd
from engram.methods.registry import method
from engram.networks import Mlp
from engram.protocols.protocol import Protocol
from engram.protocols.session import Session, TaskEnd, run


@pytest.mark.parametrize(
    ("at", "trained"), [([], [3]), ([1], [1, 3]), ([2, 3], [2, 3]), ([1, 9], [1, 3]), (None, [1, 2, 3])]
)
def test_it_trains_after_the_named_tasks_and_the_last(at: list[int] | None, trained: list[int]):
    seen: list[int] = []

    def told(event: EpochEnd | TaskEnd) -> None:
        if isinstance(event, EpochEnd):
            seen.append(event.task + 1)

    spec = method("joint", {"epochs": 1, "patience": None, "at": at})
    entry: dict[str, Any] = run(tiny_stream((1, 2, 1)), Mlp((8,)), spec, "class", observer=told)
    assert seen == trained
    whole = run(tiny_stream((1, 2, 1)), Mlp((8,)), method("joint", {"epochs": 1, "patience": None}), "class")
    for t in (1, 2, 3):
        expected = whole["accuracy_matrix"][t - 1] if t in trained else [None] * 3
        assert entry["accuracy_matrix"][t - 1] == expected
    assert entry["final_average_accuracy"] == whole["final_average_accuracy"]
    assert (entry["final_forgetting"] is None) == (trained != [1, 2, 3])


def test_tasks_count_from_one():
    with pytest.raises(ConfigError, match="at must hold"):
        method("joint", at=(0,))


def test_the_table_says_when_it_was_trained():
    spec = method("joint", {"at": [1, 5]})
    made = [spec.make(spec.config, Context(Mlp((4,)), (1, 2, 2), 2, "domain", 0, n)) for n in (3, 10)]
    told = [m.facts()["trained"] for m in made]
    assert told == [f"after tasks {t} only" for t in ("1, 3", "1, 5, 10")]
    with pytest.raises(ConfigError, match="n_tasks must be known beforehand by Joint"):
        spec.make(spec.config, Context(Mlp((4,)), (1, 2, 2), 2, "domain", 0))
    assert method("joint").make(method("joint").config, made[0].context).facts() == {}
    assert torch.is_tensor(next(made[0].parameters()))


def patient(**options: Any) -> tuple[Any, list[EpochEnd]]:
    """Joint training of one task of noisy classes, and its epochs."""
    told: list[EpochEnd] = []
    session = Session(
        tiny_stream((3,), n_train=30),
        Mlp((8,)),
        method("joint", {"lr": 0.5, "batch_size": 10, "held_out": 0.2, **options}),
        Protocol("class", 0),
        seed=0,
        device="cpu",
        out=None,
        resume=False,
        observer=lambda event: told.append(event) if isinstance(event, EpochEnd) else None,
    )
    session.go(None)
    return session.method, told


@pytest.mark.parametrize("patience", [1, 3])
def test_it_trains_until_the_held_out_loss_has_not_fallen_and_keeps_the_best_network(patience: int):
    made, told = patient(patience=patience)
    least = [e.measures["held-out loss"] for e in told]
    best = least.index(least[-1])
    assert len(told) == best + 1 + patience < 100
    assert [e.measures["waited"] for e in told[best:]] == list(range(patience + 1))
    data = tiny_stream((3,), n_train=30).train(0)
    info = TaskInfo.of(0, 0, 3, "class")
    rows = made._parts(info, data.y)[1]
    logits = made.predict(Mlp((8,)).normalise(data.x[rows]))
    assert float(torch.nn.functional.cross_entropy(logits, data.y[rows])) == pytest.approx(
        least[-1], rel=1e-5
    )
    assert made.storage_bytes()["other"] < 100  # no copy is left


def test_what_is_held_out_is_a_share_of_each_class_and_not_learned():
    made, _ = patient(epochs=1)
    data, info = tiny_stream((3,), n_train=30).train(0), TaskInfo.of(0, 0, 3, "class")
    fit, out = made._parts(info, data.y)
    assert sorted([*fit.tolist(), *out.tolist()]) == list(range(90))
    assert data.y[out].bincount().tolist() == [6, 6, 6]
    assert torch.equal(made.pools(info, "fit", 0, data)["fit"].x, data.x[fit])


def test_what_cannot_be_a_bound_is_refused():
    vectors = Context(Mlp((4,)), (5,), 2, "class", 0)
    for options, why in (
        ({"shift": 1.0}, "must be images for shift=1.0"),
        ({"held_out": 0.0}, "held_out must be > 0"),
    ):
        spec = method("joint", options)
        with pytest.raises(ConfigError, match=why):
            spec.make(spec.config, vectors)
    with pytest.raises(ConfigError, match=r"held_out must leave samples[^\n]+$"):
        patient(held_out=0.01)
