"""Memory replay GANs: sizes of the networks, replay that starts at nothing, sums as released, statistics a label."""

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
from engram.methods.mergan import old_labels
from engram.methods.registry import method
from engram.networks import Dcgan, Dcgan8
from engram.networks.conditional import ConditionalGenerator, ConditionalNorm
from engram.parts.gan import Critic
from engram.protocols.protocol import Protocol

NETWORK = Dcgan8(n_f=4, n_d=4, n_z=16)
SMALL = {
    "gan_epochs": 2,
    "gan_steps": 2,
    "gan_batch": 6,
    "gan_critic": 2,
    "solver_epochs": 1,
    "solver_steps": 2,
    "solver_batch": 6,
    "solver_samples": 4,
}
STREAM, PROTOCOL = tiny_stream((2, 1, 2)), Protocol("class")


def learned(name: str, n: int, **options: Any) -> Any:
    """A method after ``n`` tasks."""
    spec = method(name, {**SMALL, **options})
    made, state = spec.make(spec.config, Context(NETWORK, (1, 8, 8), 5, "class", 0)), LoopState()
    for i in range(n):
        train_task(made, PROTOCOL.task(STREAM, i), STREAM.train(i), state, 0)
    return made


def begun(name: str, n: int = 1, **options: Any) -> tuple[Any, Batch, Step]:
    """A method at the start of task ``n``, with a batch of it."""
    made = learned(name, n, **options)
    task, data = PROTOCOL.task(STREAM, n), STREAM.train(n)
    made.begin_task(task, data)
    g = torch.Generator().manual_seed(3)
    noise = {"z": torch.randn(6, 16, generator=g), "old": torch.randn(6, 16, generator=g)}
    noise["u"] = torch.rand(6, 1, 1, 1, generator=g)
    return made, Batch(NETWORK.normalise(data.x[:6]), data.y[:6], noise), Step(task, "gan", 0, 2, 0, 2)


@pytest.mark.parametrize(("channels", "generator", "critic"), [(1, 525569, 279563), (3, 527171, 281163)])
def test_sizes_are_those_of_the_released_networks(channels: int, generator: int, critic: int) -> None:
    context = Context(Dcgan(), (channels, 32, 32), 10, "class", 0)
    made = ConditionalGenerator(context.network.generator((channels, 32, 32), mask="none"), 0)
    made.grow(10)
    assert sum(p.numel() for p in made.parameters()) == generator
    assert made(torch.zeros(2, 128), made.hot(torch.tensor([0, 9]))).shape == (2, channels, 32, 32)
    judge = Critic(context, "none", 0)
    judge.classes.grow(10, 0, 0)
    assert sum(p.numel() for p in judge.parameters()) == critic


def test_the_norm_is_batch_norm_of_each_label_by_itself() -> None:
    norm, h = ConditionalNorm(3), torch.randn(7, 3, 2, 2)
    norm.grow(3)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    y = torch.tensor([0, 2, 0, 2, 2, 0, 2])
    found = norm(h, F.one_hot(y, 3).float(), True)
    for label in (0, 2):
        rows = y == label
        expected = F.batch_norm(h[rows], None, None, norm.weight[label], norm.bias[label], training=True)
        torch.testing.assert_close(found[rows], expected)


def test_stored_statistics_make_the_same_images_and_each_alone() -> None:
    made = ConditionalGenerator(NETWORK.generator((1, 8, 8), mask="none"), 0)
    made.grow(2)
    made.settle(seeds.generator(0, "here"), 50)
    # The first noise of the first label is what settle drew first.
    z, hot = torch.randn(50, 16, generator=seeds.generator(0, "here")), made.hot(torch.zeros(50).long())
    torch.testing.assert_close(made(z, hot), made(z, hot, statistics=True), rtol=1e-4, atol=1e-5)
    alone = torch.cat([made(z[i : i + 1], hot[i : i + 1]) for i in range(50)])
    torch.testing.assert_close(alone, made(z, hot), rtol=1e-4, atol=1e-5)


def test_replay_starts_at_nothing_since_both_generators_are_equal() -> None:
    made, batch, step = begun("mergan-ra")
    assert float(made.generator_loss(batch, step)["alignment"].detach()) == 0.0
    _, _, old, _ = made.replayed(batch, step)
    with torch.no_grad():
        made.gan.generator.layers[-1].bias.add_(0.1)
    terms = made.generator_loss(batch, step)
    z, y = batch.noise["old"], torch.tensor([0, 1, 0, 1, 0, 1])
    distance = (made.gan.fake(z, y) - old).square()
    # lambda / K times the sum over classes, samples and pixels of half the square; 0.003 / 2 / 2 here.
    again, batch, step = begun("mergan-ra", alignment=0.003)
    with torch.no_grad():
        again.gan.generator.layers[-1].bias.add_(0.1)
    found = again.generator_loss(batch, step)["alignment"]
    torch.testing.assert_close(found, 0.003 / 4 * distance.sum())
    torch.testing.assert_close(found, 3 * terms["alignment"])
    joint, batch, step = begun("mergan-jtr")
    assert float(joint.critic_loss(batch, step)["replay"].detach()) == 0.0


def test_replayed_terms_add_up_over_old_classes() -> None:
    made, batch, step = begun("mergan-jtr")
    mean, _, _ = begun("mergan-jtr", over_classes="mean")
    with torch.no_grad():
        for m in (made, mean):
            m.gan.generator.layers[-1].bias.add_(0.1)
    critic = made.gan.critic
    z, y, old, _ = made.replayed(batch, step)
    new = made.gan.fake(z, y)
    by_class = [critic.score(new[y == c]).mean() - critic.score(old[y == c]).mean() for c in (0, 1)]
    terms = made.critic_loss(batch, step)
    torch.testing.assert_close(terms["replay"], by_class[0] + by_class[1])
    entropies = [F.cross_entropy(critic.classify(old[y == c]), y[y == c]) for c in (0, 1)]
    torch.testing.assert_close(terms["replay_class"], entropies[0] + entropies[1])
    torch.testing.assert_close(2 * mean.critic_loss(batch, step)["replay"], terms["replay"])
    scores = [-critic.score(new[y == c]).mean() for c in (0, 1)]
    torch.testing.assert_close(made.generator_loss(batch, step)["replay"], scores[0] + scores[1])


def test_numbers_of_replayed_samples() -> None:
    assert [len(old_labels(64, k, 0)) // k for k in range(1, 10)] == [64 // k for k in range(1, 10)]
    assert old_labels(64, 9, 5).bincount().tolist() == [7] * 9
    # More old classes than samples: one each, in turn.
    seen = torch.cat([old_labels(4, 6, step) for step in range(3)])
    assert seen.bincount().tolist() == [2] * 6


def test_the_old_generator_stands_still_and_goes_when_the_task_is_learned() -> None:
    made = learned("mergan-jtr", 1)
    before = copied(made.gan.generator.state_dict())
    seen: list[list[str]] = []
    after = made.after_step
    made.after_step = lambda player, step: (
        seen.append(differing(before, made.old.net.state_dict())),
        after(player, step),
    )
    state = LoopState()
    state.cursor.task = 1
    train_task(made, PROTOCOL.task(STREAM, 1), STREAM.train(1), state, 0)
    assert len(seen) > 4
    assert not any(seen)
    assert made.old.module is None
    assert made.storage_bytes()["other"] == 0
    assert made.storage_bytes()["exemplars"] == 0


def test_a_strong_alignment_keeps_old_images() -> None:
    moved = []
    for alignment in (0.0, 1e3):
        made, _, _ = begun("mergan-ra", gan_epochs=4, gan_steps=5, gan_lr=1e-3, alignment=alignment)
        z, y = torch.randn(40, 16, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
        before = made.gan.fake(z, y).detach()
        state = LoopState()
        state.cursor.task = 1
        train_task(made, PROTOCOL.task(STREAM, 1), STREAM.train(1), state, 0)
        moved.append(float((made.gan.fake(z, y) - before).square().mean().detach()))
    assert moved[1] < moved[0] / 5


def test_labels_that_were_not_learned_are_refused() -> None:
    with pytest.raises(ConfigError, match="0 to 1, got 2"):
        learned("mergan-jtr", 1).generate(torch.tensor([0, 2]), generator=seeds.generator(0, "x"))


def test_the_mixed_solver_reads_real_samples_of_the_task_and_images_of_old_classes() -> None:
    made = learned("mergan-jtr", 1, solver_data="mixed")
    task, data = PROTOCOL.task(STREAM, 1), STREAM.train(1)
    made.begin_task(task, data)
    pool = made.pools(task, "solver", 0, data)["solver"]
    assert pool.y.bincount().tolist() == [4, 4, 4]
    real = NETWORK.normalise(data.x).flatten(1)
    assert all(bool((real == x).all(1).any()) for x in pool.x[pool.y == 2].flatten(1))
    assert not any(bool((real == x).all(1).any()) for x in pool.x[pool.y < 2].flatten(1))
    assert isinstance(task, TaskInfo)
    assert same(pool.x, made.pools(task, "solver", 0, data)["solver"].x)
