"""Worker processes of this machine side by side, and what they say.

Each job is a process of its own (no fork, no pickle). A worker that dies takes nobody with it: its end is
reported like any other event.
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
import sysconfig
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import engram
from engram.studies.folders import JOB_FILE, LOG_FILE
from engram.studies.jobs import Event, Job, Listener

PATIENCE = 10.0  # seconds from SIGTERM to SIGKILL when stopping


def default_jobs(device: str) -> int:
    """As many processes as cores on a CPU, one on an accelerator."""
    if not device.startswith("cpu"):
        return 1
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


class Processes:
    """Runs jobs on this machine, see :class:`engram.studies.jobs.Executor`; a context that leaves no process behind.

    Args:
        limit: processes side by side.
        device: that all jobs use.
        early: processes to start now: they import what a run needs while the jobs are made.
    """

    def __init__(self, limit: int, device: str = "cpu", early: int = 0) -> None:
        self.limit, self.device = limit, device
        self.locks: Sequence[int] = ()  # open lock files, which workers hold as well
        self.said: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
        self.idle = [_Worker(device, self.said) for _ in range(min(early, limit))]
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
                    worker = self._begin(waiting.pop(able[0]))
                    listener(Event(worker.job, "spawn", {"pid": worker.process.pid}))
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

    def _begin(self, job: Job) -> _Worker:
        """A process for the job. A job that holds an object, which no file can name, would be forked here."""
        worker = self.idle.pop() if self.idle else _Worker(self.device, self.said)
        self.running.add(worker)
        worker.begin(job, self.locks)
        return worker

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

    def __init__(self, device: str, said: queue.Queue[tuple[_Worker, dict[str, Any] | None]]) -> None:
        self.said = said
        self.error: dict[str, Any] | None = None
        self.finished = self.dropped = False
        self.told, standard_input = socket.socketpair()
        with standard_input:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "engram.studies.worker"],
                stdin=standard_input.fileno(),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment(device),
                start_new_session=True,  # a Ctrl-C reaches the parent alone, which stops the workers
            )

    def begin(self, job: Job, locks: Sequence[int]) -> None:
        """Send the job, and listen."""
        self.job = job
        path = Path(job.folder) / JOB_FILE
        path.write_text(job.to_json(), encoding="utf-8")
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
        expected = False
        if self.error is not None:
            message, expected = str(self.error["message"]), bool(self.error["expected"])
            if not expected:
                message = f"stopped by an unexpected {message} (see {self.job.folder}/{LOG_FILE})"
        elif code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            why = ", perhaps for want of memory" if name == "SIGKILL" else ""
            message = f"its process was killed by {name}{why}"
        else:
            message = f"its process ended with exit status {code} (see {self.job.folder}/{LOG_FILE})"
        return Event(self.job, "failed", {"message": message, "expected": expected})


def environment(device: str = "cpu") -> dict[str, str]:
    """The environment of a process of ours: one thread on a CPU, and this very package."""
    env = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
    if device.startswith("cpu"):
        env |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    root = str(Path(engram.__file__).resolve().parent.parent)
    if root not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        env["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [env.get("PYTHONPATH")])])
    return env
