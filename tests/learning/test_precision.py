"""bf16 and tf32: only where the device has them, said in the result, and part of what a run is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from engram.checks import SMALL, tiny_stream
from engram.checks.comparing import differing
from engram.core.contract import Batch, Context, Phase, Step, TaskInfo, Update
from engram.errors import CheckpointError, ConfigError
from engram.learning import precision
from engram.learning.learner import Learner, check_device
from engram.learning.precision import computing, lowered, reason_for
from engram.methods.registry import method
from engram.networks import Dcgan8, Mlp
from engram.parts.gan import Critic
from engram.protocols.protocol import Protocol
from engram.protocols.session import run
from engram.studies.planning import Planner
from engram.studies.settings import DataSettings, NetworkSettings, Settings
from engram.studies.variants import variant

STREAM, CPU, CUDA = tiny_stream((2, 2), n_train=20), torch.device("cpu"), torch.device("cuda")


def processor(monkeypatch: pytest.MonkeyPatch, *, has: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has)


def test_what_the_device_has_decides_and_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, has=True)
    assert "AVX-512 BF16" in reason_for("bf16", CPU)
    processor(monkeypatch, has=False)
    for name in ("bf16", "tf32"):
        with pytest.raises(
            ConfigError, match=rf"precision {name} needs .*, which device cpu is not: leave precision at"
        ):
            reason_for(name, CPU)
    with pytest.raises(ConfigError, match="must be float32, tf32 or bf16, got 'half'"):
        reason_for("half", CPU)
    fake = SimpleNamespace(
        is_bf16_supported=lambda including_emulation: including_emulation,
        get_device_capability=lambda _: (7, 5),
    )
    monkeypatch.setattr(precision.torch, "cuda", fake)
    for name in ("bf16", "tf32"):
        with pytest.raises(ConfigError, match=f"precision {name} needs"):
            reason_for(name, CUDA)
    fake.get_device_capability = lambda _: (8, 0)
    assert "TF32" in reason_for("tf32", CUDA)


def test_tf32_is_switched_on_for_learning_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    with computing("tf32", CUDA):
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
    with computing("float32", CUDA):
        assert not torch.backends.cudnn.allow_tf32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no accelerator")
@pytest.mark.parametrize(("asked", "least", "most"), [("float32", 0.0, 1e-5), ("tf32", 1e-5, 1e-2)])
def test_convolutions_and_products_on_the_accelerator_have_the_digits_asked_for(
    asked: str, least: float, most: float
) -> None:
    """Distance from float64, as a share: float32 has 24 bits of mantissa, TF32 11."""
    device, g = check_device("cuda"), torch.Generator().manual_seed(0)
    x, w = (torch.randn(64, 64, n, n, generator=g, dtype=torch.float64).to(device) for n in (16, 3))
    for what in (functional.conv2d, lambda a, b: a.flatten(1) @ a.flatten(1).T):
        with computing(asked, device):
            found = what(x.float(), w.float())
        wanted = what(x, w)
        assert least <= float((found - wanted).norm() / wanted.norm()) < most


def test_products_in_losses_are_bfloat16_and_nothing_else_is() -> None:
    seen: list[torch.dtype] = []

    def loss(batch: Batch, step: Step) -> dict[str, torch.Tensor]:
        product = batch.x @ batch.x.T
        seen.append(product.dtype)
        return {"mean": product.mean()}

    updates = (Update("moves", "net", loss), Update("sums", None, loss))
    at = Step(TaskInfo(0, 0, 2, 2, (0, 2)), "p", 0, 1, 0, 1)
    batch = Batch(torch.ones(2, 3), torch.zeros(2), {})
    for update in lowered(Phase("p", 1, updates, 2), "bf16").updates:
        assert update.loss(batch, at)["mean"].dtype == torch.float32
    assert seen == [torch.bfloat16, torch.float32]


def test_the_gradient_penalty_of_a_critic_is_float32_in_losses_of_fewer_bits() -> None:
    critic = Critic(Context(Dcgan8(n_d=4), (1, 8, 8), 2, "class", 0), "none", 0)
    x, found = torch.randn(3, 1, 8, 8), []
    for on in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            slope = critic.gradient(x)
            found.append(
                [slope, *torch.autograd.grad(slope.square().sum(), list(critic.trunk.parameters())[::2])]
            )
    for plain, lower in zip(*found, strict=True):
        assert torch.equal(plain, lower)


@pytest.mark.parametrize("name", ["finetune", "lwf", "hat", "icarl", "ewc"])
def test_methods_learn_with_it_nearly_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, has=True)
    spec = method(name, next(iter(SMALL[name].values())))
    scenario = "task" if name == "hat" else "class"
    found: dict[str, list[float]] = {"float32": [], "bf16": []}
    for asked, losses in found.items():
        judged = Protocol(scenario)
        run(
            *(STREAM, Mlp((16,)), spec, judged),
            precision=asked,
            observer=lambda event, losses=losses: losses.extend(getattr(event, "losses", {}).values()),
        )
    assert found["bf16"] != found["float32"]
    assert found["bf16"] == pytest.approx(found["float32"], abs=0.02)


def test_it_is_part_of_what_a_run_is_and_resumes_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(monkeypatch, has=True)
    spec = method("si", {"epochs": 2, "batch_size": 8})
    args = (STREAM, Mlp((8,)), spec, "task")
    whole = {"out": tmp_path / "whole", "precision": "bf16"}
    run(*args, **whole)
    seen: list[object] = []
    cut = {"out": tmp_path / "cut", "precision": "bf16"}
    run(*args, **cut, stop_after=lambda event: seen.append(event) or len(seen) == 4)
    with pytest.raises(CheckpointError, match="precision"):
        run(*args, out=tmp_path / "cut", resume=True)
    run(*args, **cut, resume=True)
    processor(monkeypatch, has=False)
    states = [Learner.load(tmp_path / name).method.state_dict() for name in ("whole", "cut")]
    assert differing(*states) == []
    assert all(v.dtype == torch.float32 for v in states[0].values() if v.is_floating_point())
    learner = Learner.load(tmp_path / "whole")  # what was learned elsewhere answers here, and learns no more
    learner.predict(STREAM.test(0).x, task=0)
    with pytest.raises(ConfigError, match="precision bf16 needs"):
        learner.learn({"new": STREAM.train(0).x})


def settings(out: Path, **given: object) -> Settings:
    return Settings(out, DataSettings(data="digits", tasks=5), NetworkSettings(None), **given)


def test_a_study_says_it_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor(monkeypatch, has=True)
    planner = Planner(settings(tmp_path, precision="bf16"), False)
    work = planner.work(variant("finetune", {}))
    assert work.record["config"]["precision"] == work.config["precision"] == "bf16"
    assert "AVX-512 BF16" in work.record["device"]["precision"]
    assert work.record["facts"]["precision"] == "bf16"
    assert work.jobs[0].precision == "bf16"
    other = Planner(settings(tmp_path), False).work(variant("finetune", {}))
    assert other.record["identity"] != work.record["identity"]
    assert "precision" not in other.record["config"]
    planner.work(variant("dgmw", {}))
    with pytest.raises(ConfigError, match=r"float32 for dgma, got 'bf16': that its accuracy stays the same"):
        planner.work(variant("dgma", {}))
    processor(monkeypatch, has=False)
    with pytest.raises(ConfigError, match="precision bf16 needs a processor"):
        Planner(settings(tmp_path, precision="bf16"), False)
