"""``engram cache``: lists and removes what is kept of data sets, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import engram
from calling import Call


def test_the_cache_is_listed_and_cleared(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cache"
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setenv("ENGRAM_CACHE", str(folder))
    assert "0 files" in call("cache").out
    engram.load("stripes")
    (folder / "features").mkdir()
    (folder / "features" / f"scattering-{'0' * 32}.safetensors").write_bytes(b"")
    (folder / ".x.safetensors.999999999.tmp").write_bytes(b"half")
    mine = folder / "letter.txt"
    mine.write_text("mine")
    listed = call("cache", "--dir", folder)
    assert listed.code == 0, listed.err
    for words in ("stripes-", "pixels", "features", "3 files"):
        assert words in listed.out
    assert "letter" not in listed.out
    assert "3 files removed" in call("cache", "--clear").out
    assert [p for p in folder.rglob("*") if p.is_file()] == [mine]


def test_what_a_killed_process_left_of_pixels_goes_with_the_next(tmp_path: Path) -> None:
    left = tmp_path / f".stripes-1.safetensors.{2**22 + 1}.tmp"
    ours = tmp_path / f".other.safetensors.{os.getppid()}.tmp"
    for path in (left, ours):
        path.write_bytes(b"pixels")
    engram.load("stripes", cache_dir=tmp_path)
    assert not left.exists()
    assert ours.exists()  # its process lives
