"""Methods that isolate tasks, trained task by task, each task after a journey through structure and tensors."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from engram import seeds
from engram.checks import tiny_stream
from engram.core.contract import Context, Method, Samples, TaskInfo
from engram.core.network import Network
from engram.learning.loop import train_task
from engram.learning.state import LoopState
from engram.methods.registry import method
from engram.networks import Mlp
from engram.protocols.protocol import Protocol

GROUPS = (2, 2, 2)
STREAM = tiny_stream(GROUPS)
MLP = Mlp((20, 15))
#: What moves weights that have no gradient, if anything does.
HARSH = {"optimiser": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}
QUICK: dict[str, Any] = {"epochs": 3, "batch_size": 6}


def made(name: str, network: Network = MLP, n_tasks: int | None = len(GROUPS), **options: Any) -> Method:
    """A fresh method for the tiny stream with task labels."""
    spec = method(name, {**QUICK, **options})
    return spec.make(spec.config, Context(network, (1, 8, 8), sum(GROUPS), "task", 0, n_tasks))


def task_of(index: int) -> TaskInfo:
    return Protocol("task").task(STREAM, index)


def noise(index: int) -> Samples:
    """A task's labels under images of pure noise."""
    data = STREAM.train(index)
    g = seeds.generator(0, "noise", index)
    return Samples(torch.randint(0, 256, data.x.shape, generator=g, dtype=torch.uint8), data.y)


def answers(a_method: Method, index: int) -> Tensor:
    """Logits of a task's own classes for its training images."""
    task, x = task_of(index), a_method.context.network.normalise(STREAM.train(index).x)
    return a_method.predict(x, task=task)[:, task.start : task.stop].clone()


def learn(a_method: Method, index: int, state: LoopState, data: Samples | None = None) -> None:
    train_task(a_method, task_of(index), STREAM.train(index) if data is None else data, state, 0)


def revived(name: str, old: Method, network: Network = MLP, **options: Any) -> Method:
    """The method as another process would load it: structure through JSON, tensors strictly."""
    fresh = made(name, network, **options)
    fresh.rebuild(json.loads(json.dumps(old.structure(), sort_keys=True)))
    fresh.load_state_dict({k: v.clone() for k, v in old.state_dict().items()}, strict=True)
    return fresh


def drifts(name: str, network: Network = MLP, **options: Any) -> list[float]:
    """How far the logits of each of the first two tasks move while two tasks of noise are learned after it."""
    a_method, state = made(name, network, **options), LoopState()
    kept: list[Tensor] = []
    for i in range(3):
        learn(a_method, i, state, noise(i) if i else None)
        kept.append(answers(a_method, i))
        a_method = revived(name, a_method, network, **options)
    return [float((answers(a_method, i) - kept[i]).abs().max()) for i in range(2)]
