"""What the contract holds ready for methods to come, each shown by a toy method, in one run and resumed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engram import seeds
from engram.checks import tiny_stream
from engram.checks.comparing import copied, same
from engram.core.contract import (
    Batch,
    Context,
    Method,
    Optimiser,
    Phase,
    Player,
    Samples,
    Step,
    TaskInfo,
    Terms,
    Update,
    named_parameters,
)
from engram.errors import ConfigError
from engram.learning.loop import train_task
from engram.learning.state import LoopState
from engram.networks import Dcgan8, Mlp
from engram.parts.classifier import Classifier
from engram.parts.memory import SampleMemory
from engram.protocols.protocol import Protocol
from engram.streams import Stream, class_incremental, from_arrays, permuted


@dataclass(frozen=True)
class Options:
    epochs: int = 2


class Toy(Method):
    """Plain training; the toys below change one thing each."""

    Config = Options

    def __init__(self, config: Options, context: Context) -> None:
        super().__init__(config, context)
        self.net = Classifier(context)

    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        self.net.head.grow(task.n_seen, self.context.seed, task.index)

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        return (Phase("fit", self.config.epochs, (Update("net", "net", self.loss),), 5),)

    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        return {"net": Player(named_parameters(self, "net."), Optimiser("adam", 0.1))}

    def loss(self, batch: Batch, step: Step) -> Terms:
        return {"ce": F.cross_entropy(self.net(batch.x, (0, step.task.n_seen)), batch.y)}

    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        return self.net.predict(x, task)


class Cut(Exception):
    pass


def learned(
    kind: type[Method], stream: Stream, cut: tuple[int, str, int] | None = None, network: Any = None
) -> Method:
    """A method that has learned ``stream``; with ``cut`` (task, phase, epoch) made anew from its state behind that."""

    def build() -> Method:
        return kind(
            Options(), Context(network or Mlp((6,)), stream.image_shape, stream.n_classes, "class", 0)
        )

    made, state, protocol = build(), LoopState(), Protocol("class")

    def on_epoch(event: Any) -> None:
        if (event.task, event.phase, event.epoch) == cut:
            raise Cut

    while state.cursor.task < stream.n_tasks:
        i = state.cursor.task
        try:
            train_task(made, protocol.task(stream, i), stream.train(i), state, 0, on_epoch=on_epoch)
        except Cut:
            cut, tensors, structure = None, copied(made.state_dict()), made.structure()
            made = build()
            made.rebuild(structure)
            made.load_state_dict(tensors)
    return made


def alike(a: Method, b: Method) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(same(v, second[k]) for k, v in first.items())


# Phases that follow from what was learned -------------------------------------------------------------------
class Deciding(Toy):
    """One epoch; where the weights then hold more than a bound, which a buffer notes, further phases come."""

    def __init__(self, config: Options, context: Context) -> None:
        super().__init__(config, context)
        self.register_buffer("wanted", torch.zeros((), dtype=torch.int64))
        self.ran: list[tuple[int, str]] = []

    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        super().begin_task(task, data)
        self.wanted.zero_()  # type: ignore[operator]

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        (fit,) = super().phases(task, n_samples)
        more = (Phase(f"more{i}", 2, fit.updates, 5) for i in range(int(self.wanted)))  # type: ignore[arg-type]
        return (fit, *more)

    def end_phase(self, task: TaskInfo, phase: str) -> None:
        self.ran.append((task.index, phase))
        if phase == "fit":
            self.wanted.fill_(task.index)  # type: ignore[operator]


def test_phases_to_come_follow_from_the_phase_that_ended() -> None:
    stream = tiny_stream((1, 1, 1))
    whole: Any = learned(Deciding, stream)
    assert whole.ran == [(0, "fit"), (1, "fit"), (1, "more0"), (2, "fit"), (2, "more0"), (2, "more1")]
    for cut in ((1, "fit", 1), (2, "more1", 0)):
        assert alike(whole, learned(Deciding, stream, cut))


def test_phases_that_are_done_must_stay() -> None:
    class Fickle(Deciding):
        def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
            return super().phases(task, n_samples)[::-1]

    with pytest.raises(ConfigError, match=r"^phases that are done must stay first [^\n]+$"):
        learned(Fickle, tiny_stream((1, 1)))


# Feature vectors --------------------------------------------------------------------------------------------
class Rehearsing(Toy):
    """Learns on stored vectors too."""

    reads = "memory"

    def __init__(self, config: Options, context: Context) -> None:
        super().__init__(config, context)
        self.memory = SampleMemory(context.image_shape)

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        pools = ("task", "stored") if task.index else ("task",)
        return (Phase("fit", self.config.epochs, (Update("net", "net", self.loss, pools),), 5),)

    def pools(self, task: TaskInfo, phase: str, epoch: int, data: Samples) -> dict[str, Samples]:
        return {"stored": Samples(self.memory.images, self.memory.labels)} if task.index else {}

    def loss(self, batch: Batch, step: Step) -> Terms:
        assert batch.x.dtype == torch.float32
        assert float(batch.x.abs().max()) > 1.0  # as stored: no division by 255
        return super().loss(batch, step)

    def end_task(self, task: TaskInfo, data: Samples) -> None:
        self.memory.add_random(data, 3, seeds.generator(self.context.seed, "memory", task.index))


def vectors() -> Any:
    y = torch.arange(3).repeat_interleave(12)
    x = 4.0 * F.one_hot(y, 5) + 0.3 * torch.randn(36, 5, generator=torch.Generator().manual_seed(0))
    return from_arrays(x, y, x, y)


def test_feature_vectors_are_learned_stored_and_resumed() -> None:
    stream = class_incremental(vectors(), n_tasks=3)
    assert stream.image_shape == (5,)
    whole: Any = learned(Rehearsing, stream)
    assert whole.memory.images.dtype == torch.float32
    assert whole.memory.images.shape == (9, 5)
    answers = whole.predict(stream.test(0).x).argmax(1)
    assert bool((answers == stream.test(0).y).all())
    assert alike(whole, learned(Rehearsing, stream, (1, "fit", 0)))


def test_vectors_where_images_are_needed_give_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^permuted needs images [^\n]+$"):
        permuted(vectors(), 2)
    with pytest.raises(ConfigError, match=r"^samples must be images [^\n]+ for network dcgan8[^\n]+$"):
        Dcgan8().check((5,))


# A pass without gradients, and a value kept for predictions -------------------------------------------------
class NearestMean(Toy):
    """No gradient at all: sums over a pass, by class, and means that follow from them."""

    def __init__(self, config: Options, context: Context) -> None:
        super().__init__(config, context)
        self.sums = nn.Parameter(torch.zeros(0, 64), requires_grad=False)
        self.counts = nn.Parameter(torch.zeros(0), requires_grad=False)
        self.found = 0

    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        new = task.n_seen - len(self.counts)
        self.sums.data = torch.cat([self.sums, torch.zeros(new, 64)])
        self.counts.data = torch.cat([self.counts, torch.zeros(new)])

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        return (Phase("sum", 2, (Update("sum", None, self.add),), 5),)

    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        return {}

    def add(self, batch: Batch, step: Step) -> Terms:
        assert not torch.is_grad_enabled()
        self.sums.index_add_(0, batch.y, batch.x.flatten(1))
        self.counts.index_add_(0, batch.y, torch.ones(len(batch.y)))
        return {"n": self.counts.sum()}

    @cached_property
    def means(self) -> Tensor:
        """Mean of each class [K, 64]."""
        self.found += 1
        return self.sums.detach() / self.counts.detach()[:, None]

    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        return -torch.cdist(x.flatten(1), self.means)

    def structure(self) -> dict[str, Any]:
        return {**super().structure(), "n": len(self.counts)}

    def rebuild(self, structure: dict[str, Any]) -> None:
        super().rebuild(structure)
        self.sums.data, self.counts.data = torch.zeros(structure["n"], 64), torch.zeros(structure["n"])


def test_a_pass_without_gradients_sums_each_sample_once_an_epoch_and_resumes() -> None:
    stream = tiny_stream((2, 1))
    whole: Any = learned(NearestMean, stream)
    assert whole.counts.tolist() == [24.0] * 3  # two passes over 12 samples a class
    x = stream.train(1).x.float().flatten(1) / 255
    torch.testing.assert_close(whole.sums[2].detach(), 2 * x.sum(0))
    assert alike(whole, learned(NearestMean, stream, (0, "sum", 0)))


def test_a_cached_value_is_no_state_and_is_found_anew_when_the_state_has_moved() -> None:
    stream = tiny_stream((2, 1))
    made: Any = NearestMean(Options(), Context(Mlp((6,)), (1, 8, 8), 3, "class", 0))
    state, protocol = LoopState(), Protocol("class")
    x = stream.test(0).x.float() / 255
    widths: list[int] = []
    for i in range(2):
        train_task(
            made,
            protocol.task(stream, i),
            stream.train(i),
            state,
            0,
            on_epoch=lambda _: widths.append(made.predict(x).shape[1]),
        )
    assert widths == [2, 2, 3, 3]
    before = made.found
    answers = made.predict(x)
    assert torch.equal(made.predict(x), answers)
    assert made.found == before + 1
    assert not any("means" in key for key in made.state_dict())
    other = NearestMean(Options(), made.context)
    other.rebuild(made.structure())
    assert not bool(other.predict(x).isfinite().all())  # means of nothing, cached
    other.load_state_dict(made.state_dict())
    assert torch.equal(other.predict(x), answers)
