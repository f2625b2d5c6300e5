"""A trade-off option: nothing before the declared point of the second task depends on it, and the end does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from engram.checks import SMALL, tiny_stream
from engram.checks.comparing import copied, differing
from engram.core.contract import Context
from engram.core.network import Network
from engram.learning.loop import EpochEnd, train_task
from engram.learning.state import LoopState
from engram.methods.registry import METHODS, about, entry, method
from engram.networks import Mlp, PlainCnn, PreactResnet
from engram.protocols.protocol import Protocol

DECLARED = {n: entry(n).make.tradeoff for n in METHODS if about(n).tradeoff is not None}


def run(name: str, value: float) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    """The states that must not depend on the option, and the last one."""
    tradeoff = DECLARED[name]
    options: dict[str, Any] = {**next(iter(SMALL[name].values())), tradeoff.option: value}
    if name == "den":
        options["head_epochs"] = 2  # of the phase that is shared, one of them to be looked at
    spec, stream, protocol = method(name, options), tiny_stream((2, 2)), Protocol("task")
    in_a_row: dict[str, Network] = {"pc": PlainCnn((4,)), "den": Mlp((6,))}
    network = in_a_row.get(name, PreactResnet((1,), (4,)))
    made = spec.make(spec.config, Context(network, (1, 8, 8), 4, "task", 0))
    state, before = LoopState(), []
    train_task(made, protocol.task(stream, 0), stream.train(0), state, 0)
    before.append(copied(made.state_dict()))

    def keep(event: EpochEnd) -> None:
        if tradeoff.after is not None and (not before[1:] or event.phase == tradeoff.after):
            before.append(copied(made.state_dict()))

    train_task(made, protocol.task(stream, 1), stream.train(1), state, 0, on_epoch=keep)
    return before, copied(made.state_dict())


@pytest.mark.parametrize("name", DECLARED)
def test_the_option_matters_from_the_declared_point_on(name: str) -> None:
    tradeoff = DECLARED[name]
    values = (0.2, 0.7) if tradeoff.scale == "linear" else (tradeoff.centre, 30 * tradeoff.centre)
    (a, end_a), (b, end_b) = (run(name, value) for value in values)
    assert len(a) == len(b) == (1 if tradeoff.after is None else 3)
    assert not [k for x, y in zip(a, b, strict=True) for k in differing(x, y)]
    assert any("trunk" in k or k.startswith("weights") for k in differing(end_a, end_b))


def test_every_comparable_method_declares_one() -> None:
    """The table of Lee et al. (AAAI 2020) needs an option of each method but fine-tuning and frozen trunks."""
    options = {name: tradeoff.option for name, tradeoff in DECLARED.items()}
    strengths = dict.fromkeys(("ewc", "ewc-online", "rwalk", "mas", "lwf", "l2sp"), "strength")
    ratios = dict.fromkeys(("imm-mean", "imm-mode", "averaging"), "ratio")
    assert {**strengths, **ratios, "si": "c", "rescl": "decay"}.items() <= options.items()
    assert not {"finetune", "frozen"} & set(options)
    assert torch.isfinite(torch.tensor([t.centre for t in DECLARED.values()])).all()
