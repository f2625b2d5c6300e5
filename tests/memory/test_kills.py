"""A memory whose writer ends at any moment is as before or as after; readers and a second writer beside one."""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from engram.errors import EngramError
from engram.memory.memory import Memory

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import memory_kill

#: Where a change of the disk can be the last one.
CALLS = ("replace", "fsync", "unlink", "rmdir", "mkdir")


class Ends(BaseException):
    """As a kill."""


def end_at(patch: pytest.MonkeyPatch, moment: int, error: BaseException) -> None:
    """Let the change of the disk with this number, and all after it, fail."""
    count = itertools.count()
    for name in CALLS:
        real = getattr(os, name)

        def failing(*given: object, _real: Callable[..., object] = real, **more: object) -> object:
            if next(count) >= moment:
                raise error
            return _real(*given, **more)

        patch.setattr(os, name, failing)


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, object, object]]:
    """For each operation a memory, and what it answers before and after."""
    found = {}
    for number, (name, (settings, operation)) in enumerate(memory_kill.OPERATIONS.items()):
        base = memory_kill.memory(tmp_path_factory.mktemp("base") / str(number), settings)
        after = Path(shutil.copytree(base, base.with_name("after")))
        operation(after)
        found[name] = base, memory_kill.answers(base), memory_kill.answers(after)
    return found


@pytest.mark.parametrize(
    "error", [Ends(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))], ids=["kill", "full"]
)
@pytest.mark.parametrize("name", memory_kill.OPERATIONS)
def test_the_end_may_come_at_any_change_of_the_disk(
    bases: dict[str, tuple[Path, object, object]], name: str, error: BaseException, tmp_path: Path
) -> None:
    base, before, after = bases[name]
    operation = memory_kill.OPERATIONS[name][1]
    seen = set()
    step = 1 if name in ("undo", "forget") else 7  # of the moments of a learn, some
    for moment in itertools.count(0, step):
        root = Path(shutil.copytree(base, tmp_path / str(moment)))
        with pytest.MonkeyPatch.context() as patch:
            end_at(patch, moment, error)
            try:
                operation(root)
                said = ""
            except Ends:
                said = "killed"
            except EngramError as told:
                said = str(told)
        assert said in ("", "killed") or "No space left" in said
        assert memory_kill.fault(root, before, after) == "", moment
        seen.add(memory_kill.answers(root) == after)
        if operation is memory_kill.learn:
            operation(root)
            assert memory_kill.answers(root) == after
        shutil.rmtree(root)
        if not said:
            break
    assert seen == {False, True}


def test_killed_for_real(tmp_path: Path) -> None:
    found, wrong = memory_kill.rounds("learn, trained", 2, random.Random(1), tmp_path)
    assert not wrong
    assert sum(found[key] for key in ("as before", "as after")) == 2


def test_readers_never_fail_while_a_writer_learns(tmp_path: Path) -> None:
    root = memory_kill.memory(tmp_path / "memory", {**memory_kill.CLOSED, "keep": 2})
    failed: list[BaseException] = []

    def write() -> None:
        try:
            for name in "defghijk":
                Memory.open(root).learn({name: memory_kill.images(name)})
        except BaseException as error:
            failed.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while writer.is_alive():
        known = Memory.open(root)
        seen.add(len(known.classes_))
        assert known.predict_proba(memory_kill.ASKED).shape == (20, len(known.classes_))
    writer.join()
    assert not failed
    assert Memory.open(root).classes_.tolist() == list("abcdefghijk")
    assert min(seen) >= 3
