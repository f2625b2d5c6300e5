"""Forks of this process: they have what it imported and read, and no memory of theirs stays when they end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterable
from typing import Any

FORKS = sys.platform == "linux"  # elsewhere the system's libraries do not survive a fork
PATIENCE = 10.0  # seconds from SIGTERM to SIGKILL when stopping


class Fork:
    """A process forked from this one, with that part of `subprocess.Popen` which is used here.

    Args:
        task: what it does, given the writing end of ``stdout``; returns its exit status.
        beside: whose pipes, ``process.stdout``, it must not hold open.
    """

    def __init__(self, task: Callable[[int], int], beside: Iterable[Any] = ()) -> None:
        read, write = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a fork of threads: it uses none of them
            self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.setsid()  # a Ctrl-C reaches the parent alone
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, signal.SIG_DFL)
                for output in [read, *(worker.process.stdout for worker in beside)]:
                    with contextlib.suppress(OSError, ValueError):  # it was closed in that moment
                        os.close(output if isinstance(output, int) else output.fileno())
                code = task(write)
            finally:
                os._exit(code)
        os.close(write)
        self.stdout = os.fdopen(read, "rb")
        self.returncode: int | None = None
        self.over = threading.Event()
        threading.Thread(target=self._reap, daemon=True).start()

    def _reap(self) -> None:
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.over.set()

    def wait(self, timeout: float | None = None) -> None:
        """Until it has ended; ``subprocess.TimeoutExpired`` after that many seconds."""
        if not self.over.wait(timeout):
            raise subprocess.TimeoutExpired("fork", timeout or 0.0)

    def terminate(self, number: int = signal.SIGTERM) -> None:
        """Send it a signal, unless it has ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.terminate(signal.SIGKILL)


def why_not_forked(device: str) -> str:
    """Why a fork of this process cannot learn; empty where it can."""
    import torch  # who made the job has it

    if not hasattr(os, "fork"):
        return "this system cannot fork"
    if not device.startswith("cpu") or torch.cuda.is_initialized():
        return "a fork cannot use CUDA"
    probe = Fork(_differentiates)
    with contextlib.suppress(subprocess.TimeoutExpired):
        probe.wait(PATIENCE)
    if probe.returncode != 0:
        probe.kill()
    probe.stdout.close()
    return "" if probe.returncode == 0 else "threads of this process keep a fork from computing gradients"


def _differentiates(write: int) -> int:
    """What a fork does to see whether it can learn: threads of CUDA in the parent keep it from that."""
    import torch  # it is there

    torch.set_num_threads(1)
    torch.ones(2, requires_grad=True).sum().backward()
    return 0
