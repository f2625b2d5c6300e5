"""One method on one tiny stream and one network: what the checks need to train, stop, resume and compare."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engram.checks.failure import require
from engram.core.contract import Context, Method, Scenario
from engram.core.network import Network
from engram.errors import ConfigError
from engram.learning.loop import EpochEnd
from engram.methods.registry import MethodSpec
from engram.protocols.evaluation import Protocol
from engram.protocols.session import Session, TaskEnd
from engram.streams import Stream

Event = EpochEnd | TaskEnd
State = dict[str, Tensor]


class Trained(NamedTuple):
    """What a run leaves: state dict, result without times and memory, and number of events told."""

    state: State
    result: dict[str, Any]
    n_events: int


def copied(state: Mapping[str, Tensor]) -> State:
    """A state dict's tensors, copied."""
    return {k: v.detach().clone() for k, v in state.items()}


def differing(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> list[str]:
    """Names that are in one only, or whose tensors are not bitwise equal (NaN equals NaN)."""
    return [k for k in {**a, **b} if k not in a or k not in b or not same(a[k], b[k])]


def same(a: Tensor, b: Tensor) -> bool:
    """Bitwise equality of two tensors, shape and type included."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return bool(torch.equal(_bits(a), _bits(b)))


def _bits(x: Tensor) -> Tensor:
    return x.detach().contiguous().reshape(-1).view(torch.uint8) if x.numel() else x.reshape(-1)


def shown(names: Collection[str]) -> str:
    """A list of names, at most three of them spelled out."""
    few = sorted(names)[:3]
    return ", ".join(few) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def timeless(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A seed's result without what no run can repeat: times, peak memory, and where samples were written."""
    dropped = ("seconds", "seconds_per_task", "peak_memory_bytes", "samples")
    kept = {k: v for k, v in entry.items() if k not in dropped}
    if kept.get("tasks") is not None:
        kept["tasks"] = [{k: v for k, v in t.items() if k != "seconds"} for t in kept["tasks"]]
    return json.loads(json.dumps(kept))


def first_difference(a: Any, b: Any, where: str = "") -> str:
    """Where two JSON values differ, in words; empty when they do not."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in {**a, **b}:
            found = first_difference(a.get(key), b.get(key), f"{where}.{key}" if where else str(key))
            if found:
                return found
        return ""
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            found = first_difference(x, y, f"{where}[{i}]")
            if found:
                return found
        return ""
    # NaN cannot be told from itself by ==.
    return "" if a == b or repr(a) == repr(b) else f"{where}: {a!r} and {b!r}"


def running_statistics(module: nn.Module) -> State:
    """The buffers that a pure loss may move: running statistics of normalisation layers, by name."""
    return {
        f"{name}.{key}" if name else key: value
        for name, m in module.named_modules()
        if isinstance(m, _BatchNorm)
        for key, value in m.named_buffers(recurse=False)
    }


@dataclass
class Bench:
    """A method in a setting.

    Args:
        spec: name, factory and small options.
        stream, network, scenario: the setting.
        allow_negative: options for which a negative number makes sense.
    """

    spec: MethodSpec
    stream: Stream
    network: Network
    scenario: Scenario
    allow_negative: Collection[str] = field(default=())

    def context(self, seed: int = 0) -> Context:
        """What a method is built for here."""
        return Context(
            self.network,
            self.stream.image_shape,
            self.stream.n_classes,
            self.scenario,
            seed,
            self.stream.n_tasks,
        )

    def build(self, config: Any = None, seed: int = 0) -> Method:
        """A fresh method."""
        return self.spec.make(self.spec.config if config is None else config, self.context(seed))

    @cached_property
    def usable(self) -> bool:
        """Whether the method accepts this setting at all."""
        try:
            self.network.check(self.stream.image_shape)
            self.build()
        except ConfigError:
            return False
        return True

    def session(
        self,
        *,
        seed: int = 0,
        out: Path | None = None,
        resume: bool = False,
        prepare: Callable[[Method], None] | None = None,
        on_task: Callable[[Session, int], None] | None = None,
        on_event: Callable[[Session, Event], None] | None = None,
    ) -> Session:
        """A run that has not started.

        Args:
            seed, out, resume: as in :func:`engram.protocols.session.run`.
            prepare: given the method as soon as it is made.
            on_task: given the session and the task's index after each task.
            on_event: given the session and the event after each epoch and each task.
        """

        def make(config: Any, context: Context) -> Method:
            made = self.spec.make(config, context)
            if prepare is not None:
                prepare(made)
            return made

        def observe(event: Event) -> None:
            if on_event is not None:
                on_event(held[0], event)
            if on_task is not None and isinstance(event, TaskEnd):
                on_task(held[0], event.task)

        session = Session(
            # A stream of its own, whose cached samples no other run shares.
            self.stream.to("cpu"),
            self.network,
            MethodSpec(self.spec.name, make, self.spec.config),
            Protocol(self.scenario, generated_per_class=0),
            seed=seed,
            device="cpu",
            out=out,
            resume=resume,
            observer=observe,
        )
        held = [session]
        return session

    def train(self, session: Session | None = None, *, seed: int = 0) -> Trained:
        """Run to the end."""
        session = self.session(seed=seed) if session is None else session
        count = 0
        told = session.observer

        def observe(event: Event) -> None:
            nonlocal count
            count += 1
            if told is not None:
                told(event)

        session.observer = observe
        entry = session.go(None)
        require(
            entry["status"] == "done",
            "a run without interruption ends with status done",
            entry["status"],
            "look at the method's moments",
        )
        return Trained(copied(session.method.state_dict()), timeless(entry), count)

    @cached_property
    def reference(self) -> Trained:
        """The uninterrupted run with seed 0."""
        return self.train()

    def compare(self, other: Trained, must: str, advice: str) -> None:
        """Raise unless weights and metrics of ``other`` are those of the reference."""
        names = differing(self.reference.state, other.state)
        require(not names, must, f"{len(names)} state tensors differ ({shown(names)})", advice)
        where = first_difference(self.reference.result, other.result)
        require(not where, must, f"results differ at {where}", advice)

    def inputs(self, task: int = 0, n: int = 6) -> Tensor:
        """Test images of a task in the network's range."""
        return self.network.normalise(self.stream.test(task).x[:n])
