"""Steps as CUDA graphs: the same bits as others, by a stand-in here and by graphs where there is an accelerator."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import recorded
import torch
from test_compiling import Nothing
from torch import Tensor, nn
from torch.nn import functional as F

from engram.checks import SMALL, Bench, tiny_stream
from engram.checks.comparing import differing
from engram.core.contract import Batch, Optimiser, Player, Step, TaskInfo, Terms, Update
from engram.errors import CheckpointError, ConfigError
from engram.learning import capturing, compiling
from engram.learning.capturing import Captured, NotStatic, Number, Numbers
from engram.learning.learner import Learner
from engram.learning.loop import take_step
from engram.learning.optimisers import Stepper
from engram.methods.registry import method
from engram.networks import Dcgan8, Mlp
from engram.protocols.session import run

STREAM = tiny_stream((1, 2))
AT = Step(TaskInfo(0, 0, 2, 2, (0, 2)), "p", 1, 4, 2, 8)
# Variants whose steps are all captured: decisions by the number of the step, averages, schedules, masks, a teacher, a
# memory that grows.
WHOLE = [
    ("dgmw", "separate"),
    ("dgmw", "discriminants"),
    ("hat", "sgd"),
    ("rescl", "sgd"),
    ("icarl", "budget"),
    ("er", "adam"),
]


@pytest.fixture
def on_tape(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The stand-in records; returns what it replayed. As on an accelerator, labels go unchecked, rates are tensors."""
    replays: list[object] = []

    def record(steps: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        found, replay = recorded.record(steps)

        def again() -> None:
            replays.append(replay)
            replay()

        return found, again

    monkeypatch.setattr(capturing, "record", record)
    monkeypatch.setattr(compiling, "why_not", lambda *_: "")
    monkeypatch.setattr(F, "one_hot", lambda y, n: (y[:, None] == torch.arange(n)).long())
    rate = property(lambda self: self.rate, lambda self, value: self.rate.fill_(value) and None)
    monkeypatch.setattr(Stepper, "lr", rate)
    return replays


def learned(name: str, variant: str, how: str, device: str = "cpu") -> tuple[dict[str, Tensor], list[str]]:
    networks, spec = (Dcgan8(n_f=4, n_d=4, n_z=16), Mlp((16,))), method(name, SMALL[name][variant])
    benches = (Bench(spec, STREAM, n, s, device=device) for n in networks for s in ("class", "task"))
    bench = next(b for b in benches if b.usable)
    session = bench.session()
    session.learner.compile = how
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        bench.train(session)
    lines = [str(w.message) for w in said if "not compiled" in str(w.message)]
    return session.learner.method.state_dict(), lines


@pytest.mark.parametrize(("name", "variant"), WHOLE)
def test_captured_steps_have_the_bits_of_others(name: str, variant: str, on_tape: list[object]) -> None:
    plain, captured = (learned(name, variant, how) for how in ("eager", "cudagraphs"))
    assert captured[1] == []
    assert len(on_tape) > 3
    assert differing(plain[0], captured[0]) == []


@pytest.mark.usefixtures("on_tape")
@pytest.mark.parametrize(
    ("name", "variant", "line"),
    [
        ("vcl", "weights", r"update net cannot be \(NotStatic: seeds.py:\d+ reads the number of the step\)"),
        ("rwalk", "adam", r"update net cannot be \(NotStatic: methods/rwalk.py:\d+ waits for the device\)"),
    ],
)
def test_what_cannot_be_captured_goes_on_as_it_is_and_says_why(name: str, variant: str, line: str) -> None:
    plain, captured = (learned(name, variant, how) for how in ("eager", "cudagraphs"))
    assert differing(plain[0], captured[0]) == []
    assert captured[1]
    assert all(re.search(line, said) for said in captured[1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no accelerator")
@pytest.mark.parametrize(
    ("name", "variant"), [*WHOLE, ("finetune", "adam"), ("si", "adam"), ("dgmw", "shared")]
)
def test_captured_steps_on_the_accelerator(name: str, variant: str) -> None:
    plain, captured = (learned(name, variant, how, "cuda") for how in ("eager", "cudagraphs"))
    assert captured[1] == []
    assert differing(plain[0], captured[0]) == []
    assert differing(learned(name, variant, "cudagraphs", "cuda")[0], captured[0]) == []


# One step ----------------------------------------------------------------------------------------------------------
def one_step(
    loss: Callable[[Any, Batch, Step], Terms], kind: str = "adam", steps: int = 3
) -> tuple[Callable[[], list[Tensor]], Callable[[], list[Tensor]]]:
    """A few steps of a small layer, as they are and captured from the first on."""

    def prepared() -> tuple[Any, ...]:
        torch.manual_seed(0)
        made = Nothing(nn.Linear(3, 1))
        made.register_buffer("seen", torch.zeros(()))
        player = Player(dict(made.named_parameters()), Optimiser(kind, 0.1))  # type: ignore[arg-type]
        update = Update("fit", "net", lambda batch, step: loss(made, batch, step))
        return made, update, player, Stepper.of(player)

    batches = [Batch(torch.randn(4, 3), torch.zeros(4, dtype=torch.int64), {}) for _ in range(steps)]

    def taken(captured: bool) -> list[Tensor]:
        given = prepared()
        step = Captured(take_step, *given, batches[0], AT) if captured else take_step
        for i, batch in enumerate(batches):
            step(*given, batch, replace(AT, step=2 + i))
        return [*given[2].parameters.values(), given[0].seen]

    return lambda: taken(False), lambda: taken(True)


@pytest.mark.usefixtures("on_tape")
@pytest.mark.parametrize("kind", ["adam", "sgd", "nadam", "rmsprop"])
def test_numbers_of_a_step_are_new_in_every_step(kind: str) -> None:
    def loss(made: Any, batch: Batch, step: Step) -> Terms:
        slope = 1.0 + step.step / step.n_steps
        return {
            "a": (slope * made.net(batch.x)).square().mean().mul(step.epoch),
            "b": made.net.bias.sum() * -slope,
        }

    plain, captured = one_step(loss, kind)
    for a, b in zip(plain(), captured(), strict=True):
        assert torch.equal(a, b)


def counted(made: Any, batch: Batch, step: Step) -> Terms:
    made.count = getattr(made, "count", 0) + 1
    return {"a": made.net(batch.x).mean() * made.count}


def replaced(made: Any, batch: Batch, step: Step) -> Terms:
    made.seen = made.seen + 1.0
    return {"a": made.net(batch.x).mean()}


def growing(made: Any, batch: Batch, step: Step) -> Terms:
    made.parts = [*getattr(made, "parts", []), 1.0]
    return {"a": sum(part * made.net(batch.x).mean() for part in made.parts)}


def read(made: Any, batch: Batch, step: Step) -> Terms:
    return {"a": made.net(batch.x).mean() * float(batch.x.sum())}


def picked(made: Any, batch: Batch, step: Step) -> Terms:
    return {"a": made.net(batch.x[batch.y == 0]).mean()}


def numbered(made: Any, batch: Batch, step: Step) -> Terms:
    return {f"a{step.step}": made.net(batch.x).mean()}


@pytest.mark.usefixtures("on_tape")
@pytest.mark.parametrize(
    ("loss", "why"),
    [
        (counted, "mul.Tensor has other numbers in every step"),
        (replaced, "puts a new tensor in the place of seen"),
        (growing, "other operations|other numbers"),
        (read, "waits for the device"),
        (picked, "waits for the device"),
        (numbered, "reads the number of the step"),
    ],
)
def test_a_step_that_is_not_static_is_refused(loss: Callable[..., Terms], why: str) -> None:
    with pytest.raises(NotStatic, match=why):
        one_step(loss)[1]()


def test_decisions_say_which_steps_fit() -> None:
    numbers = Numbers(AT, torch.device("cpu"))
    epoch, step = Number(numbers, lambda at: at.epoch), Number(numbers, lambda at: at.step)
    assert step % 2 != 1  # type: ignore[comparison-overlap]
    assert (epoch * 8 + step) / 32 < 0.5  # type: ignore[operator]
    assert [numbers.fit(replace(AT, epoch=e, step=s)) for e, s in ((0, 0), (1, 1), (1, 6), (2, 0))] == [
        True,
        False,
        True,
        False,
    ]
    assert float(torch.ones(2).mul_(2 ** (-step))[1]) == 0.25  # type: ignore[operator]
    with pytest.raises(NotStatic, match="reads the number"):
        range(step)  # type: ignore[arg-type]


# A run -------------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("on_tape")
def test_a_resume_is_exact_and_the_mode_is_part_of_a_run(tmp_path: Path, every_epoch: None) -> None:
    spec, net = method("si", {"epochs": 2, "batch_size": 8}), Mlp((8,))
    states = []
    for name, stop in (("whole", None), ("cut", 3)):
        seen: list[object] = []
        run(
            *(STREAM, net, spec, "class"),
            out=tmp_path / name,
            compile="cudagraphs",
            stop_after=lambda event, seen=seen, stop=stop: seen.append(event) or len(seen) == stop,
        )
        if stop:
            with pytest.raises(CheckpointError, match="compile"):
                run(STREAM, net, spec, "class", out=tmp_path / name, resume=True)
            run(STREAM, net, spec, "class", out=tmp_path / name, compile="cudagraphs", resume=True)
        states.append(Learner.load(tmp_path / name).method.state_dict())
    assert differing(*states) == []


@pytest.mark.usefixtures("on_tape")
def test_a_recording_that_fails_ends_the_run_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def record(steps: Callable[[], Any]) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(capturing, "record", record)
    with pytest.raises(ConfigError, match=r"those of update net do \(operation not .*: give --compile eager"):
        learned("finetune", "adam", "cudagraphs")


def test_without_an_accelerator_they_are_refused() -> None:
    spec = method("finetune", {"epochs": 1, "batch_size": 8})
    with pytest.raises(ConfigError, match="got 'cudagraphs': CUDA graphs need an accelerator, cpu is none"):
        run(STREAM, Mlp((8,)), spec, "class", compile="cudagraphs")


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="compile must be one of eager, inductor, cudagraphs, got True"):
        Learner(method("si"), Mlp((8,)), image_shape=(1, 8, 8), compile=True)  # type: ignore[arg-type]
