"""The audit finds images that a memory keeps, and only those; what is measured beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from letters import QUICK, contents, draw
from safetensors.torch import load, save
from torch import Tensor

import engram
from calling import Call
from engram.core.files import digest, sealed
from engram.errors import PrivacyError
from engram.memory.memory import verify
from engram.memory.privacy import Audit, area_under_curve, membership, memorisation
from engram.methods.finetune import Finetune


def pictures(n: int, c: int = 3, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(3, 250, (n, c, 8, 8), generator=g, dtype=torch.uint8)


def found(images: Tensor, stored: Tensor) -> int:
    audit = Audit()
    audit.add(images)
    return int(audit.outcome({"learner.safetensors": save({"one": stored.contiguous()})})["found"])


@pytest.mark.parametrize(
    "kept",
    [
        lambda x: x,
        lambda x: x.float() / 255,
        lambda x: (x.float() / 255 - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / 0.21,
        lambda x: 1 - x.float() / 127.5,
        lambda x: x.double().flatten(1) * 1e-4 + 7,
        lambda x: x.movedim(1, -1),
        lambda x: x.movedim(1, -1).float().flatten(),
        lambda x: torch.cat([torch.randn(5, 3, 8, 8), x.float()]),
        lambda x: x[:, 1].int(),
    ],
)
def test_an_image_is_found_however_it_is_scaled(kept: object) -> None:
    images = pictures(20)
    assert found(images, kept(images[7:8])) >= 1  # type: ignore[operator]
    assert found(images, kept(pictures(1, seed=1))) == 0  # type: ignore[operator]


def test_what_is_no_image_is_not_found() -> None:
    images = pictures(40)
    assert found(images, images.float().mean(0)) == 0
    assert found(images, torch.randn(100, 64)) == 0
    assert found(images, torch.zeros(100, 64)) == 0
    assert found(images, torch.full((3, 64), torch.nan)) == 0
    assert found(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.ones(5, 64)) == 0


def test_features_of_an_image_are_found() -> None:
    seen = torch.randn(30, 40)
    audit = Audit()
    audit.add(pictures(30))
    audit.add(seen)
    assert audit.outcome({"learner.safetensors": save({"sums": seen[3:5]})})["found"] == 2


def test_a_mean_of_one_image_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    memory = engram.Memory.create(tmp_path / "m", method="ncm", features="pixels")
    with pytest.raises(PrivacyError, match=r"ncm must hold no image.*1 row is one \(learner.safetensors: "):
        memory.learn({"a": pictures(2).movedim(1, -1).numpy()})  # one learned, one held out
    assert contents(tmp_path / "m") == {}
    assert memory.learn({"a": pictures(3).movedim(1, -1).numpy()}).generation == 1


def test_a_method_that_hides_an_image_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    end = Finetune.end_task

    def hide(self: Finetune, task: object, data: object) -> None:
        end(self, task, data)  # type: ignore[arg-type]
        with torch.no_grad():
            self.net.trunk.layers[0].weight[0] = data.x[0].flatten() / 255 - 0.1  # type: ignore[attr-defined]

    memory = engram.Memory.create(tmp_path / "m", **QUICK)
    memory.learn({"a": pictures(9, 1)[:, 0].numpy()})
    before = contents(tmp_path / "m")
    monkeypatch.setattr(Finetune, "end_task", hide)
    with pytest.raises(PrivacyError, match=r"net\.trunk\.layers\.0\.weight"):
        memory.learn({"b": pictures(9, 1, seed=2)[:, 0].numpy()})
    assert contents(tmp_path / "m") == before
    assert memory.predict(pictures(2, 1)[:, 0].numpy()).tolist() == ["a", "a"]


def test_a_method_with_a_memory_of_samples_says_how_many(tmp_path: Path) -> None:
    memory = engram.Memory.create(tmp_path / "m", **{**QUICK, "method": "er"})
    memory.learn({name: pictures(9, 1, seed)[:, 0].numpy() for seed, name in enumerate("ab")})
    assert memory.record["audit"]["found"] >= 16  # what it keeps, an image perhaps more than once
    assert verify(tmp_path / "m")[0].fault == ""


def test_verify_holds_the_outcome_to_the_files(memory: Path) -> None:
    record = memory / "generations" / "0002" / "record.json"
    body = json.loads(record.read_bytes())
    assert body["audit"]["found"] == 0
    assert body["audit"]["images"] == 12

    def rewrite(**audit: object) -> str:
        new = {k: v for k, v in body.items() if k != "sha256"} | {"audit": body["audit"] | audit}
        content = sealed(json.dumps(new))
        record.write_bytes(content)
        manifest = json.loads((memory / "memory.json").read_bytes())
        manifest.pop("sha256")
        manifest["generations"]["2"] = digest(content)
        (memory / "memory.json").write_bytes(sealed(json.dumps(manifest)))
        return verify(memory)[1].fault

    assert rewrite() == ""
    assert "holds images, which finetune must not" in rewrite(found=1)
    assert "audit is of other files" in rewrite(files={})
    assert "cannot be used" in rewrite(found="none")


def test_no_moment_of_a_gradient_is_kept(memory: Path) -> None:
    names = load((memory / "generations" / "0002" / "learner.safetensors").read_bytes())
    assert not [name for name in names if name.startswith("optimiser")]


def test_nothing_known_of_the_images_stays(memory: Path) -> None:
    state = engram.Memory.open(memory)
    assert not [v for v in vars(state).values() if isinstance(v, Audit)]
    assert "salt" not in (memory / "generations" / "0002" / "record.json").read_text()


# Measurements ------------------------------------------------------------------------------------------------------
def test_the_area_under_the_curve() -> None:
    a, b = torch.tensor([3.0, 2.0, 1.0]), torch.tensor([1.0, 0.0])
    assert area_under_curve(a, b)[0] == pytest.approx((2 + 2 + 1.5) / 6)
    g = torch.Generator().manual_seed(0)
    inside = 0
    for _ in range(200):
        x, y = torch.randn(60, generator=g) + 1, torch.randn(90, generator=g)
        _, low, high = area_under_curve(x, y)
        inside += low <= 0.7602 <= high  # Phi(1 / sqrt(2))
    assert inside >= 180
    assert membership(a, b) is None


def test_a_memory_that_fits_its_samples_gives_them_away(tmp_path: Path) -> None:
    options = {"method": "slda", "features": "pixels", "valid_fraction": 0.5, "method_options": {"eps": 1e-6}}
    aucs = []
    for n in (40, 2000):
        memory = engram.Memory.create(tmp_path / str(n), **options)
        memory.learn({name: pictures(n, 1, seed)[:, 0].numpy() for seed, name in enumerate("ab")})
        aucs.append(memory.calls[0]["membership"])
    assert aucs[0]["low"] > 0.55  # 40 samples of 64 numbers are separated by heart
    assert aucs[1]["auc"] < 0.6


class Copier(torch.nn.Module):
    """What `memorisation` needs of a method: here one that copies, or draws anew."""

    def __init__(self, samples: Tensor, *, copies: bool) -> None:
        super().__init__()
        self.samples, self.copies = samples, copies

    @property
    def context(self) -> Copier:
        return self

    network = context

    def to_stored(self, x: Tensor) -> Tensor:
        return x

    def generate(self, y: Tensor, *, generator: torch.Generator) -> Tensor:
        if self.copies:
            return self.samples[torch.randint(0, len(self.samples), (len(y),), generator=generator)]
        return torch.randn((len(y), 30), generator=generator)


def test_a_generator_that_copies_is_seen() -> None:
    g = torch.Generator().manual_seed(0)
    training, held_out = torch.randn(200, 30, generator=g), torch.randn(60, 30, generator=g)
    copier = memorisation(Copier(training, copies=True), 0, training, held_out, 0)  # type: ignore[arg-type]
    fresh = memorisation(Copier(training, copies=False), 0, training, held_out, 0)  # type: ignore[arg-type]
    assert copier["generated"] < 0.01 < copier["held_out"]
    assert copier["nearer"] == 1.0
    assert fresh["nearer"] < 0.3
    assert fresh["generated"] == pytest.approx(fresh["held_out"], rel=0.1)


def test_learn_and_inspect_tell_of_privacy(call: Call, tmp_path: Path) -> None:
    words = (
        "--method",
        "dgmw",
        "--network",
        "dcgan8",
        "--dcgan8.n_d",
        4,
        "--dcgan8.n_z",
        12,
        "--dgmw.epochs",
        1,
    )
    done = call("learn", draw(tmp_path / "ab", "ab"), "--into", tmp_path / "m", *words)
    assert done.code == 0, done.err
    assert "audit: none of 24 images in" in done.out
    told = call("inspect", tmp_path / "m").out
    assert "Membership" in told
    assert "Distance to the nearest training image" in told
    assert "none of 24 images in" in call("verify", tmp_path / "m").out
