"""Every registered method passes every check of the public contract suite."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engram.checks import CHECKS, SKIPPED, SMALL, checks_for
from engram.methods.registry import METHODS

#: Registered methods that the suite leaves out, with the reason. None.
EXCLUDED: dict[str, str] = {}

CASES = [
    pytest.param(function, id=f"{method}-{name}")
    for method in METHODS
    if method not in EXCLUDED
    for name, function in checks_for(method)
]


@pytest.mark.parametrize("check", CASES)
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
