"""Steps as compiled graphs: equal to the others within rounding, alike on resume, and tried before they are used."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engram.checks import tiny_stream
from engram.checks.comparing import differing
from engram.core.contract import Batch, Optimiser, Phase, Player, Step, TaskInfo, Update
from engram.errors import CheckpointError
from engram.learning import compiling
from engram.learning.compiling import Compiled, why_not
from engram.learning.learner import Learner
from engram.learning.loop import take_step
from engram.learning.optimisers import Stepper
from engram.methods.registry import method
from engram.networks import Mlp
from engram.protocols.session import run

STREAM, FEW = tiny_stream((2, 2), n_train=20), {"epochs": 2, "batch_size": 8, "c": 0.5}
TASK = TaskInfo(0, 0, 2, 2, (0, 2))
WHY = why_not("inductor", torch.device("cpu"))


class Nothing(nn.Module):
    """A method that does nothing at its moments."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def after_backward(self, player: str, grads: dict[str, Tensor], step: Step) -> None: ...

    def after_step(self, player: str, step: Step) -> None: ...

    def forget_cached(self) -> None: ...


def compiled() -> Compiled:
    return Compiled(take_step, "inductor", Phase("p", 1, (), 4), torch.device("cpu"))


def critic_step(takes) -> list[Tensor]:
    """The movement of a critic by the gradient penalty of WGAN-GP alone."""
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(6, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))

    def loss(batch: Batch, step: Step) -> dict[str, Tensor]:
        x = batch.x.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
        return {"penalty": (slope.norm(dim=1) - 1).square().mean()}

    made = Nothing(critic)
    before = [p.detach().clone() for p in critic.parameters()]
    player = Player(dict(made.named_parameters()), Optimiser("sgd", 0.1))
    batch = Batch(torch.randn(4, 6), torch.zeros(4, dtype=torch.int64), {})
    update, step = Update("critic", "net", loss), Step(TASK, "p", 0, 1, 0, 1)
    takes(made, update, player, Stepper.of(player), batch, step)
    return [b - p.detach() for b, p in zip(before, critic.parameters(), strict=True)]


def test_a_compiled_step_of_adam_is_adams_for_parameters_that_come_late_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for graph in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda graph=graph: graph)
        g = torch.Generator().manual_seed(0)
        held = {name: nn.Parameter(torch.randn(5, generator=g)) for name in ("first", "late")}
        stepper = Stepper(held, Optimiser("adam", 0.1, weight_decay=0.1))
        stepper.lay_out()
        for i in range(6):
            grads = {name: torch.randn(5, generator=g) for name in held}
            stepper.step(grads if i > 2 else {"first": grads["first"]})
        found.append(torch.stack(list(held.values())))
    assert torch.allclose(*found, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(bool(WHY), reason=WHY)
def test_the_gradient_of_the_penalty_is_there_or_the_step_is_not_compiled() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a release that loses it says so
        found = critic_step(compiled())
    plain = critic_step(take_step)
    assert plain[0].norm() > 1e-3
    for a, b in zip(found, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_graph_that_loses_a_gradient_is_found_by_its_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    def lossy(step, **how):
        def taken(made, update, player, optimiser, batch, at):
            return {"penalty": torch.zeros(())}

        return taken

    monkeypatch.setattr(torch, "compile", lossy)
    with pytest.warns(
        UserWarning, match=r"steps are not compiled: the compiled one moves net.0.weight otherwise"
    ):
        found = critic_step(compiled())
    for a, b in zip(found, critic_step(take_step), strict=True):
        assert torch.equal(a, b)


def test_without_a_compiler_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "why_not", lambda *_: "there is no C++ compiler")
    with pytest.warns(UserWarning, match="steps are not compiled: there is no C") as said:
        found = critic_step(compiled())
    assert len(said) == 1
    assert torch.equal(found[0], critic_step(take_step)[0])


@pytest.mark.slow
@pytest.mark.skipif(bool(WHY), reason=WHY)
def test_a_run_equals_the_uncompiled_one_within_rounding_and_its_resume_bit_for_bit(tmp_path: Path) -> None:
    spec, net = method("si", FEW), Mlp((8,))
    plain = run(STREAM, net, spec, "task", out=tmp_path / "plain")
    whole = run(STREAM, net, spec, "task", out=tmp_path / "whole", compile="inductor")
    states = {name: Learner.load(tmp_path / name).method.state_dict() for name in ("plain", "whole")}
    for key, value in states["plain"].items():
        # Adam divides a gradient by its size: what is rounding in the smallest ones moves a weight by less than a step.
        torch.testing.assert_close(states["whole"][key], value, rtol=1e-3, atol=1e-4)
    assert differing(*states.values())  # it was compiled
    assert whole["accuracy_matrix"] == plain["accuracy_matrix"]
    cut = {"out": tmp_path / "cut", "compile": "inductor"}
    seen: list[object] = []
    run(STREAM, net, spec, "task", **cut, stop_after=lambda event: seen.append(event) or len(seen) == 4)
    with pytest.raises(CheckpointError, match="compile"):
        run(STREAM, net, spec, "task", out=tmp_path / "cut", resume=True)
    run(STREAM, net, spec, "task", **cut, resume=True)
    assert differing(Learner.load(tmp_path / "cut").method.state_dict(), states["whole"]) == []


@pytest.mark.slow
@pytest.mark.skipif(bool(WHY), reason=WHY)
@pytest.mark.parametrize(
    ("name", "scenario", "options"),
    [
        ("ewc", "task", {}),
        ("lwf", "class", {"warmup_epochs": 0}),
        ("lwf", "task", {"warmup_epochs": 0}),  # the gradient of an old head is rounding at first
    ],
)
def test_a_later_task_is_compiled(name: str, scenario: str, options: dict[str, int]) -> None:
    """A penalty a task and a frozen copy: where the step were not compiled, the line that says so would fail this."""
    spec = method(name, {"epochs": 1, "batch_size": 8, **options})
    learner = Learner(spec, Mlp((8,)), image_shape=STREAM.image_shape, scenario=scenario, compile="inductor")
    for i in range(STREAM.n_tasks):
        learner.learn(STREAM.train(i), [STREAM.class_names[k] for k in STREAM.tasks[i].classes])
