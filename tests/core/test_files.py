"""Files that are none, names that cannot be, and memory that is not there: one line each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import engram
from engram.core.files import in_use, os_errors, read_regular, write_atomically
from engram.errors import EngramError, PlaceError


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for path in (tmp_path / "pipe", tmp_path / "link", Path("/dev/zero")):
        with pytest.raises(OSError, match="no regular file"):
            read_regular(path)
    write_atomically(tmp_path / "file", b"content")
    assert read_regular(tmp_path / "file") == b"content"


def test_the_file_that_was_asked_for_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(PlaceError, match=f"^{tmp_path / 'taken'} must be .*Is a directory"):
        write_atomically(tmp_path / "taken", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("name", ["a\0b", "~nobody-of-this-name/x"])
def test_names_that_cannot_be_are_one_line(name: str) -> None:
    with pytest.raises(PlaceError, match="names of files must be usable") as caught, os_errors():
        Path(name).expanduser().exists() or os.stat(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("n", [2**50, 2**62])
def test_memory_that_is_not_there_is_one_line(n: int) -> None:
    with pytest.raises(PlaceError, match="there must be memory for what is asked for") as caught, os_errors():
        torch.empty(n, 64)
    assert "\n" not in str(caught.value)


def test_what_is_no_place_is_one_line() -> None:
    for call in (engram.load, engram.write_report, engram.Memory.open, engram.Memory.create):
        with pytest.raises(EngramError, match="names of files must be usable") as caught:
            call(3)
        assert "\n" not in str(caught.value)


def test_other_errors_stay_what_they_are() -> None:
    for error in (ValueError("a value"), RuntimeError("a bug"), PlaceError("a place")):
        with pytest.raises(type(error), match=str(error)), os_errors():
            raise error


def test_a_lock_of_any_content_names_no_holder(tmp_path: Path) -> None:
    with in_use(tmp_path):
        (tmp_path / ".lock").write_text("[" * 2000)
        with pytest.raises(Exception, match=r"another engram process works in it: wait"), in_use(tmp_path):
            pass
