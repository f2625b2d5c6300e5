"""DEN: which units a task touches, growth and its end, splits, stamps."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from tests.methods.isolated import HARSH, MLP, STREAM, answers, learn, made, noise, revived, task_of
from torch import Tensor

from engram.core.contract import evaluating
from engram.errors import ConfigError
from engram.learning.state import LoopState
from engram.methods.den import EXPAND, HEAD, MEASURE, RETRAIN, SPLIT, Den
from engram.methods.registry import method
from engram.networks import Mlp, PlainCnn, PreactResnet
from engram.parts.proximal import shrink_rows_

NEVER = 1e9
GROW: dict[str, Any] = {"loss_threshold": 0.0, "drift_threshold": NEVER, "n_new": 4}
SPLIT_ALL: dict[str, Any] = {"loss_threshold": NEVER, "drift_threshold": 0.0}


def den(network: Any = MLP, **options: Any) -> Den:
    return cast(Den, made("den", network, **options))


def learned(n: int, **options: Any) -> Den:
    net, state = den(**options), LoopState()
    for t in range(n):
        learn(net, t, state)
    return net


def test_proximal_steps_of_rows() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    shrink_rows_(rows, 1.0)
    torch.testing.assert_close(rows, torch.tensor([[2.4, 3.2], [0.0, 0.0], [0.0, 0.0]]))


def test_affected_units_by_hand() -> None:
    net = den(Mlp((3, 2)))
    net.begin_task(task_of(0), STREAM.train(0))
    with torch.no_grad():
        net.heads[0].weight.copy_(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
        net.weights[1].copy_(torch.tensor([[1.0, 1.0, 1.0], [0.0, 2.0, 0.0]]))
    assert net.affected(0) == [[1], [1]]
    net.units = [[1], [1]]
    held = net.held(RETRAIN)
    assert held["weights.0"].all(1).tolist() == [True, False, True]
    assert not bool(held["weights.0"][1].any())  # inputs are all taken
    assert held["weights.1"].tolist() == [[True, True, True], [True, False, True]]
    assert held["biases.1"].tolist() == [True, False]


def test_without_a_loss_that_calls_for_more_it_is_selective_retraining() -> None:
    net = learned(3, loss_threshold=NEVER, drift_threshold=NEVER)
    assert net.stamps == [[20, 15]] * 3
    assert net.plan == [HEAD, RETRAIN, MEASURE]
    assert net.report()["loss"] > 0


def test_growth_is_bounded_and_huge_group_lasso_takes_all_of_it_back() -> None:
    net = learned(3, **GROW)
    assert net.plan[-1] == EXPAND
    for before, after in zip(net.stamps, net.stamps[1:], strict=False):
        assert all(a < b <= a + 4 for a, b in zip(before, after, strict=True))
    assert learned(3, **{**GROW, "group_lasso": 100.0}).stamps == [[20, 15]] * 3


@pytest.mark.parametrize("options", [{}, HARSH], ids=["adam", "sgd"])
def test_expansion_leaves_what_was_there(options: dict[str, Any]) -> None:
    """With nothing to retrain, old tasks stay bit for bit while units come."""
    net, state = den(**GROW, **options), LoopState()
    learn(net, 0, state)
    was = answers(net, 0)
    net.affected = lambda index: [[], []]  # type: ignore[method-assign]
    learn(net, 1, state, noise(1))
    assert net.widths != [20, 15]
    assert torch.equal(answers(net, 0), was)


def test_a_task_is_not_touched_by_units_later_than_its_stamp_through_loading() -> None:
    net = learned(2, **GROW)
    net = cast(Den, revived("den", net, **GROW))
    was = [answers(net, t) for t in (0, 1)]
    with torch.no_grad():
        for i, n in enumerate(net.stamps[0]):
            net.weights[i][n:] = 7.0
            if i:
                net.weights[i][:, net.stamps[0][i - 1] :] = 7.0
    assert torch.equal(answers(net, 0), was[0])
    assert not torch.equal(answers(net, 1), was[1])


def test_a_split_gives_old_units_back_and_moves_the_present_ones() -> None:
    net, state = den(**SPLIT_ALL, lr=0.01), LoopState()
    learn(net, 0, state)
    was = answers(net, 0)
    task, data = task_of(1), STREAM.train(1)
    net.begin_task(task, data)
    with torch.no_grad():
        for i, w in enumerate(net.weights):
            w.add_(0.1 * torch.randn(w.shape, generator=torch.Generator().manual_seed(i)))
    x = data.x.float() / 255

    def features() -> Tensor:
        with evaluating(net):
            return net.logits(x, 1)

    present = features()
    assert not torch.equal(answers(net, 0), was)
    net.units = [list(range(20)), list(range(15))]
    net.begin_phase(task, SPLIT)
    assert net.widths == [40, 30]
    assert torch.equal(answers(net, 0), was)
    torch.testing.assert_close(features(), present)  # every reader of this task reads copies


def test_what_a_split_gave_back_stands_and_old_tasks_with_it() -> None:
    net, state = den(**SPLIT_ALL, lr=0.01, pull=0.0), LoopState()
    learn(net, 0, state)
    was = answers(net, 0)
    learn(net, 1, state)
    assert net.plan[-1] == SPLIT
    report = net.report()
    assert sum(report["split"]) > 0
    assert torch.allclose(answers(net, 0), was, atol=1e-5)  # all units that moved were split
    assert report["drift"]["max"] < 1e-4


def test_heads_and_stamps_never_change_later() -> None:
    net, state = den(**GROW), LoopState()
    learn(net, 0, state)
    head = [p.clone() for p in net.heads[0].parameters()]
    for t in (1, 2):
        stamps = list(net.stamps)
        learn(net, t, state)
        assert net.stamps[: len(stamps)] == stamps
    assert all(torch.equal(a, b) for a, b in zip(head, net.heads[0].parameters(), strict=True))


def test_what_it_cannot_do_is_refused_in_one_line() -> None:
    with pytest.raises(
        ConfigError, match=r"^den needs a network with its layers in a row, PreactResnet[^\n]*$"
    ):
        den(PreactResnet((1, 1), (4, 6)))
    with pytest.raises(ConfigError, match=r"^den needs a network of linear layers with biases alone[^\n]*$"):
        den(PlainCnn((4, 6)))
    with pytest.raises(ConfigError, match=r"^keep_optimiser must be false[^\n]*$"):
        method("den", keep_optimiser=True)
