"""Memories that were damaged, by chance or on purpose, are read rightly or refused."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import memory_mutate


def test_mutated_memories(tmp_path: Path) -> None:
    found, wrong = memory_mutate.cases(60, 1, tmp_path)
    assert not wrong
    assert min(found["refused"], found["answered"], found["refused, checksums anew"]) > 3
