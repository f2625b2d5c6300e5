"""Every registered method passes every check of the public contract suite."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from engram.checks import CHECKS, SKIPPED, SMALL, checks_for
from engram.methods.registry import METHODS
from engram.parts import solver

#: Registered methods that the suite leaves out, with the reason. None.
EXCLUDED: dict[str, str] = {}


def marks(method: str, name: str, settings: set[tuple[str, str]]) -> tuple[pytest.MarkDecorator, ...]:
    """Fast are all settings of a method's first variant, and the first setting of every other one."""
    variant, setting = name.split("-")[:2]
    first = variant == next(iter(SMALL[method]))
    earlier = {s for v, s in settings if v == variant}
    settings.add((variant, setting))
    return () if first or not earlier - {setting} else (pytest.mark.slow,)


def cases() -> list[object]:
    found: list[object] = []
    for method in METHODS:
        settings: set[tuple[str, str]] = set()
        for name, function in checks_for(method) if method not in EXCLUDED else ():
            found.append(pytest.param(function, id=f"{method}-{name}", marks=marks(method, name, settings)))
    return found


def on_the_accelerator() -> list[object]:
    """The first variant and setting of every method."""
    if not torch.cuda.is_available():
        return []
    found: list[object] = []
    for method in METHODS:
        setting = ""
        for name, function in checks_for(method, variant=next(iter(SMALL[method])), device="cuda"):
            setting = setting or name.rsplit("-", 1)[0]
            if name.rsplit("-", 1)[0] == setting:
                found.append(pytest.param(function, id=f"{method}-{name}"))
    return found


@pytest.mark.gpu
@pytest.mark.parametrize("check", on_the_accelerator())
def test_contract_on_the_accelerator(check: Callable[[], None]) -> None:
    check()


@pytest.fixture(autouse=True)
def _few_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of generated samples, from which a solver with averaged weights takes its statistics anew."""
    monkeypatch.setattr(solver, "CALIBRATION_BATCHES", 3)


@pytest.mark.parametrize("check", cases())
def test_contract(check: Callable[[], None]) -> None:
    check()


def test_every_registered_method_is_checked_or_excluded_with_a_reason() -> None:
    assert set(METHODS) == set(SMALL) | set(EXCLUDED), (
        "give a new method small options in engram.checks.SMALL"
    )
    assert not set(SMALL) & set(EXCLUDED)
    assert all(reason.strip() for reason in EXCLUDED.values())


def test_every_skipped_check_exists_and_has_a_reason() -> None:
    for (method, variant, check), reason in SKIPPED.items():
        assert method in METHODS
        assert variant == "" or variant in SMALL[method]
        assert check in CHECKS
        assert len(reason.split()) > 3
