"""Hard Attention to the Task: what an old task uses stays bit for bit, what is protected, slopes,
capacity."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engram import seeds
from engram.checks import tiny_stream
from engram.core.contract import Batch, Context, Samples, Step, TaskInfo, evaluating
from engram.core.network import Network
from engram.errors import ConfigError
from engram.learning.loop import train_task
from engram.learning.state import LoopState
from engram.methods.hat import Hat, soft_sparsity
from engram.methods.registry import method
from engram.networks import Dcgan, Dcgan8, Mlp, masks
from engram.networks.dcgan import ConvTrunk
from engram.parts.gated import GatedTrunk
from engram.protocols.protocol import Protocol

SMALL: dict[str, Any] = {"epochs": 4, "batch_size": 4, "s_max": 50.0, "c": 0.5}
HARSH = {"optimiser": "adam", "lr": 0.01, "keep_optimiser": True, "weight_decay": 0.1}


def made(
    network: Network | None = None, groups: tuple[int, ...] = (2, 2, 2), **options: Any
) -> tuple[Hat, Any]:
    stream = tiny_stream(groups)
    spec = method("hat", {**SMALL, **options})
    hat = spec.make(spec.config, Context(network or Mlp((20, 15)), (1, 8, 8), sum(groups), "task", 0))
    assert isinstance(hat, Hat)
    return hat, stream


def answers(hat: Hat, stream: Any, task: TaskInfo) -> Tensor:
    x = stream.train(task.index).x.float() / 255
    with evaluating(hat):
        return hat.predict(x, task=task)[:, task.start : task.stop]


@pytest.mark.parametrize("network", [Mlp((20, 15)), Dcgan8(n_d=12)], ids=["mlp", "dcgan8"])
@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": 0.9, "keep_optimiser": True, "weight_decay": 0.01}, HARSH],
    ids=["sgd", "momentum", "adam"],
)
def test_logits_of_old_tasks_are_the_same_bit_for_bit_after_training_on_noise(
    network: Network, options: Any
) -> None:
    hat, stream = made(network, **options)
    protocol, state = Protocol("task"), LoopState()
    kept: list[Tensor] = []
    reserved: list[list[Tensor]] = []
    for i in range(3):
        task, data = protocol.task(stream, i), stream.train(i)
        if i == 2:
            noise = torch.randint(
                0, 256, data.x.shape, generator=seeds.generator(0, "noise"), dtype=torch.uint8
            )
            data = Samples(noise, data.y)
        before = {n: p.detach().clone() for n, p in hat.named_parameters()}
        train_task(hat, task, data, state, 0)
        if i == 2:
            assert not torch.equal(
                before["net.trunk." + hat.trunk.layers[0][0] + ".weight"], hat.trunk.layers[0][1].weight
            )
        for j, was in enumerate(kept):
            assert torch.equal(answers(hat, stream, protocol.task(stream, j)), was), (i, j)
        kept.append(answers(hat, stream, task))
        reserved.append([hat.reserved(k).clone() for k in range(len(hat.embeddings))])
    used = [int(r.sum()) for r in reserved[0]]
    assert all(0 < n < len(r) for n, r in zip(used, reserved[0], strict=True)), (
        "the test needs masks that part"
    )
    for early, late in itertools.pairwise(reserved):
        assert all(bool((a <= b).all()) for a, b in zip(early, late, strict=True))


def test_soft_masks_let_old_tasks_drift_a_little() -> None:
    hat, stream = made(masks="soft", lr=0.2, s_max=20.0)
    protocol, state = Protocol("task"), LoopState()
    train_task(hat, protocol.task(stream, 0), stream.train(0), state, 0)
    first = answers(hat, stream, protocol.task(stream, 0))
    train_task(hat, protocol.task(stream, 1), stream.train(1), state, 0)
    drift = float((answers(hat, stream, protocol.task(stream, 0)) - first).abs().max())
    assert 0.0 < drift < 1.0


def test_a_task_that_reuses_only_old_units_changes_no_trunk_weight() -> None:
    hat, stream = made(**HARSH)
    protocol, state = Protocol("task"), LoopState()
    train_task(hat, protocol.task(stream, 0), stream.train(0), state, 0)
    for i in range(2):
        hat.reserved(i).fill_(True)
    before = {n: p.detach().clone() for n, p in hat.net.trunk.named_parameters()}
    train_task(hat, protocol.task(stream, 1), stream.train(1), state, 0)
    assert all(torch.equal(p, before[n]) for n, p in hat.net.trunk.named_parameters())


# What is protected ------------------------------------------------------------------------------------------
def test_protection_of_a_perceptron_by_hand() -> None:
    trunk = GatedTrunk(Mlp((3, 2)).trunk((1, 1, 2)))
    held = trunk.protection([torch.tensor([True, False, True]), torch.tensor([False, True])])
    assert held["layers.0.weight"].tolist() == [[True, True], [False, False], [True, True]]
    assert held["layers.0.bias"].tolist() == [True, False, True]
    assert held["layers.1.weight"].tolist() == [[False, False, False], [True, False, True]]
    assert held["layers.1.bias"].tolist() == [False, True]
    soft = trunk.protection([torch.tensor([0.2, 0.9, 0.0]), torch.tensor([0.5, 1.0])])
    torch.testing.assert_close(soft["layers.1.weight"], torch.tensor([[0.2, 0.5, 0.0], [0.2, 0.9, 0.0]]))


def test_protection_of_convolutions_and_at_the_border_to_a_linear_layer() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(
                nn.Conv2d(1, 2, 3, bias=False),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Flatten(),
                nn.Linear(18, 4),
                nn.ReLU(),
            )
            self.n_features = 4

        def forward(self, x: Tensor) -> Tensor:
            return self.blocks(x)

    module = Mixed()
    trunk = GatedTrunk(module)
    assert trunk.widths == [2, 4]
    above, top = torch.tensor([True, False]), torch.tensor([True, False, True, False])
    held = trunk.protection([above, top])
    assert held["blocks.0.weight"].shape == (2, 1, 3, 3)
    assert held["blocks.0.weight"].flatten(1).all(1).tolist() == [True, False]
    assert held["blocks.4.weight"][0].tolist() == [True] * 9 + [False] * 9
    assert not bool(held["blocks.4.weight"][1].any())
    # A closed channel sends nothing on, whatever its weights; open gates change nothing.
    x = torch.randn(3, 1, 8, 8)
    open_gates = [torch.ones(2), torch.ones(4)]
    torch.testing.assert_close(trunk(x, open_gates), module(x))
    closed = trunk(x, [torch.tensor([1.0, 0.0]), top.float()])
    with torch.no_grad():
        module.blocks[0].weight[1] = 100.0
    assert torch.equal(trunk(x, [torch.tensor([1.0, 0.0]), top.float()]), closed)
    assert not bool(closed[:, 1].any())


@pytest.mark.parametrize("network", [Mlp((6,)), Dcgan8(n_d=3), Dcgan(n_d=2)], ids=["mlp", "dcgan8", "dcgan"])
def test_open_gates_are_the_plain_trunk(network: Network) -> None:
    size = network.image_size or 8
    module = network.trunk((1, size, size), norm="none")
    trunk = GatedTrunk(module)
    x = torch.randn(2, 1, size, size)
    torch.testing.assert_close(trunk(x, [torch.ones(n) for n in trunk.widths]), module(x))


# Slopes and capacity ----------------------------------------------------------------------------------------
TASK = TaskInfo(0, 0, 2, 2, (0, 2))


def test_slope_rises_within_every_epoch_to_its_largest_value() -> None:
    hat, _ = made(s_max=400.0)
    slopes = [hat.slope(Step(TASK, "fit", 3, 10, b, 5)) for b in range(5)]
    assert slopes[0] == pytest.approx(1 / 400)
    assert slopes[-1] == pytest.approx(400.0)
    assert slopes[2] == pytest.approx(1 / 400 + (400 - 1 / 400) / 2)
    official, _ = made(s_max=400.0, annealing="official")
    assert official.slope(Step(TASK, "fit", 0, 1, 4, 5)) < 400.0


def test_capacity_term_is_a_share_and_soft_and_binary_agree() -> None:
    gates = [torch.tensor([0.2, 0.8, 1.0]), torch.tensor([0.5, 0.5])]
    reserved = [torch.tensor([True, False, False]), torch.tensor([False, True])]
    r = masks.sparsity(gates, reserved)
    assert float(r) == pytest.approx((0.8 + 1.0 + 0.5) / 3)
    torch.testing.assert_close(soft_sparsity(gates, [x.float() for x in reserved]), r)
    for value in (0.0, 1.0):
        full = [torch.full((3,), value)]
        assert 0.0 <= float(masks.sparsity(full, [torch.tensor([True, False, False])])) <= 1.0


def test_embedding_gradient_does_not_depend_on_the_slope() -> None:
    hat, stream = made(c=0.0, masks="binary", s_max=50.0)
    task, data = Protocol("task").task(stream, 0), stream.train(0)
    hat.begin_task(task, data)
    batch = Batch(data.x.float() / 255, data.y, {})
    e = hat.embeddings[0].detach()
    for b in (1, 4):
        step = Step(task, "fit", 0, 1, b, 50)
        s = hat.slope(step)
        a = masks.gate(e, s).requires_grad_()
        logits = hat.net.head(hat.trunk(batch.x, [a, masks.gate(hat.embeddings[1].detach(), s)]), (0, 2))
        (to_gate,) = torch.autograd.grad(nn.functional.cross_entropy(logits, batch.y), a)
        (raw,) = torch.autograd.grad(hat.loss(batch, step)["ce"], hat.embeddings[0])
        grads = {f"embeddings.{i}": torch.zeros_like(x) for i, x in enumerate(hat.embeddings)}
        grads["embeddings.0"] = raw.clone()
        hat.after_backward("net", grads, step)
        expected = to_gate * 50.0 * torch.sigmoid(e) * torch.sigmoid(-e)
        torch.testing.assert_close(grads["embeddings.0"], expected, rtol=1e-3, atol=1e-7)


def test_a_heavy_capacity_weight_opens_fewer_units() -> None:
    open_units = []
    for c in (0.0, 50.0):
        hat, stream = made(c=c, lr=0.2, epochs=8)
        train_task(hat, Protocol("task").task(stream, 0), stream.train(0), LoopState(), 0)
        open_units.append(sum(int(hat.reserved(i).sum()) for i in range(2)))
    assert open_units[1] < open_units[0] / 2


# Bad input --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("scenario", ["class", "domain"])
def test_it_needs_the_task_label(scenario: Any) -> None:
    spec = method("hat")
    with pytest.raises(ConfigError, match=rf"^scenario must be one of task for Hat, got '{scenario}'[^\n]*$"):
        spec.make(spec.config, Context(Mlp((9,)), (1, 8, 8), 4, scenario, 0))


def test_it_answers_for_learned_tasks_only_and_only_with_their_label() -> None:
    hat, stream = made()
    train_task(hat, Protocol("task").task(stream, 0), stream.train(0), LoopState(), 0)
    x = stream.train(0).x.float() / 255
    with pytest.raises(ConfigError, match=r"^hat predicts only with a task label[^\n]*$"):
        hat.predict(x)
    with pytest.raises(
        ConfigError, match=r"^a task must be learned before its head is asked, task 3 was not[^\n]*$"
    ):
        hat.predict(x, task=Protocol("task").task(stream, 2))


def test_bad_options_and_trunks_give_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^masks=soft needs plain sgd[^\n]*$"):
        method("hat", masks="soft", optimiser="adam")
    with pytest.raises(ConfigError, match=r"^hat.s_max must be a number >= 1[^\n]*$"):
        method("hat", s_max=0.5)
    with pytest.raises(ConfigError, match=r"^masks per unit protect [^\n]*normalisation.$"):
        GatedTrunk(ConvTrunk((1, 2, 4), 3, 8, norm="batch"))
    with pytest.raises(ConfigError, match=r"^masks per unit need a trunk of layers in a row[^\n]*$"):
        GatedTrunk(nn.Linear(2, 2))


def test_compensation_ends_where_the_gate_saturates() -> None:
    """Autograd's a (1 - a) is 0 in float32 where s e is large, and no factor brings it back; hat.md says so."""
    found = {}
    for closed in (False, True):
        e = torch.tensor([0.01, 0.1, 0.5], requires_grad=True)
        masks.gate(e, 400.0, closed_form=closed).sum().backward()
        found[closed] = masks.compensate(e.grad.clone(), e.detach(), 400.0, 400.0)
    expected = 400.0 * torch.sigmoid(e.detach()) * (1.0 - torch.sigmoid(e.detach()))
    torch.testing.assert_close(found[False][0], expected[0], rtol=1e-3, atol=0.0)
    assert found[False][1:].tolist() == [0.0, 0.0]
    torch.testing.assert_close(found[True][:2], expected[:2], rtol=1e-3, atol=0.0)
