"""What generated images are worth: real ones in the generator's place, one image again and again, wrong labels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from engram.checks import tiny_stream
from engram.core.contract import Context, TaskInfo
from engram.methods.finetune import Finetune, FinetuneConfig
from engram.methods.registry import method
from engram.networks import Dcgan8
from engram.protocols.evaluation import Oracle, frechet, judge_generator, real_samples
from engram.protocols.protocol import Protocol
from engram.protocols.session import run

STREAM, NETWORK = tiny_stream((2, 1), n_train=24), Dcgan8(n_d=8)


class Copying(Finetune):
    """Makes real training images; ``alike`` one of each class, ``shifted`` those of the class before."""

    def __init__(self, *, alike: bool = False, shifted: bool = False) -> None:
        super().__init__(FinetuneConfig(), Context(NETWORK, (1, 8, 8), 3, "class", 0))
        self.alike, self.shifted = alike, shifted

    def generate(self, y: Tensor, *, generator: torch.Generator) -> Tensor:
        real = real_samples(STREAM)
        images = []
        for label in y.tolist():
            own = real.x[real.y == (label - self.shifted) % 3]
            row = 0 if self.alike else int(torch.randint(len(own), (), generator=generator))
            images.append(own[row])
        return NETWORK.normalise(torch.stack(images))


@pytest.fixture(scope="module")
def oracle() -> Iterator[Oracle]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engram.protocols.evaluation.STEPS", 100)
        yield Oracle(NETWORK, real_samples(STREAM), 3)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engram.protocols.evaluation.PER_CLASS", 60)
    monkeypatch.setattr("engram.protocols.evaluation.STEPS", 100)


def test_real_images_are_as_good_and_as_diverse_as_real_ones(oracle: Oracle) -> None:
    found = judge_generator(Copying(), STREAM, oracle, 0)
    assert found["acc_rev"] > 0.95
    assert found["diversity"] == pytest.approx([1.0] * 3, abs=0.2)
    assert found["frechet"] < 2 * found["frechet_real"]


def test_frechet_distance_in_closed_form() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn((50, 3), generator=g, dtype=torch.float64)
    assert frechet(x, x) == pytest.approx(0.0, abs=1e-9)
    # Moved and stretched along the axes of independent entries: sum of (mean difference)^2 and (sd difference)^2.
    whole = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3)), dtype=torch.float64)
    scale, shift = torch.tensor([2.0, 0.5, 1.0]), torch.tensor([0.0, 3.0, 0.0])
    assert frechet(whole, whole * scale + shift) == pytest.approx(1.0 + 0.25 + 9.0)
    # Any covariances: against the general square root of their product.
    y = x @ torch.randn((3, 3), generator=g, dtype=torch.float64)
    root = scipy.linalg.sqrtm(np.cov(x.T, bias=True) @ np.cov(y.T, bias=True)).real
    means = float((x.mean(0) - y.mean(0)).square().sum())
    expected = means + np.trace(np.cov(x.T, bias=True) + np.cov(y.T, bias=True) - 2 * root)
    assert frechet(x, y) == pytest.approx(expected)


def test_one_image_again_and_again_is_seen_where_acc_gen_is_blind(oracle: Oracle) -> None:
    method = Copying(alike=True)
    assert oracle.accuracy(method, TaskInfo.of(1, 2, 3, "class"), 20, 0) == 1.0
    found = judge_generator(method, STREAM, oracle, 0)
    assert max(found["diversity"]) < 1e-3
    assert found["frechet"] > 2 * found["frechet_real"]


def test_images_of_other_classes_teach_wrong_answers(oracle: Oracle) -> None:
    found = judge_generator(Copying(shifted=True), STREAM, oracle, 0)
    assert found["acc_rev"] < 0.05


def test_a_run_records_it_after_the_last_task_for_generative_methods_only(tmp_path: Path) -> None:
    options: dict[str, Any] = {"gan_epochs": 1, "gan_steps": 2, "epochs": 1}
    entry = run(STREAM, NETWORK, method("dgr", options), Protocol("class", 20), out=tmp_path / "seed-0")
    names = {p.name for p in (tmp_path / "seed-0").glob("samples*")}
    assert names == {"samples.safetensors", "samples-1.safetensors", "samples-2.safetensors"}
    assert entry["samples"] == "seed-0/samples.safetensors"
    for task in entry["tasks"]:
        assert sum(task["storage_bytes"].values()) > 0
    assert entry["tasks"][-1]["storage_bytes"] == entry["storage_bytes"]
    assert 0.0 <= entry["generated"]["acc_rev"] <= 1.0
    assert len(entry["generated"]["diversity"]) == 3
    assert "generated" not in run(STREAM, NETWORK, method("dgr", options), Protocol("class", 0))
    assert "generated" not in run(STREAM, NETWORK, method("finetune", {"epochs": 1}), Protocol("class", 20))
