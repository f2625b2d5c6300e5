"""No test sees the developer's cache; the command line is called in this process, its workers start at once."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from calling import Call, Called, Refused, kept_each_epoch
from engram.cli.main import main
from engram.studies import processes
from forking import Forked

# Modules of tests and benchmarks each name what their children need, and a process has one server of forks, which takes
# the names given last: children of all others would import theirs anew.
FORKED = [
    "engram.checks",
    "engram.protocols.session",
    "engram.memory.memory",
    "engram.features.pixels",
    "torch._dynamo",
]


def pytest_collection_finish() -> None:
    # What was collected stays to the end: no search for garbage need walk through it again.
    gc.collect()
    gc.freeze()
    multiprocessing.get_context("forkserver").set_forkserver_preload(FORKED)


@pytest.fixture(scope="session", autouse=True)
def _no_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENGRAM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _disk_is_not_awaited() -> Iterator[None]:
    """No test cuts the power: what is written need not have reached the disk. Descriptors must be open ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(scope="session", autouse=True)
def _forked_workers() -> Iterator[None]:
    """Workers of commands that a test starts in a process of their own are started as for a user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": Forked}))
        yield


@pytest.fixture
def every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every epoch, however short: for tests that stop a run at an epoch."""
    kept_each_epoch(monkeypatch)


@pytest.fixture
def real_report() -> None:
    """Asks for the report with its figures where others see a page without."""


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    """Calls the command line in this process."""

    def run(*argv: object) -> Called:
        capfd.readouterr()
        code = main([str(a) for a in argv])
        said = capfd.readouterr()
        return Called(code, said.out, said.err)

    return run


@pytest.fixture
def refused(call: Call) -> Refused:
    """Calls the command line, expects one line on standard error and exit status 2, and returns the line."""

    def run(*argv: object) -> str:
        done = call(*argv)
        assert done.code == 2, done
        assert done.err.startswith("engram: ")
        assert done.err.count("\n") == 1, done.err
        assert "Traceback" not in done.err
        return done.err

    return run
