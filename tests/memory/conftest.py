"""Memories that learned some classes; each test that changes one works on a copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from letters import QUICK, draw

from engram.memory.memory import Memory
from engram.streams.sources import arriving


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal wide enough that no table folds the words that a test looks for."""
    monkeypatch.setenv("COLUMNS", "250")


@pytest.fixture(scope="session")
def two_states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A memory that learned a and b, then c."""
    folder = tmp_path_factory.mktemp("two")
    memory = Memory.create(folder / "memory", **QUICK)
    for classes in ("ab", "c"):
        memory.learn(arriving(draw(folder / classes, classes)))
    return folder / "memory"


@pytest.fixture
def memory(two_states: Path, tmp_path: Path) -> Path:
    """A copy of that memory."""
    return Path(shutil.copytree(two_states, tmp_path / "memory"))
