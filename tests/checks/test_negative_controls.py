"""Every check can fail: a sound method passes, and for each check there is a faulty one that does not.

Source: written for this test, 2026. Departures: none. Cost: none.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engram.checks import CHECKS, Bench, CheckFailure, check_method, checks_for, tiny_stream
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
    Tradeoff,
    Update,
    named_parameters,
)
from engram.core.options import Count, Positive
from engram.core.values import Checked
from engram.errors import ConfigError
from engram.methods.registry import MethodSpec
from engram.networks import Dcgan8
from engram.parts.classifier import Classifier
from engram.parts.memory import SampleMemory


@dataclass(frozen=True)
class Config(Checked):
    """Options.

    Args:
        epochs: a task.
        lr: learning rate.
    """

    epochs: Count = 2
    lr: Positive = 1e-2


class Sound(Method):
    """Plain training, done right; the faulty methods below change one thing each."""

    Config = Config

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self.net = Classifier(context)

    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        self.net.head.grow(task.n_seen, self.context.seed, task.index)

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        return (Phase("fit", self.config.epochs, (Update("net", "net", self.loss),), 5),)

    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        return {"net": Player(named_parameters(self, "net."), Optimiser("adam", self.config.lr))}

    def loss(self, batch: Batch, step: Step) -> Terms:
        active = step.task.active
        return {"ce": F.cross_entropy(self.net(batch.x, active), batch.y - active[0])}

    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        return self.net.predict(x, task)


class Undocumented(Sound):
    __module__ = "undocumented"


@dataclass(frozen=True)
class NoDefault:
    epochs: int
    lr: float = 1e-2


@dataclass(frozen=True)
class Unchecked:
    epochs: int = 2
    lr: float = 1e-2


class UnnamedDraw(Sound):
    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        super().begin_task(task, data)
        with torch.no_grad():
            self.net.head.parts[0].bias.copy_(torch.randn(task.n_seen))  # type: ignore[operator, union-attr]


class Constant(Sound):
    def end_task(self, task: TaskInfo, data: Samples) -> None:
        with torch.no_grad():
            for tensor in self.state_dict().values():
                tensor.zero_()


class Forgetful(Sound):
    steps = 0

    def after_step(self, player: str, step: Step) -> None:
        self.steps += 1  # in no state dict
        with torch.no_grad():
            self.net.head.parts[0].bias.add_(1e-3 * self.steps)  # type: ignore[operator, union-attr]


class Mindful(Sound):
    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        self.active = task.active
        return super().phases(task, n_samples)


class Recounting(Sound):
    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        with torch.no_grad():
            self.net.head.parts[0].bias.add_(1e-3)  # type: ignore[operator, union-attr]
        return super().players(task, phase)


class Impure(Sound):
    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self.register_buffer("count", torch.zeros(()))

    def loss(self, batch: Batch, step: Step) -> Terms:
        self.get_buffer("count").add_(1)
        return super().loss(batch, step)


class Fickle(Sound):
    calls = 0

    def loss(self, batch: Batch, step: Step) -> Terms:
        self.calls += 1
        return {"ce": super().loss(batch, step)["ce"] * self.calls}


class NotFinite(Sound):
    def loss(self, batch: Batch, step: Step) -> Terms:
        return {"ce": super().loss(batch, step)["ce"] * math.inf}


class WritesBatch(Sound):
    def loss(self, batch: Batch, step: Step) -> Terms:
        batch.x.mul_(0.5)
        return super().loss(batch, step)


class Meddler(Sound):
    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        return {"net": Player(named_parameters(self, "net.trunk."), Optimiser("adam", self.config.lr))}

    def after_step(self, player: str, step: Step) -> None:
        with torch.no_grad():
            self.net.head.parts[0].bias.add_(0.1)  # type: ignore[operator, union-attr]


class Trainee(Sound):
    """Predicts in whatever mode it is in, and so moves running statistics."""

    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        return self.net(x, (0, self.net.head.n_outputs))


class Dozy(Sound):
    """Leaves its modules in evaluation mode."""

    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        self.eval()
        return super().predict(x, task=task)


class Dice(Sound):
    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        return super().predict(x, task=task) + 1e-3 * torch.rand(1)


class Narrow(Sound):
    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        return super().predict(x, task=task)[:, -1:]


class Heisenberg(Impure):
    loss = Sound.loss

    def report(self) -> dict[str, Any]:
        self.get_buffer("count").add_(1)
        return {}


class Chatty(Sound):
    def measures(self, step: Step) -> dict[str, Any]:
        return {"loss": torch.zeros(1)}


class Painter(Sound):
    generative = True

    def generate(self, y: Tensor, *, generator: torch.Generator) -> Tensor:
        return torch.rand(len(y), *self.context.image_shape)


class Vandal(Sound):
    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        super().begin_task(task, data)
        data.x[0] = 0


class OneClass(Sound):
    def loss(self, batch: Batch, step: Step) -> Terms:
        first = step.task.index  # as if every task had one class
        return {"ce": F.cross_entropy(self.net(batch.x, (first, first + 1)), batch.y - first)}


class Amnesiac(Sound):
    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        self.net.head.parts = nn.ModuleList()
        super().begin_task(task, data)


class Shapeless(Sound):
    def rebuild(self, structure: dict[str, Any]) -> None:
        pass


class Hidden(Sound):
    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self.kept: list[Tensor] = []

    def end_task(self, task: TaskInfo, data: Samples) -> None:
        self.kept.append(torch.ones(3))


class Rigid(Sound):
    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        return super().predict(x, task=task).float()


class Peeker(Sound):
    _first: Samples | None = None

    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        super().begin_task(task, data)
        self._first = self._first or data

    def pools(self, task: TaskInfo, phase: str, epoch: int, data: Samples) -> dict[str, Samples]:
        assert self._first is not None
        return {"past": self._first}

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        return (Phase("fit", 2, (Update("net", "net", self.loss, ("task", "past")),), 5),)

    def loss(self, batch: Batch, step: Step) -> Terms:
        active = step.task.active
        return {"ce": F.cross_entropy(self.net(batch.x, active), batch.y.clamp(max=active[1] - 1))}


class Boaster(Sound):
    """Declares all data and trains on the newest task's twelve samples."""

    reads = "all"

    def pools(self, task: TaskInfo, phase: str, epoch: int, data: Samples) -> dict[str, Samples]:
        return {"task": Samples(data.x[-12:], data.y[-12:])}


class Hoarder(Sound):
    def end_task(self, task: TaskInfo, data: Samples) -> None:
        first = self.context.network.normalise(data.x[:2]).flatten(1)
        # Not even rows of their own: an entry is put in front.
        self.register_buffer("hoard", torch.cat([torch.zeros(3), first.flatten()]))

    def structure(self) -> dict[str, Any]:
        return {**super().structure(), "hoard": hasattr(self, "hoard")}


class Glutton(Sound):
    reads = "memory"

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self.memory = SampleMemory(context.image_shape, 1)

    def end_task(self, task: TaskInfo, data: Samples) -> None:
        self.memory.images, self.memory.labels = data.x[:5].clone(), data.y[:5].clone()


class Secretive(Glutton):
    reads = "task"

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self.memory.budget = None


class Modest(Secretive):
    reads = "memory"

    def storage_bytes(self) -> dict[str, int]:
        return {**super().storage_bytes(), "exemplars": 0}


class Vote(Sound):
    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        logits = self.net.predict(x, task)
        return logits + logits.mean(0)


class Spy(Sound):
    seen = 0.0

    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        self.seen = float(x.mean())  # in no state dict
        return super().predict(x, task=task)

    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        super().begin_task(task, data)
        with torch.no_grad():
            self.net.head.parts[0].bias.add_(self.seen)  # type: ignore[operator, union-attr]


@dataclass(frozen=True)
class Weighted(Config):
    """Options.

    Args:
        epochs: a task.
        lr: learning rate.
        weight: of the loss.
    """

    weight: float = 1.0


class Hasty(Sound):
    """Its option matters at the end of the first task."""

    Config = Weighted  # type: ignore[assignment]
    tradeoff = Tradeoff("weight")

    def end_task(self, task: TaskInfo, data: Samples) -> None:
        with torch.no_grad():
            self.net.head.parts[0].bias.mul_(self.config.weight)  # type: ignore[operator, union-attr]


class Early(Sound):
    """Its option matters in the very phase that is declared free of it."""

    Config = Weighted  # type: ignore[assignment]
    tradeoff = Tradeoff("weight", after="fit")

    def loss(self, batch: Batch, step: Step) -> Terms:
        weight = 1.0 if self.free(step) else self.config.weight
        return {"ce": super().loss(batch, step)["ce"] * weight}

    def free(self, step: Step) -> bool:
        return step.task.index == 0


class Patient(Early):
    """Its option matters in a second phase of later tasks, as declared."""

    def free(self, step: Step) -> bool:
        return step.phase == "fit"

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        (fit,) = super().phases(task, n_samples)
        return (fit,) if task.index == 0 else (fit, dataclasses.replace(fit, name="more"))


class Loud(Sound):
    """Learns the same whatever its option is, and measures something else."""

    Config = Weighted  # type: ignore[assignment]
    tradeoff = Tradeoff("weight", scale="linear")

    def measures(self, step: Step) -> dict[str, Any]:
        return {"weight": self.config.weight}


class Misnamed(Sound):
    tradeoff = Tradeoff("strength")


CONTROLS: dict[str, list[tuple[type[Method], Any, str]]] = {
    "docstring_names_source_departures_cost": [(Undocumented, Config(), "names its paper or source")],
    "builds_from_defaults": [(Sound, NoDefault(2), "every option has a default")],
    "bad_values_give_one_line": [(Sound, Unchecked(), "option epochs = nan is refused")],
    "same_seed_same_run": [(UnnamedDraw, Config(), "same run bit for bit")],
    "another_seed_another_run": [(Constant, Config(), "another seed gives another run")],
    "resumed_run_is_the_same": [
        (Forgetful, Config(), "stopped after event 1 of 9 and resumed"),
        (Shapeless, Config(), "and resumed is the same"),
    ],
    "tradeoff_option_matters_after_its_fork_only": [
        (Hasty, Weighted(), r"weight before the second task; found: 1\.0 and 0\.0 give other tensors"),
        (Early, Weighted(), "weight before the end of phase 'fit'.*give other tensors"),
        (Loud, Weighted(), r"records differ at tasks\[0\]"),
        (Misnamed, Config(), "is an option of the method; found: 'strength'"),
    ],
    "phases_and_players_are_asked_freely": [
        (Mindful, Config(), "set nothing; found: changed: active"),
        (Recounting, Config(), r"set nothing; found: changed: net\.head\.parts\.0\.bias"),
    ],
    "losses_are_pure_and_finite": [
        (Impure, Config(), "changes no state.*changed: count"),
        (Fickle, Config(), "a function of batch, step and state"),
        (NotFinite, Config(), "gives finite scalars"),
        (WritesBatch, Config(), "leaves its batch as it is"),
    ],
    "updates_move_their_player_only": [(Meddler, Config(), r"moved: net\.head\.parts\.0\.bias")],
    "predict_changes_nothing": [
        (Trainee, Config(), "predict changes nothing.*running"),
        (Dozy, Config(), "training modes"),
        (Dice, Config(), "global random generator"),
        (Narrow, Config(), r"logits \[B, n_seen\]"),
    ],
    "each_image_is_answered_alone": [(Vote, Config(), "the rest of its batch")],
    "test_samples_do_not_matter": [(Spy, Config(), "does not depend on test samples")],
    "observing_changes_nothing": [
        (Heisenberg, Config(), "observing a method changes nothing.*count"),
        (Chatty, Config(), r"measures\(\) is JSON"),
    ],
    "generating_is_repeatable": [(Painter, Config(), "a function of labels and generator")],
    "data_are_not_modified": [(Vandal, Config(), "left as they are")],
    "any_labels_and_task_sizes_work": [(OneClass, Config(), "any number of classes")],
    "growing_keeps_old_logits": [(Amnesiac, Config(), "keeps the logits of the old ones")],
    "structure_rebuilds_the_state": [(Shapeless, Config(), "same state keys, shapes and types")],
    "state_is_tensors": [(Hidden, Config(), "plain attributes kept")],
    "state_moves": [(Rigid, Config(), "the same in float64")],
    "past_data_are_not_read_unless_declared": [
        (Peeker, Config(), "does not depend on the stream's past samples"),
        (Boaster, Config(), "depends on past data"),
    ],
    "real_samples_are_in_memories_only": [
        (Hoarder, Config(), "hoard holds a training image as the network's range")
    ],
    "memory_stays_within_budget": [
        (Glutton, Config(), "at most its budget of 1"),
        (Secretive, Config(), "declares reads"),
        (Modest, Config(), "counts as exemplars"),
    ],
}


def bench(make: Callable[..., Method], config: Any) -> Bench:
    return Bench(MethodSpec("faulty", make, config), tiny_stream(), Dcgan8(n_f=4, n_d=4, n_z=16), "class")


def cases() -> list[Any]:
    return [
        pytest.param(name, *control, id=f"{name}-{control[0].__name__}")
        for name, controls in CONTROLS.items()
        for control in controls
    ]


@pytest.mark.parametrize(("name", "faulty", "config", "message"), cases())
def test_a_faulty_method_fails_its_check(
    name: str, faulty: type[Method], config: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "undocumented", types.ModuleType("undocumented", "Says nothing."))
    with pytest.raises(CheckFailure, match=message) as caught:
        CHECKS[name](bench(faulty, config))
    text = str(caught.value)
    assert text.count("; ") >= 2, "what must hold; what was found; what to do"
    assert text.endswith(".")


def test_every_check_has_a_control() -> None:
    assert set(CONTROLS) == set(CHECKS)


@pytest.fixture(scope="module")
def sound() -> Bench:
    return bench(Sound, Config())


@pytest.mark.parametrize("name", CHECKS)
def test_a_sound_method_passes(sound: Bench, name: str) -> None:
    CHECKS[name](sound)


def test_an_option_that_matters_where_it_says_passes() -> None:
    CHECKS["tradeoff_option_matters_after_its_fork_only"](bench(Patient, Weighted()))


def test_check_method_runs_all_checks_in_all_settings() -> None:
    names = [name for name, _ in checks_for(Sound)]
    for setting in ("single-dcgan8", "multi-mlp", "task-dcgan8", "domain-mlp"):
        for check in CHECKS:
            present = f"{setting}-{check}" in names
            assert present or (
                setting != "single-dcgan8" and check in (*list(CHECKS)[:1], "bad_values_give_one_line")
            )


def test_check_method_raises_with_the_name_of_the_check_and_skips_what_is_named() -> None:
    with pytest.raises(CheckFailure, match="single-dcgan8-growing_keeps_old_logits: growing"):
        check_named(Amnesiac)
    assert not [
        n for n, _ in checks_for(Amnesiac, skip={"growing_keeps_old_logits": "redrawn"}) if "growing" in n
    ]
    with pytest.raises(ConfigError, match="skip must name checks"):
        list(checks_for(Amnesiac, skip={"nothing": "of the kind"}))


def check_named(method: Any) -> None:
    others = {name: "not looked at here" for name in CHECKS if name != "growing_keeps_old_logits"}
    check_method(method, skip=others)


def test_check_method_takes_a_stream_a_network_and_options() -> None:
    check_method(
        Sound,
        stream=tiny_stream((2, 1)),
        network=Dcgan8(n_f=4, n_d=4, n_z=16),
        options={"epochs": 1},
        skip={"resumed_run_is_the_same": "quick"},
    )
    with pytest.raises(ConfigError, match="must have a Config"):
        check_method(lambda config, context: Sound(config, context))
