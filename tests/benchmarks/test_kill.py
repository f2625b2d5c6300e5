"""Each method, killed once with SIGKILL in the middle of a task and resumed, ends with the same bits."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from engram.methods.registry import METHODS

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import kill


@pytest.mark.parametrize("name", METHODS)
def test_killed_once_and_resumed(name: str, tmp_path: Path) -> None:
    variant = list(kill.SMALL[name])[-1]
    kill.learn(name, variant, tmp_path / "whole")
    whole = kill.outcome(tmp_path / "whole")
    # Upon the sixth event the second task is under way.
    assert kill.killed_at_event(name, variant, tmp_path / "killed", 6)
    assert kill.difference(whole, kill.outcome(tmp_path / "killed")) != ""
    kill.learn(name, variant, tmp_path / "killed")
    assert kill.difference(whole, kill.outcome(tmp_path / "killed")) == ""
