"""Deep generative replay: r = 1 is fine-tuning, the loss is linear in r, what the old scholar says, the autoencoder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from engram import seeds
from engram.checks import tiny_stream
from engram.checks.comparing import copied, differing, same
from engram.core.contract import Batch, Context, Step
from engram.errors import ConfigError
from engram.learning.loop import train_task
from engram.learning.state import LoopState
from engram.methods.registry import method
from engram.networks import Dcgan8, Mlp
from engram.networks.vae import Vae
from engram.protocols.protocol import Protocol

STREAM, PROTOCOL = tiny_stream((2, 1, 2)), Protocol("class")
NETWORK = Dcgan8(n_f=4, n_d=4, n_z=16)
FIT = {"epochs": 2, "batch_size": 5}
SMALL = {**FIT, "gan_epochs": 2, "gan_steps": 2, "gan_batch": 6, "gan_critic": 1, "vae_hidden": 9, "vae_z": 4}


def learned(name: str, n: int, **options: Any) -> Any:
    """A method after ``n`` tasks."""
    spec = method(name, options)
    made, state = spec.make(spec.config, Context(NETWORK, (1, 8, 8), 5, "class", 0)), LoopState()
    for i in range(n):
        train_task(made, PROTOCOL.task(STREAM, i), STREAM.train(i), state, 0)
    return made


def begun(**options: Any) -> tuple[Any, Batch, Step]:
    """Deep generative replay at the start of the second task, with a batch of it."""
    made = learned("dgr", 1, **SMALL, **options)
    task, data = PROTOCOL.task(STREAM, 1), STREAM.train(1)
    made.begin_task(task, data)
    g, n = torch.Generator().manual_seed(3), made.noise.shape[0]
    noise = {"z": torch.randn(6, n, generator=g), "old": torch.randn(6, n, generator=g)}
    noise["u"] = torch.rand(6, 1, 1, 1, generator=g)
    return made, Batch(NETWORK.normalise(data.x[:6]), data.y[:6], noise), Step(task, "fit", 0, 1, 0, 1)


@pytest.mark.parametrize("generator", ["gan", "vae"])
def test_ratio_one_is_fine_tuning_bit_for_bit(generator: str) -> None:
    plain = learned("finetune", 3, **FIT)
    made = learned("dgr", 3, **SMALL, generator=generator, ratio=1.0)
    names = differing(copied(plain.net.state_dict()), copied(made.net.state_dict()))
    assert not names
    replayed = learned("dgr", 3, **SMALL, generator=generator)
    assert differing(copied(plain.net.state_dict()), copied(replayed.net.state_dict()))


def test_the_first_task_is_plain_training_and_later_ones_weigh_all_tasks_alike() -> None:
    plain, made = learned("finetune", 1, **FIT), learned("dgr", 1, **SMALL)
    assert not differing(copied(plain.net.state_dict()), copied(made.net.state_dict()))
    assert [made.ratio(PROTOCOL.task(STREAM, t)) for t in range(3)] == [1.0, 1 / 2, 1 / 3]


@pytest.mark.parametrize("name", ["loss", "critic_loss", "vae_loss"])
def test_the_loss_is_linear_in_the_ratio(name: str) -> None:
    generator = "vae" if name == "vae_loss" else "gan"
    found = []
    for ratio in (0.25, 0.5, 0.75):
        made, batch, step = begun(ratio=ratio, generator=generator)
        found.append(sum(v.detach() for v in getattr(made, name)(batch, step).values()))
    torch.testing.assert_close(found[1], (found[0] + found[2]) / 2)
    assert float((found[0] - found[2]).abs()) > 1e-4


def test_replay_is_what_the_old_scholar_makes_and_says() -> None:
    made, batch, step = begun(ratio=0.25)
    x = made.made(made.old.net, batch.noise["old"])
    said = made.teacher(x, (0, 2)).argmax(1)
    old, new = F.cross_entropy(made.net(x, (0, 3)), said), F.cross_entropy(made.net(batch.x, (0, 3)), batch.y)
    terms = made.loss(batch, step)
    torch.testing.assert_close(terms["ce"], 0.25 * new)
    torch.testing.assert_close(terms["replay_ce"], 0.75 * old)
    with torch.no_grad():  # neither the present solver nor the present generator decides
        made.net.head.parts[0].bias.add_(torch.tensor([9.0, -9.0, 0.0]))
        made.gan.generator.first.weight.add_(1.0)
    assert same(made.made(made.old.net, batch.noise["old"]), x)
    assert same(made.teacher(x, (0, 2)).argmax(1), said)


def test_soft_labels_at_temperature_one_of_a_sure_teacher_are_hard_ones() -> None:
    soft, batch, step = begun(labels="soft", temperature=1.0)
    hard, _, _ = begun()
    for made in (soft, hard):
        with torch.no_grad():
            made.teacher.net.head.parts[0].weight.mul_(1e6)
    torch.testing.assert_close(soft.loss(batch, step)["replay_ce"], hard.loss(batch, step)["replay_ce"])


def test_the_old_scholar_stands_still_and_goes_when_the_task_is_learned() -> None:
    made = learned("dgr", 1, **SMALL)
    before = [copied(made.gan.generator.state_dict()), copied(made.net.state_dict())]
    seen: list[list[str]] = []

    def look(player: str, step: Step) -> None:
        now = [made.old.net.state_dict(), made.teacher.net.state_dict()]
        seen.append([n for a, b in zip(before, now, strict=True) for n in differing(a, b)])

    made.after_step, state = look, LoopState()
    state.cursor.task = 1
    train_task(made, PROTOCOL.task(STREAM, 1), STREAM.train(1), state, 0)
    assert len(seen) > 8
    assert not any(seen)
    assert made.storage_bytes()["other"] == 0
    assert made.storage_bytes()["exemplars"] == 0


def test_images_of_a_label_are_those_that_the_solver_takes_for_it() -> None:
    made = learned("dgr", 1, **SMALL)
    with torch.no_grad():
        made.net.head.parts[0].weight.mul_(30.0)
    y = torch.tensor([1, 0, 1, 0, 0])
    x = made.generate(y, generator=seeds.generator(0, "x"))
    z = torch.randn((20, 16), generator=seeds.generator(0, "x"))
    drawn = made.made(made.gan.generator, z)
    p = made.net.predict(drawn, None).softmax(1)
    for label in (0, 1):
        own = (p.argmax(1) == label).nonzero().flatten().tolist()
        others = sorted((i for i in range(20) if i not in own), key=lambda i: -float(p[i, label]))
        assert same(x[y == label], drawn[(own + others)[: int((y == label).sum())]])
    with pytest.raises(ConfigError, match="0 to 1, got 2"):
        made.generate(torch.tensor([2]), generator=seeds.generator(0, "x"))


def test_feature_vectors_are_refused() -> None:
    spec = method("dgr", {"generator": "vae"})
    with pytest.raises(ConfigError, match=r"images \[C, H, W\] for dgr, .* got shape \[7\]"):
        spec.make(spec.config, Context(Mlp((4,)), (7,), 2, "class", 0))


def test_the_bound_of_the_autoencoder_is_that_of_its_distributions() -> None:
    vae = Vae((1, 2, 2), 6, 3, 0).double()
    x, noise = torch.rand(5, 1, 2, 2, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    h = vae.encoder(x.flatten(1))
    q = Normal(vae.mean(h), vae.log_var(h).exp().sqrt())
    pixels = vae(q.mean + noise * q.stddev).flatten(1)
    likelihood = x.flatten(1) * pixels.log() + (1 - x.flatten(1)) * (1 - pixels).log()
    bound = likelihood.sum(1) - kl_divergence(q, Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(vae.loss(x, noise), -bound.mean())
