"""The released code's selection rule: which epoch is reported, and that training does not depend on it."""

from __future__ import annotations

from typing import Any

import pytest

from engram.checks import SMALL, tiny_data
from engram.errors import ConfigError
from engram.methods.registry import method
from engram.networks import Dcgan8
from engram.protocols.protocol import Protocol
from engram.protocols.session import Session
from engram.streams import Stream, class_incremental

NETWORK = Dcgan8(n_f=4, n_d=4, n_z=16)
RULE = Protocol(generated_per_class=0, selection="val_real_all", select_every=1)


def stream(valid: float = 0.25) -> Stream:
    return class_incremental(tiny_data(), n_tasks=3, valid_fraction=valid)


def learned(
    variant: str, protocol: Protocol, looks: list[tuple[int, int]] | None = None
) -> tuple[Session, dict[str, Any]]:
    spec = method("dgmw", SMALL["dgmw"][variant])
    session = Session(
        stream(), NETWORK, spec, protocol, seed=0, device="cpu", out=None, resume=False, observer=None
    )
    if looks is not None:
        look = session._look

        def noted(index: int, event: Any) -> None:
            looks.append((index, event.phase_index))
            look(index, event)

        session._look = noted  # type: ignore[method-assign]
    return session, session.go(None)


def test_only_the_phase_that_predicts_is_looked_at() -> None:
    looks: list[tuple[int, int]] = []
    learned("separate", RULE, looks)
    assert {phase for _, phase in looks} == {1}
    assert {task for task, _ in looks} == {0, 1, 2}


@pytest.mark.parametrize("variant", ["shared", "separate"])
def test_training_does_not_depend_on_the_rule(variant: str) -> None:
    chosen, entry = learned(variant, RULE)
    last, plain = learned(variant, Protocol(generated_per_class=0))
    for (name, a), b in zip(
        chosen.method.state_dict().items(), last.method.state_dict().values(), strict=True
    ):
        assert a.equal(b), name
    assert all("selected_epoch" in task for task in entry["tasks"])
    assert not any("selected_epoch" in task for task in plain["tasks"])


def test_the_reported_row_is_that_of_the_best_validation_epoch() -> None:
    spec = method("dgmw", SMALL["dgmw"]["shared"])
    session = Session(
        stream(), NETWORK, spec, RULE, seed=0, device="cpu", out=None, resume=False, observer=None
    )
    rows: list[tuple[float, list[float]]] = []
    look = session._look

    def noted(index: int, event: Any) -> None:
        look(index, event)
        if index == 2:
            rows.append((session._validation(index), session.record["best"]["row"]))

    session._look = noted  # type: ignore[method-assign]
    entry = session.go(None)
    best = max(value for value, _ in rows)
    end = session._validation(2)
    kept = next(row for value, row in rows if value == best)
    if best >= end:
        assert entry["accuracy_matrix"][2] == pytest.approx(kept)
    else:
        assert entry["tasks"][2]["selected_epoch"] == "last"


def test_without_validation_samples_it_is_refused() -> None:
    with pytest.raises(ConfigError, match="valid-fraction"):
        RULE.check(stream(valid=0.0))
