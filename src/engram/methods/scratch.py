"""From scratch: a network of its own for each task, learned from fresh weights. Nothing is transferred or forgotten.

Source: the third bar of Fig. 6 in Zenke et al. (ICML 2017), where the network is initialised anew before each task.

Departures: all networks are kept, so that every task is answered after every other one; the authors evaluate each on
its own task only, which gives the same figures. The first task is learned from the weights of the run's seed, as by
``finetune``.
Cost: a network a task, counted in the storage.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from engram import seeds
from engram.core.contract import (
    Batch,
    Context,
    Method,
    Phase,
    Player,
    Samples,
    Scenario,
    Step,
    TaskInfo,
    Terms,
    named_parameters,
)
from engram.errors import ConfigError
from engram.methods.registry import Entry
from engram.parts import small
from engram.parts.classifier import Classifier, spread
from engram.parts.fitting import FreshFitOptions
from engram.parts.window import Window, cross_entropy


@dataclass(frozen=True)
class FromScratchConfig(FreshFitOptions):
    """Options of training from scratch; there is no optimiser state to keep from task to task.

    Args:
        zero_head: the output layers start at 0, as in the code of Zenke et al. (2017).
    """

    fresh: ClassVar[str] = "every task has fresh weights"
    zero_head: bool = False


class FromScratch(Method):
    """Cross entropy on the current task, from fresh weights."""

    Config = FromScratchConfig
    config: FromScratchConfig
    scenarios: ClassVar[frozenset[Scenario]] = frozenset({"task"})

    def __init__(self, config: FromScratchConfig, context: Context) -> None:
        super().__init__(config, context)
        self.nets = nn.ModuleList()

    def _add(self, index: int) -> Classifier:
        seed = self.context.seed if index == 0 else seeds.derive(self.context.seed, "fresh", index)
        self.nets.append(Classifier(replace(self.context, seed=seed)))
        return self._net(index)

    def _net(self, index: int) -> Classifier:
        net = self.nets[index]
        if not isinstance(net, Classifier):
            raise TypeError(f"network {index} is a {type(net).__name__}")
        return net

    @property
    def sizes(self) -> list[int]:
        """Classes of each task begun."""
        return [self._net(i).head.n_outputs for i in range(len(self.nets))]

    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        head = self._add(task.index).head
        head.grow(task.n_classes, self.context.seed, task.index)
        for p in head.parameters() if self.config.zero_head else ():
            nn.init.zeros_(p)
        self.nets.to(data.x.device)

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        return (self.config.for_task(task).phase(self.loss),)

    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        return {"net": self.config.for_task(task).player(named_parameters(self, f"nets.{task.index}."))}

    def loss(self, batch: Batch, step: Step) -> Terms:
        task = step.task
        logits = self._net(task.index)(batch.x, (0, task.n_classes))
        return {"ce": cross_entropy(logits, batch.y, Window(task.active))}

    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        if task is None or task.index >= len(self.nets):
            raise ConfigError("a task must be named and learned before its network is asked: learn it first.")
        return spread(self._net(task.index).predict(x, None), task.active, sum(self.sizes))

    def structure(self) -> dict[str, Any]:
        return {"heads": self.sizes}

    def rebuild(self, structure: dict[str, Any]) -> None:
        self.nets = nn.ModuleList()
        for index, size in enumerate(structure["heads"]):
            self._add(index).head.rebuild([size])


ENTRIES = {
    "scratch": Entry(
        FromScratch,
        FromScratchConfig(),
        "a network of its own for each task, from fresh weights: no transfer",
        small={
            "adam": f"{small.FIT}, momentum=0, weight_decay=0, keep_optimiser=false, zero_head=false",
            "sgd": f"{small.FIT}, optimiser=sgd, lr=0.05, momentum=0.9, weight_decay=0, keep_optimiser=false, "
            "zero_head=true",
        },
    )
}
