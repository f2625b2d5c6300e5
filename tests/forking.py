"""Workers forked from a process that has loaded torch: they start at once, and die like any other."""

from __future__ import annotations

import io
import multiprocessing
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.reduction import DupFd
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["engram.protocols.session", "engram.checks", "torch._dynamo"])


class Handed:
    """A file descriptor that becomes the child's number of it on the way."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __reduce__(self) -> Any:
        return received, (DupFd(self.fd),)


def received(handed: Any) -> int:
    return handed.detach()


class Forked:
    """Stands in for a ``subprocess.Popen`` of ``python -m MODULE ...``."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdin: int,
        stdout: int,
        stderr: int | io.BufferedIOBase,
        env: Mapping[str, str],
        pass_fds: Sequence[int] = (),
        start_new_session: bool,
    ) -> None:
        assert command[:2] == [sys.executable, "-m"]
        assert stdout == subprocess.PIPE
        assert start_new_session
        said, told = os.pipe()
        with open(os.devnull, "r+b") as nothing:

            def given(what: int | io.BufferedIOBase) -> int:
                number = what if isinstance(what, int) else what.fileno()
                return nothing.fileno() if number == subprocess.DEVNULL else number

            files = [Handed(fd) for fd in (given(stdin), told, given(stderr), *pass_fds)]
            self.process = CONTEXT.Process(target=begin, args=(command[2:], dict(env), files), daemon=True)
            self.process.start()
        os.close(told)
        self.stdout = os.fdopen(said, "rb")
        self.pid = self.process.pid
        self.lock = threading.Lock()

    @property
    def returncode(self) -> int | None:
        with self.lock:
            return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        with self.lock:
            self.process.join(timeout)
            code = self.process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("worker", timeout or 0.0)
        return code

    def terminate(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        self.process.kill()


def begin(command: Sequence[str], env: Mapping[str, str], files: Sequence[int]) -> None:
    """What a process does that ``python -m`` starts, from where it has its files."""
    os.setsid()
    os.environ.clear()
    os.environ.update(env)
    for number, fd in enumerate(files[:3]):
        os.dup2(fd, number)
        os.close(fd)
    sys.argv = list(command)
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)
