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
    # By then the second task is under way; a pass over the samples tells an epoch and a task for each.
    n_events = 6 if "epochs" in kill.SMALL[name][variant] else 3
    assert kill.killed_at_event(name, variant, tmp_path / "killed", n_events)
    assert kill.difference(whole, kill.outcome(tmp_path / "killed")) != ""
    kill.learn(name, variant, tmp_path / "killed")
    assert kill.difference(whole, kill.outcome(tmp_path / "killed")) == ""
