"""Piggyback: masks from scores, a backbone that never moves, tasks that do not depend on each other."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from tests.methods.isolated import STREAM, answers, learn, made, noise, task_of

from engram.core.contract import Batch, Step
from engram.errors import ConfigError
from engram.learning.state import LoopState
from engram.methods.piggyback import Piggyback, StraightThrough, mask_of
from engram.methods.registry import method

LATER: dict[str, Any] = {"later_lr": 0.02}


def piggyback(**options: Any) -> Piggyback:
    return cast(Piggyback, made("piggyback", **{**LATER, **options}))


def test_masks_by_hand() -> None:
    r = torch.tensor([-0.1, -0.0, 0.004, 0.005, 0.006])
    assert mask_of(r, 0.005, "binary").tolist() == [0, 0, 0, 0, 1]
    assert mask_of(r, 0.005, "ternary").tolist() == [-1, 0, 0, 0, 1]


def test_gradient_of_a_score_is_that_of_the_masked_weight_times_the_weight() -> None:
    torch.manual_seed(0)
    w, x = torch.randn(3, 4), torch.randn(5, 4)
    r = torch.randn(3, 4, requires_grad=True)
    m = cast(torch.Tensor, StraightThrough.apply(r, 0.005, "binary"))
    effective = (m * w).detach().requires_grad_()
    (x @ (m * w).T).square().sum().backward()
    (x @ effective.T).square().sum().backward()
    torch.testing.assert_close(r.grad, effective.grad * w)


@pytest.mark.parametrize("options", [{}, {"masks": "ternary"}, {"score_start": "uniform"}], ids=str)
def test_the_backbone_stays_and_masks_learn(options: dict[str, Any]) -> None:
    net, state = piggyback(**options), LoopState()
    learn(net, 0, state)
    backbone = {k: v.clone() for k, v in net.net.trunk.state_dict().items()}
    for t in (1, 2):
        learn(net, t, state)
    assert all(torch.equal(v, backbone[k]) for k, v in net.net.trunk.state_dict().items())
    assert not torch.equal(net.mask(1, 0), net.mask(2, 0))
    allowed = {-1.0, 0.0, 1.0} if options.get("masks") == "ternary" else {0.0, 1.0}
    assert set(net.mask(1, 0).unique().tolist()) == allowed
    n = sum(r.numel() for r in net.scores)
    least = 2 * (2 if "masks" in options else 1) * n / 8
    assert least <= net.storage_bytes()["masks"] <= least + 2 * 2 * len(net.names)


def test_open_masks_are_the_backbone() -> None:
    net = piggyback()
    learn(net, 0, LoopState())
    task, data = task_of(1), STREAM.train(1)
    net.begin_task(task, data)
    x = data.x.float() / 255
    masks = [net.mask(1, i) for i in range(len(net.names))]
    assert all(bool((m == 1).all()) for m in masks)
    assert torch.equal(net._features(x, masks), net.net.trunk(x))


def test_a_task_depends_on_the_backbone_alone() -> None:
    found = []
    for disturbed in (False, True):
        net, state = piggyback(), LoopState()
        learn(net, 0, state)
        learn(net, 1, state, noise(1) if disturbed else None)
        learn(net, 2, state)
        found.append(answers(net, 2))
    assert torch.equal(*found)


def test_scaling_scores_threshold_and_rate_leaves_sgd_as_it_is() -> None:
    found = []
    for s in (1.0, 4.0):  # a power of two, so that no bit is lost
        net, state = (
            piggyback(threshold=0.005 * s, score=0.01 * s, optimiser="sgd", later_lr=0.25),
            LoopState(),
        )
        learn(net, 0, state)
        task, data = task_of(1), STREAM.train(1)
        net.begin_task(task, data)
        for _ in range(3):
            loss = net.loss(Batch(data.x.float() / 255, data.y, {}), Step(task, "fit", 0, 1, 0, 1))["ce"]
            for r, g in zip(net.scores, torch.autograd.grad(loss, list(net.scores)), strict=True):
                r.data -= 2.0 * s * g
        found.append([net.mask(1, i) for i in range(len(net.names))])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert not all(bool((m == 1).all()) for m in found[0])


def test_a_given_backbone_is_masked_from_the_first_task_on() -> None:
    net, state = piggyback(backbone="given", lr=0.02), LoopState()
    given = {k: v.clone() for k, v in net.net.trunk.state_dict().items()}
    for t in range(2):
        learn(net, t, state)
    assert all(torch.equal(v, given[k]) for k, v in net.net.trunk.state_dict().items())
    assert net.n_kept == 2
    assert net.facts() == {"backbone": "the network as given"}


def test_bad_options_give_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^score must be above threshold[^\n]*$"):
        method("piggyback", score=0.001)
    with pytest.raises(ConfigError, match=r"^keep_optimiser must be false[^\n]*$"):
        method("piggyback", keep_optimiser=True)
