"""Deep generative dual memory: what it sleeps on and when, which unit answers, and that the large one stands still."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from engram import seeds
from engram.checks import tiny_stream
from engram.checks.comparing import copied, differing, same
from engram.core.contract import Batch, Context, Step, TaskInfo
from engram.errors import ConfigError
from engram.learning.loop import train_task
from engram.learning.state import LoopState
from engram.methods.dgdmn import DRAWS, shares
from engram.methods.registry import method
from engram.networks import Mlp
from engram.parts.replay import by_answer
from engram.protocols.protocol import Protocol

STREAM, PROTOCOL = tiny_stream((1, 2, 1, 1), n_train=24), Protocol("class")
SIZES = [len(STREAM.train(i)) for i in range(4)]
SMALL = {
    "vae_hidden": 9,
    "vae_z": 4,
    "long_hidden": 10,
    "long_z": 5,
    "vae_epochs": 3,
    "epochs": 2,
    "batch_size": 8,
}


def learned(n: int, **options: Any) -> Any:
    """A method after ``n`` tasks."""
    spec, state = method("dgdmn", {**SMALL, **options}), LoopState()
    made = spec.make(spec.config, Context(Mlp((7,)), (1, 8, 8), 5, "class", 0))
    for i in range(n):
        train_task(made, PROTOCOL.task(STREAM, i), STREAM.train(i), state, 0)
    return made


def asleep(made: Any, index: int) -> TaskInfo:
    """The method, which has learned so many tasks, when the next one is in its small unit and sleep begins."""
    task, state = PROTOCOL.task(STREAM, index), LoopState()
    state.cursor.task = index
    made.end_task = lambda task, data: None
    train_task(made, task, STREAM.train(index), state, 0)
    return task


@pytest.mark.parametrize(
    ("n_new", "n_old", "most", "expected"),
    [
        (100, 300, None, (100, 300)),
        (100, 300, 1000, (100, 300)),
        (100, 300, 200, (50, 150)),
        (10, 990, 500, (100, 400)),  # kappa: never less than a fifth
        (40, 0, 20, (20, 0)),
    ],
)
def test_the_budget_is_its_equation(
    n_new: int, n_old: int, most: int | None, expected: tuple[int, int]
) -> None:
    assert shares(n_new, n_old, most, 0.2 if n_new == 10 else 0.05) == expected


@pytest.mark.parametrize(("n_short", "nights"), [(1, 4), (2, 2), (3, 1)])
def test_it_sleeps_when_the_last_small_unit_is_filled(n_short: int, nights: int) -> None:
    made = learned(4, short_term=n_short)
    slept = nights * n_short
    assert len(made.short) == 4 - slept
    assert int(made.long.count) == sum(SIZES[:slept])
    assert [u.start for u in made.short] == [PROTOCOL.task(STREAM, i).start for i in range(slept, 4)]
    assert made.long.stop == PROTOCOL.task(STREAM, slept - 1).stop
    assert made.storage_bytes()["exemplars"] == made.storage_bytes()["statistics"] == 0


def test_the_large_unit_moves_in_sleep_only() -> None:
    made, state = learned(2), LoopState()
    state.cursor.task, before = 2, copied(made.long.state_dict())
    train_task(made, PROTOCOL.task(STREAM, 2), STREAM.train(2), state, 0)
    assert not differing(before, copied(made.long.state_dict()))
    train_task(made, PROTOCOL.task(STREAM, 3), STREAM.train(3), state, 0)
    assert differing(before, copied(made.long.state_dict()))


def test_it_sleeps_on_dreams_with_the_labels_of_the_units_that_dream() -> None:
    for most in (None, 30):
        made = learned(3, max_samples=most)
        long = copied(made.long.state_dict())
        task = asleep(made, 3)
        assert not differing(long, copied(made.old.net.state_dict()))
        n = shares(SIZES[2] + SIZES[3], SIZES[0] + SIZES[1], most, made.config.kappa)
        dreams = made.dreams(task)
        assert len(dreams) == sum(n) <= (most or sum(SIZES))
        old, new = dreams.y[: n[1]], dreams.y[n[1] :]
        assert set(old.tolist()) <= {0, 1, 2}
        first = round(n[0] * SIZES[2] / (SIZES[2] + SIZES[3]))
        assert new.tolist() == [3] * first + [4] * (n[0] - first)
        z = torch.randn((n[1], 5), generator=seeds.generator(0, "dreams", 3))
        torch.testing.assert_close(dreams.x[: n[1]], made.old.net.vae(z).detach())
        assert same(old, made.old.net.net.predict(dreams.x[: n[1]], None).argmax(1))
        # The unit in training does not decide what it was.
        with torch.no_grad():
            made.long.vae.decoder[0].weight.add_(1.0)
            made.long.net.head.parts[0].bias.add_(torch.tensor([9.0, 0.0, 0.0, 0.0, 0.0]))
        again = made.dreams(task)
        assert same(again.x, dreams.x)
        assert same(again.y, dreams.y)


def test_no_real_sample_reaches_the_large_unit() -> None:
    made, state = learned(1), LoopState()
    seen: dict[str, list[Batch]] = {"short net": [], "long net": []}
    loss = made.loss

    def look(batch: Batch, step: Step) -> Any:
        seen[step.phase].append(batch)
        return loss(batch, step)

    made.loss, state.cursor.task = look, 1
    train_task(made, PROTOCOL.task(STREAM, 1), STREAM.train(1), state, 0)
    real = torch.cat([STREAM.train(i).x for i in (0, 1)]).flatten(1).float() / 255.0
    nearest = {k: min(float(torch.cdist(b.x.flatten(1), real).min()) for b in v) for k, v in seen.items()}
    assert nearest["short net"] < 1e-3
    assert nearest["long net"] > 0.01


def test_the_unit_that_reconstructs_an_image_best_answers() -> None:
    made = learned(3)
    long, short = made.units
    x = torch.cat([STREAM.test(i).x for i in range(3)]).float() / 255.0
    p = made.predict(x)
    assert p.shape == (len(x), 4)
    assert bool(p.isfinite().all())
    errors = []
    for unit in (long, short):
        pixels = torch.sigmoid(unit.vae.decoder(unit.vae.mean(unit.vae.encoder(x.flatten(1)))))
        errors.append(F.binary_cross_entropy(pixels, x.flatten(1), reduction="none").sum(1))
        torch.testing.assert_close(unit.vae.error(x), errors[-1])
    by_long = errors[0] < errors[1]
    assert same(p.argmax(1), torch.where(by_long, long.net.predict(x, None).argmax(1), 3))
    # With a blind large unit the small one answers, and the other way round.
    for unit, labels in ((long, {3}), (short, {0, 1, 2})):
        bias = unit.vae.decoder[4].bias
        kept = bias.detach().clone()
        with torch.no_grad():
            bias.add_(torch.where(torch.arange(64) % 2 == 0, 40.0, -40.0))
        assert set(made.predict(x).argmax(1).tolist()) <= labels
        with torch.no_grad():
            bias.copy_(kept)


def test_with_a_task_label_the_unit_that_holds_the_task_answers() -> None:
    made = learned(3)
    x = STREAM.test(1).x.float() / 255.0
    task = TaskInfo.of(1, 1, 3, "task")
    p = made.predict(x, task=task)
    assert bool((p[:, [0, 3]] == -torch.inf).all())
    torch.testing.assert_close(p[:, 1:3], made.long.net.predict(x, None).log_softmax(1)[:, 1:3])
    assert same(made.predict(x, task=TaskInfo.of(2, 3, 4, "task")).argmax(1), torch.full((len(x),), 3))


def test_images_of_a_label_come_from_the_unit_that_holds_it() -> None:
    made = learned(3)
    y = torch.tensor([3, 1, 0, 3, 1])
    x, g = made.generate(y, generator=seeds.generator(0, "x")), seeds.generator(0, "x")
    for unit, rows in ((made.long, [1, 2, 4]), (made.short[0], [0, 3])):
        drawn = unit.dream(DRAWS * len(rows), g).x
        p = unit.net.predict(drawn, None).softmax(1)
        assert same(x[rows], drawn[by_answer(y[rows] - unit.start, p)])
    with pytest.raises(ConfigError, match="0 to 3, got 4"):
        made.generate(torch.tensor([4]), generator=g)


def test_feature_vectors_are_refused() -> None:
    spec = method("dgdmn")
    with pytest.raises(
        ConfigError, match=r"^samples must be images[^\n]+ got shape \[6\]: use fearnet[^\n]+$"
    ):
        spec.make(spec.config, Context(Mlp((4,)), (6,), 2, "class", 0))
