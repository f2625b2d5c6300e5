"""Each method, killed once with SIGKILL in the middle of a task and resumed, ends with the same bits."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from engram.methods.registry import METHODS


def load() -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / "kill.py"
    spec = importlib.util.spec_from_file_location("engram_kill", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["engram_kill"] = module
    spec.loader.exec_module(module)
    return module


kill = load()


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_killed_once_and_resumed(name: str, tmp_path: Path) -> None:
    variant = list(kill.SMALL[name])[-1]
    kill.learn(name, variant, tmp_path / "whole")
    whole = kill.outcome(tmp_path / "whole")
    # Upon the sixth event the second task is under way.
    assert kill.killed_at_event(name, variant, tmp_path / "killed", 6)
    assert kill.difference(whole, kill.outcome(tmp_path / "killed")) != ""
    kill.finish(name, variant, tmp_path / "killed")
    assert kill.difference(whole, kill.outcome(tmp_path / "killed")) == ""
