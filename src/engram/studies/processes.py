"""Worker processes of this machine side by side, and what they say.

Each job is a process of its own, and nothing is pickled. It is a fork of this one, with one thread, which has what was
imported and read for the plan: a short run begins at once, and all share one copy of the data. Where a fork cannot
learn (CUDA, another system than Linux), a job that a file can tell goes to a fresh process, and one that needs objects
of this process runs in it. A worker that dies takes nobody with it: its end is reported like any other event.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from engram.core.files import write_atomically
from engram.studies.folders import JOB_FILE, LOG_FILE
from engram.studies.forks import FORKS, PATIENCE, Fork, why_not_forked
from engram.studies.jobs import Event, Job, Listener
from engram.studies.machine import environment
from engram.studies.worker import Channel, attempt, log_of, work

Said = queue.Queue[tuple["_Worker", "dict[str, Any] | None"]]


class Processes:
    """Runs jobs on this machine, see :class:`engram.studies.jobs.Executor`; a context that leaves no process behind.

    Args:
        limit: processes side by side.
        device: that all jobs use.
        early: processes to start now, if they are fresh ones: they import what a run needs while the jobs are made.
    """

    def __init__(self, limit: int, device: str = "cpu", early: int = 0) -> None:
        self.limit, self.device = limit, device
        self.locks: Sequence[int] = ()  # open lock files, which workers hold as well
        self.said: Said = queue.Queue()
        early = 0 if FORKS and device.startswith("cpu") else min(early, limit)
        self.idle = [_Worker(device, self.said) for _ in range(early)]
        self.running: set[_Worker] = set()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop(self.idle)
        for worker in self.idle:
            if worker.process.stdout is not None:  # nobody has read it
                worker.process.stdout.close()

    def run(
        self,
        jobs: Sequence[Job],
        listener: Listener,
        *,
        dropped: Callable[[Job], bool] = lambda job: False,
        ready: Callable[[Job], bool] = lambda job: True,
    ) -> None:
        """As :class:`engram.studies.jobs.Executor` says."""
        waiting, running = list(jobs), self.running
        for job in jobs:
            listener(Event(job, "queued"))
        try:
            while waiting or running:
                while waiting and len(running) < self.limit:
                    able = [i for i, job in enumerate(waiting) if ready(job)] or ([] if running else [0])
                    if not able:
                        break
                    worker = self._begin(waiting.pop(able[0]), listener, dropped)
                    if worker is None:
                        break
                    listener(Event(worker.job, "spawn", {"pid": worker.process.pid}))
                waiting = [job for job in waiting if not dropped(job)]
                if not running:
                    continue
                worker, message = self.said.get()
                if message is None:
                    running.discard(worker)
                    end = worker.end()
                    if end is not None and not worker.dropped:
                        listener(end)
                elif message["event"] == "error":
                    worker.error = message
                    continue
                else:
                    worker.finished |= message["event"] == "done"
                    listener(Event(worker.job, message.pop("event"), message))
                waiting = [job for job in waiting if not dropped(job)]
                for other in running:
                    other.drop(dropped(other.job))
        finally:
            self._stop(running)
            running.clear()

    def _begin(self, job: Job, listener: Listener, dropped: Callable[[Job], bool]) -> _Worker | None:
        """A process for the job, or None after it has run in this one."""
        write_atomically(Path(job.folder) / JOB_FILE, job.to_json().encode(), sync=False)
        if job.inherits and self._objects_stay:
            _run_here(job, listener, dropped)
            return None
        if job.inherits or (FORKS and not self._why_not):
            worker = _Worker(self.device, self.said, Fork(partial(_forked, job), self.running))
        else:
            worker = self.idle.pop() if self.idle else _Worker(self.device, self.said)
        self.running.add(worker)
        worker.begin(job, self.locks)
        return worker

    @cached_property
    def _objects_stay(self) -> bool:
        """Whether jobs with objects run in this process; said once."""
        if self._why_not:
            warnings.warn(
                f"objects of this process cannot be sent to another one, and {self._why_not}: runs with them follow "
                "one another in this process.",
                stacklevel=2,
            )
        return bool(self._why_not)

    @cached_property
    def _why_not(self) -> str:
        return why_not_forked(self.device)

    def _stop(self, workers: Sequence[_Worker] | set[_Worker]) -> None:
        for worker in workers:
            worker.told.close()
            worker.process.terminate()
        for worker in workers:
            try:
                worker.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()


class _Worker:
    """One process, first without a job, and the thread that reads what it says."""

    job: Job

    def __init__(self, device: str, said: Said, fork: Fork | None = None) -> None:
        self.said = said
        self.error: dict[str, Any] | None = None
        self.finished = self.dropped = False
        self.told, standard_input = socket.socketpair()
        with standard_input:
            self.process: Any = fork or subprocess.Popen(
                [sys.executable, "-m", "engram.studies.worker"],
                stdin=standard_input.fileno(),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment(device),
                start_new_session=True,  # a Ctrl-C reaches the parent alone, which stops the workers
            )

    def begin(self, job: Job, locks: Sequence[int]) -> None:
        """Send the job, whose file is written, and listen. A fork has both already."""
        self.job = job
        path = Path(job.folder) / JOB_FILE
        with contextlib.suppress(OSError):  # it is dead, which its end will say
            socket.send_fds(self.told, [os.fsencode(path.resolve())], list(locks))
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        output = self.process.stdout
        if output is not None:
            with output:
                for line in output:
                    with contextlib.suppress(ValueError):  # half a line of a killed process
                        self.said.put((self, json.loads(line)))
        self.process.wait()
        self.told.close()
        self.said.put((self, None))

    def drop(self, wanted: bool) -> None:
        """Stop the process where that is wanted, unless it is done."""
        if wanted and not self.dropped and not self.finished:
            self.dropped = True
            self.process.terminate()

    def end(self) -> Event | None:
        """The event of a worker that ended without being done."""
        code = self.process.returncode
        if self.finished and code == 0:
            return None
        if self.error is not None:
            return _failure(self.job, self.error)
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            why = ", perhaps for want of memory" if name == "SIGKILL" else ""
            message = f"its process was killed by {name}{why}"
        else:
            message = f"its process ended with exit status {code} (see {self.job.folder}/{LOG_FILE})"
        return Event(self.job, "failed", {"message": message, "expected": False})


def _failure(job: Job, error: Mapping[str, Any]) -> Event:
    """The event of an error that a worker told."""
    message, expected = str(error["message"]), bool(error["expected"])
    if not expected:
        message = f"stopped by an unexpected {message} (see {job.folder}/{LOG_FILE})"
    again = {"again": True} if error.get("again") else {}
    return Event(job, "failed", {"message": message, "expected": expected, **again})


def _forked(job: Job, write: int) -> int:
    return work(job, Channel(os.fdopen(write, "w", encoding="utf-8")))


class _Dropped(BaseException):
    """Leaves a job that runs in this process; never seen outside this module."""


@dataclass
class _Told:
    """A worker's channel where the worker is this process."""

    job: Job
    listener: Listener
    dropped: Callable[[Job], bool]

    def send(self, kind: str, **data: Any) -> None:
        self.listener(_failure(self.job, data) if kind == "error" else Event(self.job, kind, data))
        if kind in ("epoch", "task") and self.dropped(self.job):
            raise _Dropped


def _run_here(job: Job, listener: Listener, dropped: Callable[[Job], bool]) -> None:
    import torch  # as above

    threads = torch.get_num_threads()
    listener(Event(job, "spawn", {"pid": os.getpid()}))
    try:
        with (
            log_of(job) as log,
            contextlib.redirect_stderr(log),
            contextlib.suppress(_Dropped),
        ):
            attempt(job, _Told(job, listener, dropped))
    finally:
        torch.set_num_threads(threads)
