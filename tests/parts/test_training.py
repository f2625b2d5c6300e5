"""What discriminative methods share: labels that compete, heads, stored samples, batches, options."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from engram.checks import tiny_domains, tiny_stream
from engram.checks.comparing import copied, same
from engram.core.contract import Batch, Context, Method, Step
from engram.core.options import argument_help
from engram.errors import ConfigError
from engram.learning.feeder import Feeder
from engram.learning.loop import train_task
from engram.learning.state import LoopState
from engram.methods.registry import method
from engram.networks import Dcgan8, Mlp
from engram.parts.fitting import FitOptions
from engram.parts.tables import Scratch, Table
from engram.parts.window import Window, cross_entropy
from engram.protocols.protocol import Protocol


def build(scenario: Any, n_classes: int, **options: Any) -> Method:
    spec = method("finetune", {"epochs": 2, "batch_size": 6, **options})
    return spec.make(spec.config, Context(Mlp((9,)), (1, 8, 8), n_classes, scenario, 0))


def learn(made: Any, stream: Any, scenario: Any, n: int) -> LoopState:
    state = LoopState()
    for i in range(n):
        train_task(made, Protocol(scenario).task(stream, i), stream.train(i), state, 0)
    return state


# Heads and labels -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("options", [{}, {"optimiser": "sgd", "lr": 0.05}])
def test_one_masked_head_equals_a_head_a_task(options: dict[str, Any]) -> None:
    """The authors' form of split MNIST: with a fresh optimiser a row without gradient does not move."""
    stream = tiny_stream((2, 1, 2))
    rows = []
    for masked in (False, True):
        made: Any = build("task", 5, masked_head=masked, zero_head=True, **options)
        learn(made, stream, "task", 3)
        head = torch.cat([p.weight for p in made.net.head.parts])
        rows.append([*made.net.trunk.parameters(), head])
    for a, b in zip(*rows, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_zero_head_zeroes_new_rows_and_no_others() -> None:
    stream = tiny_stream((2, 2))
    for scenario in ("class", "task"):
        made: Any = build(scenario, 4, zero_head=True)
        learn(made, stream, scenario, 1)
        old = [p.detach().clone() for p in made.net.head.parts[0].parameters()]
        made.begin_task(Protocol(scenario).task(stream, 1), stream.train(1))  # type: ignore[arg-type]
        weight = torch.cat([p.weight for p in made.net.head.parts])
        assert torch.equal(weight[:2], old[0])
        assert bool(old[0].any())
        assert not bool(weight[2:].any())


def test_labels_that_compete_by_scenario() -> None:
    stream = tiny_stream((2, 1, 2))
    for scenario, stored, active, own in (
        ("class", 0, (0, 3), False),
        ("class", 2, (0, 3), False),
        ("task", 0, (2, 3), False),
        ("task", 2, (0, 3), True),
    ):
        made: Any = build(scenario, 5, memory_per_class=stored)
        learn(made, stream, scenario, 2)
        task = Protocol(scenario).task(stream, 1)  # type: ignore[arg-type]
        found = made.window(task)
        assert found.active == active
        assert (found.task_of is not None) == own
        if own:
            assert found.task_of.tolist() == [0, 0, 1]


def test_mixed_batches_compete_within_their_own_task() -> None:
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2, 4])
    labels = Window((0, 5), torch.tensor([0, 0, 1, 2, 2]))
    parts = [(0, 2, 0), (0, 2, 1), (2, 3, 2), (3, 5, 4)]
    expected = (
        sum(F.cross_entropy(logits[i : i + 1, a:b], y[i : i + 1] - a) for i, (a, b, _) in enumerate(parts))
        / 4
    )
    torch.testing.assert_close(cross_entropy(logits, y, labels), expected)


def test_a_task_never_seen_gives_one_line() -> None:
    stream = tiny_stream((2, 2, 1))
    for masked in (False, True):
        made = build("task", 5, masked_head=masked)
        learn(made, stream, "task", 1)
        x = stream.train(0).x.float() / 255
        with pytest.raises(ConfigError, match=r"^a task must be learned [^\n]*task 3 was not[^\n]*$"):
            made.predict(x, task=Protocol("task").task(stream, 2))


# Stored samples ("-S") --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("scenario", "expected"), [("class", [0, 6, 9]), ("task", [0, 6, 9]), ("domain", [0, 6, 12])]
)
def test_samples_are_stored_at_task_end(scenario: Any, expected: list[int]) -> None:
    stream = tiny_domains(3) if scenario == "domain" else tiny_stream((2, 1, 2))
    made: Any = build(scenario, stream.n_classes, memory_per_class=3)
    assert made.reads == "memory"
    assert build(scenario, stream.n_classes).reads == "task"
    state = LoopState()
    for i, n in enumerate(expected):
        assert len(made.memory) == n
        train_task(made, Protocol(scenario).task(stream, i), stream.train(i), state, 0)
    own = stream.train(0)
    for x, y in zip(made.memory.images[:6], made.memory.labels[:6], strict=True):
        assert any(torch.equal(x, a) and int(y) == int(b) for a, b in zip(own.x, own.y, strict=True))
    assert made.storage_bytes()["exemplars"] == len(made.memory) * (64 + 8)


def test_half_of_each_batch_is_stored_and_an_epoch_is_one_pass() -> None:
    stream = tiny_stream((2, 2))
    made: Any = build("class", 4, batch_size=8, memory_per_class=3)
    learn(made, stream, "class", 1)
    task, data = Protocol("class").task(stream, 1), stream.train(1)
    made.begin_task(task, data)
    (phase,) = made.phases(task, len(data))
    pools = {"task": data, **made.pools(task, "fit", 0, data)}
    feeder = Feeder(phase, pools, made.context.network.normalise, 0, ("test",))
    seen: dict[int, int] = {}
    for i in range(feeder.n_steps):
        batch = feeder.batch(phase.updates[0], i)
        assert len(batch.y) == 8
        assert int((batch.y < 2).sum()) == 4
        for y in batch.y.tolist():
            seen[y] = seen.get(y, 0) + 1
    assert seen[2] == seen[3] == 12
    assert seen[0] == seen[1] == 12


def test_stored_classes_are_balanced_also_where_one_has_fewer() -> None:
    made: Any = build("class", 4, memory_per_class=3)
    made.memory.images = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 1, 8, 8).clone()
    made.memory.labels = torch.tensor([0, 0, 0, 1])
    pool = made.pools(None, "fit", 0, None)["memory"]
    assert pool.y.bincount().tolist() == [3, 3]
    assert pool.x[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 3, 3]


def test_what_is_stored_is_a_function_of_the_seed_not_of_training() -> None:
    stream = tiny_stream((2, 2))
    labels = []
    for lr in (1e-3, 1e-2):
        made: Any = build("class", 4, memory_per_class=3, lr=lr)
        learn(made, stream, "class", 2)
        labels.append(copied(made.memory.state_dict()))
    assert all(same(labels[0][k], labels[1][k]) for k in labels[0])


def test_stored_samples_reach_single_head_training() -> None:
    """With a few stored samples a single head answers for old classes, without it does not."""
    stream, found = tiny_stream((2, 2)), []
    for stored in (0, 4):
        made: Any = build("class", 4, memory_per_class=stored, epochs=30, lr=3e-3)
        learn(made, stream, "class", 2)
        x = stream.test(0).x.float() / 255
        found.append(float((made.predict(x).argmax(1) == stream.test(0).y).float().mean()))
    assert found[0] < 0.5
    assert found[1] > 0.9


def test_loss_reads_labels_of_its_window() -> None:
    made: Any = build("task", 4)
    stream = tiny_stream((2, 2))
    learn(made, stream, "task", 2)
    task = Protocol("task").task(stream, 1)
    batch = Batch(stream.train(1).x.float() / 255, stream.train(1).y, {})
    expected = F.cross_entropy(made.net(batch.x, (2, 4)), batch.y - 2)
    assert torch.equal(made.loss(batch, Step(task, "fit", 0, 1, 0, 1))["ce"], expected)


# Options, tables --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"memory_per_class": 2, "memory_share": 0.0}, "memory_share must leave room"),
        ({"memory_per_class": 2, "memory_share": 0.99, "batch_size": 4}, "memory_share must leave room"),
        ({"memory_share": 2.0}, "finetune.memory_share must be"),
        ({"memory_per_class": -1}, "finetune.memory_per_class must be"),
        ({"weight_decay": -1.0}, "finetune.weight_decay must be"),
    ],
)
def test_bad_options_give_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{words}[^\n]*$"):
        method("finetune", options)


def test_a_masked_head_needs_task_labels_and_no_stored_samples() -> None:
    with pytest.raises(ConfigError, match=r"^masked_head needs the task label[^\n]*$"):
        build("class", 4, masked_head=True)
    with pytest.raises(ConfigError, match=r"^masked_head must be off where samples are stored[^\n]*$"):
        build("task", 4, masked_head=True, memory_per_class=1)


def test_inherited_options_are_documented() -> None:
    helps = argument_help(type(method("si").config))
    assert set(helps) == {f.name for f in dataclasses.fields(method("si").config)}
    assert helps["xi"] == "damping, xi in Eq. 5, in units of a squared parameter."
    assert helps["momentum"] == "momentum of ``optimiser=sgd``."


def test_an_option_documented_anew_keeps_its_own_words() -> None:
    class Slower(FitOptions):
        """Options.

        Args:
            lr: of the slow part.
        """

    assert argument_help(Slower)["lr"] == "of the slow part."
    assert argument_help(Slower)["momentum"] == "momentum of ``optimiser=sgd``."


def test_tables_pad_keep_order_and_hold_copies() -> None:
    table = Table()
    table.put("b.weight", torch.ones(2, 3))
    grown = {"b.weight": torch.full((4, 3), 7.0), "a": torch.zeros(2)}
    table.pad(grown, 0.0, only_known=True)
    assert table.names == ["b.weight"]
    assert table["b.weight"].sum(1).tolist() == [3.0, 3.0, 0.0, 0.0]
    table.pad(grown, "value")
    assert table.names == ["b.weight", "a"]
    assert table["a"].data_ptr() != grown["a"].data_ptr()
    other = Table()
    other.rebuild(table.structure())
    other.load_state_dict(table.state_dict())
    assert other.names == table.names
    assert torch.equal(other["b.weight"], table["b.weight"])
    scratch = Scratch()
    first = scratch.like("x", torch.zeros(2))
    assert scratch.like("x", torch.ones(2)) is first
    assert scratch.like("x", torch.zeros(3)).shape == (3,)


def test_later_tasks_take_their_own_epochs_and_rate() -> None:
    made: Any = build("task", 4, lr=0.1, later_epochs=5, later_lr=0.01)
    stream = tiny_stream((2, 2))
    seen = []
    for i in range(2):
        task = Protocol("task").task(stream, i)
        made.begin_task(task, stream.train(i))
        (phase,) = made.phases(task, 12)
        seen.append((phase.epochs, made.players(task, "fit")["net"].optimiser.lr))
    assert seen == [(2, 0.1), (5, 0.01)]


@pytest.mark.parametrize("scenario", ["task", "class"])
@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_norms_keep_the_first_tasks_statistics(scenario: Any, frozen: bool) -> None:
    stream = tiny_stream((2, 2, 2))
    spec = method("finetune", {"epochs": 1, "batch_size": 6, "freeze_norms": frozen})
    made: Any = spec.make(spec.config, Context(Dcgan8(n_d=4), (1, 8, 8), 6, scenario, 0))
    state = LoopState()
    seen = []
    for i in range(3):
        train_task(made, Protocol(scenario).task(stream, i), stream.train(i), state, 0)
        kept = {k: v for k, v in made.net.trunk.state_dict().items() if "running" in k}
        seen.append({**copied(kept), **{n: p.detach().clone() for n, p in made.net.trunk.named_parameters()}})
    statistics = [k for k in seen[0] if "running" in k]
    assert statistics
    for later in seen[1:]:
        assert all(same(seen[0][k], later[k]) for k in statistics) == frozen
        assert not any(same(seen[0][k], later[k]) for k in seen[0] if k.endswith("weight"))
