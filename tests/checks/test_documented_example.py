"""The method of docs/your-method.md is complete: it passes the contract suite as printed."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from engram.checks import check_method

PAGE = Path(__file__).parents[2] / "docs" / "your-method.md"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The page's code as a module."""
    code = PAGE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    module = types.ModuleType("documented_example")
    monkeypatch.setitem(sys.modules, "documented_example", module)
    exec(compile(code, str(PAGE), "exec"), module.__dict__)
    return module


def test_the_example_passes_the_suite(example: types.ModuleType) -> None:
    check_method(example.pull)
