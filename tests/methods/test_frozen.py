"""Feature extraction: after the first task the trunk and old output rows stay, bit for bit."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from engram.checks import tiny_stream
from engram.checks.comparing import copied, same
from engram.core.contract import Context, Step
from engram.errors import ConfigError
from engram.learning.loop import train_task
from engram.learning.state import LoopState
from engram.methods.frozen import Frozen
from engram.methods.registry import method
from engram.networks import PreactResnet
from engram.parts.fitting import FitOptions
from engram.protocols.protocol import Protocol

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "task": ("task", {}),
    "task, decay and momentum": (
        "task",
        {"optimiser": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.1, "keep_optimiser": True},
    ),
    "task, stored": ("task", {"memory_per_class": 2}),
    "masked": ("task", {"masked_head": True, "keep_optimiser": True}),
    "class": ("class", {"weight_decay": 0.1, "keep_optimiser": True}),
    "class, stored": ("class", {"memory_per_class": 2, "optimiser": "sgd", "lr": 0.05, "momentum": 0.9}),
}


def learn(setting: str, name: str = "frozen") -> tuple[list[dict[str, Tensor]], list[list[Tensor]]]:
    """State after each task, and the answers to each task's test samples after each task."""
    scenario, options = SETTINGS[setting]
    stream, protocol = tiny_stream((2, 2, 2)), Protocol(scenario)  # type: ignore[arg-type]
    network = PreactResnet((1, 1), (4, 6))
    spec = method(name, {"epochs": 2, "batch_size": 6, **options})
    made = spec.make(spec.config, Context(network, (1, 8, 8), stream.n_classes, scenario, 0))  # type: ignore[arg-type]
    state, states, answers = LoopState(), [], []
    for i in range(stream.n_tasks):
        train_task(made, protocol.task(stream, i), stream.train(i), state, 0)
        states.append({k: v for k, v in copied(made.state_dict()).items() if k.startswith("net.")})
        answers.append([])
        for j in range(i + 1):
            task = protocol.task(stream, j) if scenario == "task" else None
            logits = made.predict(network.normalise(stream.test(j).x), task=task)
            start, stop = task.active if task is not None else (0, protocol.task(stream, j).n_seen)
            answers[-1].append(logits[:, start:stop])
    return states, answers


@pytest.mark.parametrize("setting", SETTINGS)
def test_trunk_and_old_rows_stay_and_new_rows_learn(setting: str) -> None:
    states, _ = learn(setting)
    for before, after in itertools.pairwise(states):
        for k, v in before.items():
            assert same(after[k][: len(v)] if v.dim() else after[k], v), k
    head = [states[i]["net.head.parts.0.weight"].shape[0] for i in range(3)]
    assert head == ([2, 4, 6] if setting in ("masked", "class", "class, stored") else [2, 2, 2])
    assert all(f"net.head.parts.{i}.weight" in states[2] for i in range(3) if head[2] == 2)
    fresh = learn(setting, "finetune")[0]
    assert all(same(states[0][k], fresh[0][k]) for k in fresh[0])  # the first task is fine-tuning


@pytest.mark.parametrize("setting", ["task", "task, decay and momentum", "task, stored"])
def test_with_real_heads_nothing_is_forgotten_at_all(setting: str) -> None:
    _, answers = learn(setting)
    for j in range(3):
        assert all(same(answers[i][j], answers[j][j]) for i in range(j, 3))


@pytest.mark.parametrize("setting", SETTINGS)
def test_new_rows_are_trained(setting: str) -> None:
    """They differ from what they are drawn as: the same rows with nothing to learn from them."""
    states, _ = learn(setting)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Frozen, "after_backward", still)
        drawn, _ = learn(setting)
    shared = "net.head.parts.0.weight" if len(states[2]["net.head.parts.0.weight"]) == 6 else None
    rows = (states[2], drawn[2])
    a, b = (r[shared][4:] if shared else r["net.head.parts.2.weight"] for r in rows)
    assert not same(a, b)


def still(self: Frozen, player: str, grads: dict[str, Tensor], step: Step) -> None:
    """No gradient after the first task."""
    for grad in grads.values():
        grad.mul_(float(step.task.index == 0))


def test_decay_acts_on_new_rows_as_in_the_optimiser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Real heads: the same as handing the decay to the optimiser."""
    ours = learn("task, decay and momentum")[0][-1]
    monkeypatch.setattr(Frozen, "after_backward", lambda *_: None)
    plain = FitOptions.player
    monkeypatch.setattr(FitOptions, "player", lambda c, p: plain(replace(c, weight_decay=0.1), p))
    theirs = learn("task, decay and momentum")[0][-1]
    for k, v in ours.items():
        torch.testing.assert_close(v, theirs[k], rtol=1e-6, atol=1e-7)


def test_no_domain_scenario() -> None:
    spec = method("frozen")
    with pytest.raises(
        ConfigError, match=r"^scenario must be one of class, task for Frozen, got 'domain'[^\n]*$"
    ):
        spec.make(spec.config, Context(PreactResnet((1,), (4,)), (1, 8, 8), 2, "domain", 0))
