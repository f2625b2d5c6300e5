"""Old tasks stay bit for bit, through loading, under anything that moves weights; and the controls that must drift."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.methods.isolated import HARSH, MLP, QUICK, STREAM, drifts, made, task_of

from engram.core.contract import Context, Samples
from engram.core.network import Network
from engram.errors import ConfigError
from engram.learning.loop import train_task
from engram.learning.state import LoopState
from engram.methods.registry import method
from engram.networks import PlainCnn, PreactResnet

CNN, RESNET = PlainCnn((4, 6)), PreactResnet((1, 1), (4, 6))
METHODS: dict[str, dict[str, Any]] = {
    "packnet": {"later_prune": 0.5},
    "piggyback": {"later_lr": 0.05},
    "pnn": {},
    "hat": {"s_max": 50.0},
}
NEEDS_LABELS = ["packnet", "piggyback", "pnn", "den"]


@pytest.mark.parametrize("name", METHODS)
def test_logits_of_old_tasks_are_the_same_bit_for_bit_on_a_perceptron(name: str) -> None:
    assert drifts(name, **METHODS[name], **HARSH) == [0.0, 0.0]
    assert drifts(name, **METHODS[name], optimiser="adam", lr=0.01, weight_decay=0.1) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("name", "network"),
    [("packnet", CNN), ("packnet", RESNET), ("piggyback", CNN), ("piggyback", RESNET), ("pnn", CNN)],
    ids=lambda v: v if isinstance(v, str) else v.name,
)
def test_logits_of_old_tasks_are_the_same_bit_for_bit_with_batch_norm(name: str, network: Network) -> None:
    assert drifts(name, network, **METHODS[name], **HARSH) == [0.0, 0.0]


@pytest.mark.parametrize("name", ["packnet", "piggyback"])
def test_without_frozen_batch_norm_old_tasks_drift(name: str) -> None:
    assert all(d > 1e-3 for d in drifts(name, RESNET, **METHODS[name], **HARSH, freeze_norms=False))


@pytest.mark.parametrize("name", NEEDS_LABELS)
@pytest.mark.parametrize("scenario", ["class", "domain"])
def test_they_need_the_task_label(name: str, scenario: Any) -> None:
    spec = method(name)
    with pytest.raises(ConfigError, match=rf"^scenario must be one of task for \w+, got '{scenario}'[^\n]*$"):
        spec.make(spec.config, Context(MLP, (1, 8, 8), 4, scenario, 0, 2))


@pytest.mark.parametrize("name", ["pnn"])
def test_a_network_that_branches_is_refused_by_name(name: str) -> None:
    with pytest.raises(
        ConfigError,
        match=rf"^{name} needs a network with its layers in a row, PreactResnetTrunk branches[^\n]*$",
    ):
        made(name, RESNET)


@pytest.mark.parametrize("name", ["packnet", "piggyback", "pnn", "den", "pc", "vcl"])
def test_they_learn_from_feature_vectors(name: str) -> None:
    spec = method(name, {**QUICK, **({"coreset": "k_centre", "coreset_size": 3} if name == "vcl" else {})})
    a_method, state = spec.make(spec.config, Context(MLP, (64,), 6, "task", 0, 3)), LoopState()
    for i in range(2):
        data = STREAM.train(i)
        vectors = Samples(data.x.flatten(1).float() / 255, data.y)
        train_task(a_method, task_of(i), vectors, state, 0)
        logits = a_method.predict(vectors.x, task=task_of(i))[:, 2 * i : 2 * i + 2]
        assert torch.isfinite(logits).all()
