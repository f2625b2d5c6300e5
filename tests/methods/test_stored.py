"""Methods that store real samples: the reservoir, ER's union, DER++'s answers, iCaRL's loss, herding and means."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from engram.checks import tiny_stream
from engram.checks.comparing import copied, same
from engram.core.contract import Batch, Context, Step, TaskInfo
from engram.errors import ConfigError
from engram.learning.loop import train_task
from engram.learning.state import LoopState
from engram.methods.der import distance
from engram.methods.icarl import targets
from engram.methods.registry import method
from engram.networks import Mlp
from engram.parts.memory import herded
from engram.parts.reservoir import Reservoir
from engram.protocols.protocol import Protocol


def step(task: TaskInfo) -> Step:
    return Step(task, "fit", 0, 1, 0, 1)


def learned(name: str, n: int, groups: tuple[int, ...] = (2, 1, 2), **options: Any) -> Any:
    """A method after ``n`` tasks, and the stream."""
    stream, protocol = tiny_stream(groups), Protocol("class")
    spec = method(name, {"epochs": 2, "batch_size": 5, **options})
    made = spec.make(spec.config, Context(Mlp((9,)), (1, 8, 8), stream.n_classes, "class", 0))
    state = LoopState()
    for i in range(n):
        train_task(made, protocol.task(stream, i), stream.train(i), state, 0)
    return made, stream


def test_every_presentation_is_as_likely_to_be_held() -> None:
    counts, runs = torch.zeros(12), 600
    g = torch.Generator().manual_seed(0)
    for _ in range(runs):
        memory = Reservoir((1,), 4)
        for part in torch.arange(12).split(5):
            slots = memory.admit(torch.rand(len(part), generator=g))
            memory.put(slots, part[list(slots.values()), None].float(), part[list(slots.values())])
        assert len(memory) == 4
        counts += torch.bincount(memory.labels, minlength=12)
    # Each of 12 is held with probability 1/3; five standard deviations.
    assert float((counts / runs - 1 / 3).abs().max()) < 5 * (2 / 9 / runs) ** 0.5


def test_a_reservoir_takes_all_until_it_is_full_and_replaces_then() -> None:
    memory = Reservoir((1,), 3)
    assert memory.admit(torch.tensor([0.9, 0.9])) == {0: 0, 1: 1}
    memory.put({0: 0, 1: 1}, torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1]))
    # The third follows; the fourth goes to floor(0.3 * 4) = 1, the fifth to floor(0.7 * 5) = 3, which is none.
    assert memory.admit(torch.tensor([0.0, 0.3, 0.7])) == {2: 0, 1: 1}
    at = memory.put({2: 0, 1: 1}, torch.tensor([[2.0], [3.0]]), torch.tensor([2, 3]))
    assert at.tolist() == [2, 1]
    assert memory.labels.tolist() == [0, 3, 2]
    assert memory.rows(torch.tensor([0.0, 0.34, 0.999, 1.0])).tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize("name", ["er", "der++"])
def test_what_is_stored_is_what_was_seen(name: str) -> None:
    made, stream = learned(name, 3, memory_budget=11)
    images = torch.cat([stream.train(i).x for i in range(3)]).flatten(1)
    labels = torch.cat([stream.train(i).y for i in range(3)])
    assert len(made.memory) == 11
    for x, y in zip(made.memory.images.flatten(1), made.memory.labels, strict=True):
        assert int(y) in labels[(images == x).all(1)].tolist()
    assert len(made.memory.labels.unique()) > 2


@pytest.mark.parametrize("steps", [None, 2, 9])
def test_er_stores_no_image_twice_in_several_epochs(steps: int | None) -> None:
    made, stream = learned("er", 3, memory_budget=10_000, epochs=3, steps_per_epoch=steps)
    n = sum(min(len(stream.train(i)), (steps or 1000) * 5) for i in range(3))
    assert len(made.memory) == int(made.memory.seen) == n
    assert len(made.memory.images.flatten(1).unique(dim=0)) == n


def test_er_is_the_mean_over_new_and_stored_samples() -> None:
    made, stream = learned("er", 1, memory_budget=6)
    task, data = Protocol("class").task(stream, 1), stream.train(1)
    made.begin_task(task, data)
    u = torch.tensor([0.0, 0.2, 0.5, 0.7, 0.99])
    x, y = data.x[:5].float() / 255, data.y[:5]
    found = made.loss(Batch(x, y, {"draw": u}), step(task))["ce"]
    rows = [0, 1, 3, 4, 5]
    old, old_y = made.memory.images[rows].float() / 255, made.memory.labels[rows]
    parts = [F.cross_entropy(made.net(a, (0, 3)), b) for a, b in ((x, y), (old, old_y))]
    torch.testing.assert_close(found, (parts[0] + parts[1]) / 2)


def test_answers_are_those_of_the_network_when_it_stored_them() -> None:
    made, stream = learned("der++", 0, memory_budget=100)
    task, data = Protocol("class").task(stream, 0), stream.train(0)
    made.begin_task(task, data)
    x = data.x[:4].float() / 255
    made.remember(Batch(x, data.y[:4], {"admit": torch.zeros(4)}), step(task))
    before = made.net(x, (0, 2)).detach()
    assert same(made.memory.logits, before)
    with torch.no_grad():
        made.net.head.parts[0].bias.add_(torch.tensor([1.0, -2.0]))
    logits = made.net(x, (0, 2))
    torch.testing.assert_close(distance(logits, made.memory.logits), torch.tensor(2.5))  # (1 + 4) / 2
    rows = {"alpha": torch.tensor([0.1, 0.3, 0.6, 0.9]), "beta": torch.tensor([0.9, 0.6, 0.3, 0.1])}
    terms = made.loss(Batch(x, data.y[:4], rows), step(task))
    torch.testing.assert_close(terms["answers"], torch.tensor(0.1 * 2.5))
    torch.testing.assert_close(terms["stored"], 0.5 * terms["ce"])


def test_answers_cover_the_labels_known_when_they_were_stored_and_count_as_storage() -> None:
    made, _ = learned("der++", 3, memory_budget=9)
    memory = made.memory
    known = torch.tensor([2, 2, 3, 5, 5])  # labels seen when the task of each label began to be stored
    assert memory.logits.shape == (9, 5)
    for y, z in zip(memory.labels.tolist(), memory.logits, strict=True):
        assert int((~z.isnan()).sum()) == int(known[y])
        assert not bool(z[: known[y]].isnan().any())
    assert made.storage_bytes()["exemplars"] == 9 * (64 + 8 + 5 * 4) + 8
    stored = torch.tensor([[1.0, torch.nan], [2.0, 4.0]])
    # Three logits are compared: (1 - 0)^2, (2 - 0)^2, (4 - 0)^2.
    torch.testing.assert_close(distance(torch.zeros(2, 3), stored), torch.tensor(7.0))


def test_der_without_weights_is_plain_training() -> None:
    plain, _ = learned("finetune", 2)
    weightless, _ = learned("der++", 2, alpha=0.0, beta=0.0)
    for name, value in plain.net.state_dict().items():
        assert same(value, weightless.net.state_dict()[name]), name


def test_targets_are_labels_for_new_classes_and_old_outputs_for_old_ones() -> None:
    y, old = torch.tensor([0, 2, 3]), torch.tensor([[0.9, 0.2], [0.1, 0.3], [0.5, 0.5]])
    assert targets(y, 4, None).tolist() == F.one_hot(y, 4).tolist()
    # An exemplar of an old class has no hard label at all.
    expected = [[0.9, 0.2, 0.0, 0.0], [0.1, 0.3, 1.0, 0.0], [0.5, 0.5, 0.0, 1.0]]
    torch.testing.assert_close(targets(y, 4, old), torch.tensor(expected))


def test_icarl_has_no_gradient_on_old_outputs_at_the_start_of_a_task() -> None:
    made, stream = learned("icarl", 1, memory_budget=10)
    task, data = Protocol("class").task(stream, 1), stream.train(1)
    made.begin_task(task, data)
    pool = made.pools(task, "fit", 0, data)["union"]
    assert len(pool) == len(data) + 10
    batch = Batch(pool.x.float() / 255, pool.y, {})
    weight = made.net.head.parts[0].weight
    loss = made.loss(batch, step(task))["bce"]
    (grad,) = torch.autograd.grad(loss, weight)
    assert float(grad[:2].abs().max()) < 1e-7 < float(grad[2].abs().max())
    # By hand: minus the sum over outputs, a mean over samples and outputs.
    g, q = made.net(batch.x, (0, 3)).sigmoid(), targets(pool.y, 3, made.teacher(batch.x, (0, 2)).sigmoid())
    torch.testing.assert_close(loss, -(q * g.log() + (1 - q) * (1 - g).log()).mean())


def test_exemplar_sets_shrink_to_their_first_and_never_exceed_the_budget() -> None:
    made, stream = learned("icarl", 1, memory_budget=11)
    first = copied(made.memory.state_dict())
    assert made.memory.labels.tolist() == [0] * 5 + [1] * 5  # floor(11 / 2)
    state = LoopState()
    state.cursor.task = 1
    train_task(made, Protocol("class").task(stream, 1), stream.train(1), state, 0)
    assert made.memory.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3  # floor(11 / 3)
    assert same(made.memory.images[:3], first["images"][:3])
    assert same(made.memory.images[3:6], first["images"][5:8])
    # The new ones by herding of normalised features, by hand.
    data = stream.train(1)
    phi = made.features(data.x)
    torch.testing.assert_close(phi.norm(dim=1), torch.ones(len(phi)))
    chosen: list[int] = []
    for k in range(1, 4):
        free = [i for i in range(len(phi)) if i not in chosen]
        near = [float((phi.mean(0) - (phi[chosen].sum(0) + phi[i]) / k).norm()) for i in free]
        chosen.append(free[near.index(min(near))])
    assert same(made.memory.images[6:], data.x[chosen])
    assert herded(phi, 12).tolist()[:3] == chosen


def test_the_nearest_mean_is_the_nearest_exemplar_where_each_class_has_one() -> None:
    made, stream = learned("icarl", 3, groups=(1, 1, 1), memory_budget=3)
    x = torch.cat([stream.test(i).x for i in range(3)])
    phi, exemplars = made.features(x), made.features(made.memory.images)
    nearest = torch.cdist(phi, exemplars).argmin(1)
    assert made.predict(x.float() / 255).argmax(1).tolist() == made.memory.labels[nearest].tolist()
    torch.testing.assert_close(made.means, exemplars)


def test_means_are_normalised_again_and_follow_the_network() -> None:
    made, _ = learned("icarl", 2, memory_budget=12)
    phi = made.features(made.memory.images)
    expected = torch.stack([F.normalize(phi[made.memory.labels == c].mean(0), dim=0) for c in range(3)])
    torch.testing.assert_close(made.means, expected)
    with torch.no_grad():
        made.net.trunk.layers[0].weight.mul_(-1.0)
    made.forget_cached()
    assert float((made.means - expected).abs().max()) > 1e-3


def test_a_class_without_exemplars_cannot_be_answered() -> None:
    made, stream = learned("icarl", 1, memory_budget=12)
    made.begin_task(Protocol("class").task(stream, 1), stream.train(1))
    made.forget_cached()
    logits = made.predict(stream.test(0).x.float() / 255)
    assert bool((logits[:, 2] == -torch.inf).all())
    assert bool(logits[:, :2].isfinite().all())


def test_a_budget_below_one_exemplar_a_class_is_refused() -> None:
    with pytest.raises(ConfigError, match="memory_budget must be at least one exemplar for each of the 3"):
        learned("icarl", 2, memory_budget=2)
    assert len(learned("icarl", 2, memory_budget=0, memory_per_class=2)[0].memory) == 6
    spec = method("icarl")
    with pytest.raises(ConfigError, match="scenario must be one of class, task"):
        spec.make(spec.config, Context(Mlp((4,)), (1, 8, 8), 2, "domain", 0))
