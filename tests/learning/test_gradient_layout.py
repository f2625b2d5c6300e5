"""Fused optimisers read a gradient in order of memory: the loop must lay it out as its parameter."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engram.core.contract import Batch, Optimiser, Player, Step, TaskInfo, Update
from engram.learning.loop import gradients
from engram.learning.optimisers import Stepper


def penalty_step(kind: str, fused: bool) -> torch.Tensor:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 8, 5, 2, 2, bias=False)

    def loss(batch, step):
        x = batch.x.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(conv(x).square().sum(), x, create_graph=True)
        return {"penalty": slope.square().mean()}

    player = Player({"weight": conv.weight}, Optimiser(kind, 0.01))
    batch = Batch(torch.randn(8, 4, 16, 16), torch.zeros(8, dtype=torch.int64), {})
    step = Step(TaskInfo(0, 0, 2, 2, (0, 2)), "p", 0, 1, 0, 1)
    _, grads = gradients(Update("u", "p", loss), player, batch, step)
    assert grads["weight"].stride() == conv.weight.stride()
    if fused:
        Stepper.of(player).step(grads)
    else:
        conv.weight.grad = grads["weight"]
        kinds = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
        kinds[kind]([conv.weight], lr=0.01, foreach=False).step()
    return conv.weight.detach().clone()


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_a_double_backward_moves_each_weight_by_its_own_gradient(kind):
    torch.testing.assert_close(penalty_step(kind, True), penalty_step(kind, False), rtol=1e-6, atol=1e-7)
