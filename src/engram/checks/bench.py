"""One method on one tiny stream and one network: what the checks train, and the one run at which many of them look."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from engram.checks.comparing import State, copied, differing, first_difference, shown, timeless
from engram.checks.failure import require
from engram.core.contract import Batch, Context, Method, Scenario, Step, TaskInfo, Terms, Update
from engram.core.network import Network
from engram.errors import ConfigError
from engram.learning.loop import EpochEnd
from engram.methods.registry import MethodSpec
from engram.protocols.protocol import Protocol
from engram.protocols.session import Session, TaskEnd
from engram.streams import Stream

Event = EpochEnd | TaskEnd


class Trained(NamedTuple):
    """What a run leaves: state dict, result without times and memory, and number of events told."""

    state: State
    result: dict[str, Any]
    n_events: int


@dataclass
class Bench:
    """A method in a setting.

    Args:
        spec: name, factory and small options.
        stream, network, scenario: the setting.
        allow_negative: options for which a negative number makes sense.
        device: cpu or cuda.
    """

    spec: MethodSpec
    stream: Stream
    network: Network
    scenario: Scenario
    allow_negative: Collection[str] = field(default=())
    device: str = "cpu"

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
            device=self.device,
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
        return self.network.normalise(self.stream.test(task).x[:n]).to(self.device)

    @cached_property
    def watched(self) -> tuple[dict[str, Look], Exception | None]:
        """What each check saw that only looks, and what ended the run before its end."""
        looks: dict[str, Look] = {}

        def told(_: Session, event: Event) -> None:
            for one in looks.values():
                one.tell(one.at_event, event)

        session = self.session(on_event=told)
        for name, function in LOOKS.items():
            looks[name] = Look(self, session)
            function(looks[name])
        try:
            self.train(session)
        except Exception as error:
            return looks, error
        for one in looks.values():
            one.tell(one.at_end)
        return looks, None


class Look:
    """What one check sees of the watched run. Given before the run starts, to say at which moments it looks.

    A look leaves the run as it is. It raises where something is wrong; that is kept in ``fault``, and it looks no more.
    """

    def __init__(self, bench: Bench, session: Session) -> None:
        self.bench, self.session, self.method = bench, session, session.method
        self.fault: Exception | None = None
        self.at_event: list[Callable[[Event], None]] = []
        self.at_end: list[Callable[[], None]] = []

    def each_event(self, do: Callable[[Event], None]) -> None:
        """After each epoch and each task."""
        self.at_event.append(do)

    def each_task(self, do: Callable[[int], None]) -> None:
        """After each task, whose index is given."""

        def at_event(event: Event) -> None:
            if isinstance(event, TaskEnd):
                do(event.task)

        self.at_event.append(at_event)

    def end(self, do: Callable[[], None]) -> None:
        """After the run."""
        self.at_end.append(do)

    def around(self, name: str, look: Callable[..., Any]) -> None:
        """In place of a method's function ``name``: ``look`` is given it and its arguments, and returns its value."""
        setattr(self.method, name, functools.partial(self._instead, look, getattr(self.method, name)))

    def around_losses(self, look: Callable[[Callable[..., Terms], Update, Batch, Step], Terms]) -> None:
        """In place of a player's losses: ``look`` is given one, its update, batch and step, and returns its terms."""
        phases = self.method.phases

        def watched(update: Update) -> Update:
            def loss(batch: Batch, step: Step) -> Terms:
                return self._instead(lambda inner, *at: look(inner, update, *at), update.loss, batch, step)

            return update if update.player is None else dataclasses.replace(update, loss=loss)

        def asked(*arguments: Any) -> Any:
            return tuple(
                dataclasses.replace(phase, updates=tuple(map(watched, phase.updates)))
                for phase in phases(*arguments)
            )

        self.method.phases = asked  # type: ignore[method-assign, assignment]

    def _instead(self, look: Callable[..., Any], inner: Callable[..., Any], *arguments: Any) -> Any:
        if self.fault is not None:
            return inner(*arguments)
        done: list[Any] = []
        own: list[Exception] = []

        def once(*given: Any) -> Any:
            try:
                done.append(inner(*given))
            except Exception as error:
                own.append(error)
                raise
            return done[-1]

        try:
            return look(once, *arguments)
        except Exception as fault:
            if fault in own:
                raise  # the method's, which ends the run for all
            self.fault = fault
            return done[-1] if done else inner(*arguments)

    def tell(self, looks: list[Callable[..., None]], *arguments: Any) -> None:
        """Let these look, unless a fault was found."""
        for look in looks:
            try:
                if self.fault is None:
                    look(*arguments)
            except Exception as fault:
                self.fault = fault

    def given(self, index: int) -> TaskInfo:
        """What the method was told of task ``index``."""
        return self.session.protocol.task(self.session.stream, index)

    def asked(self, index: int) -> TaskInfo | None:
        """What ``predict`` is told for samples of task ``index``."""
        return self.given(index) if self.bench.scenario == "task" else None


Check = Callable[[Bench], None]

#: The checks by name, in the order in which they run.
CHECKS: dict[str, Check] = {}
#: Those of them that only look: one run is watched by all.
LOOKS: dict[str, Callable[[Look], None]] = {}


def check(function: Check) -> Check:
    """Enter a check under its function's name."""
    CHECKS[function.__name__] = function
    return function


def look(function: Callable[[Look], None]) -> Check:
    """Enter a check that only looks."""
    LOOKS[function.__name__] = function

    @functools.wraps(function)
    def found(bench: Bench) -> None:
        looks, broken = bench.watched
        fault = looks[function.__name__].fault or broken
        if fault is not None:
            raise fault

    return check(found)
