"""Images of class 0 from the same noise after ten tasks on the digits: identical bit for bit, or known to drift."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from engram.core.contract import evaluating
from engram.methods.dgm import Dgm
from engram.methods.registry import method
from engram.protocols.protocol import Protocol
from engram.protocols.session import Session, TaskEnd, resolve
from engram.streams import class_incremental, load

SHORT = {
    "epochs": 2,
    "steps_per_epoch": 3,
    "batch_size": 16,
    "solver": "separate",
    "solver_epochs": 1,
    "solver_steps": 2,
}


def class_zero_after_each_task(name: str, options: dict[str, Any]) -> list[Tensor]:
    """Eight images of class 0 after each of ten tasks, always from the same noise."""
    stream = class_incremental(load("digits"), n_tasks=10, max_per_class=32)
    network, spec, _ = resolve(stream, None, method(name, {**SHORT, **options}), "class")
    noise = torch.randn((8, 32), generator=torch.Generator().manual_seed(0))
    images: list[Tensor] = []

    def look(event: Any) -> None:
        if isinstance(event, TaskEnd):
            dgm = session.method
            assert isinstance(dgm, Dgm)
            with evaluating(dgm):
                images.append(dgm.generate_from(noise, torch.zeros(8, dtype=torch.int64)).clone())

    session = Session(
        stream,
        network,
        spec,
        Protocol("class", generated_per_class=0),
        seed=0,
        device="cpu",
        out=None,
        resume=False,
        observer=look,
    )
    session.go(None)
    return images


@pytest.mark.parametrize("name", ["dgmw", "dgma"])
def test_class_zero_is_the_same_after_ten_tasks(name: str) -> None:
    images = class_zero_after_each_task(name, {})
    assert len(images) == 10
    assert float(images[0].std()) > 0.01
    for later in images[1:]:
        assert later.equal(images[0])


@pytest.mark.parametrize(
    ("name", "options"), [("dgmw", {"replay_mask": "soft", "s_max": 50.0}), ("dgma", {"act_gate": "pre_bn"})]
)
def test_control_class_zero_drifts(name: str, options: dict[str, Any]) -> None:
    images = class_zero_after_each_task(name, options)
    assert not images[9].equal(images[0])
