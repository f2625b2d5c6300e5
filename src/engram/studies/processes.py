"""Worker processes side by side, and what they say.

Each job is a process of its own (no fork, no pickle). A worker that dies takes nobody with it: its end is
reported like any other event.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engram.studies.settings import Job

LOG = "worker.log"
JOB = "job.json"
PATIENCE = 10.0  # seconds from SIGTERM to SIGKILL when stopping


@dataclass(frozen=True)
class Event:
    """Something a worker said, or its end.

    Kinds: ``queued``; ``spawn`` (pid); ``start`` (rows, valid, seconds, n_tasks, epochs_done); ``epoch`` (task,
    phase, epoch, n_epochs, losses); ``task`` (task, accuracies, seconds, valid where recorded); ``note``
    (message); ``done``; ``failed`` (message, expected).
    """

    job: Job
    kind: str
    data: Mapping[str, Any] = field(default_factory=dict)


Listener = Callable[[Event], None]


def default_jobs(device: str) -> int:
    """As many processes as cores on a CPU, one on an accelerator."""
    if not device.startswith("cpu"):
        return 1
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def run_jobs(
    jobs: Sequence[Job],
    limit: int,
    listener: Listener,
    *,
    keep_open: Sequence[int] = (),
    dropped: Callable[[Job], bool] = lambda job: False,
    ready: Callable[[Job], bool] = lambda job: True,
) -> None:
    """Run every job, at most ``limit`` at once, in the order given.

    Args:
        jobs: each with a folder of its own, which exists.
        limit: processes side by side.
        listener: told everything, in this thread.
        keep_open: file descriptors that the workers inherit.
        dropped: asked after every event; a job for which it is true is stopped, or never started, and no
            failure. Its checkpoints stay.
        ready: asked whenever there is room; a job for which it is false waits, and later ones go first. One that
            waits while nothing runs is taken as ready.

    Raises:
        KeyboardInterrupt: passed on after all workers have been stopped; their checkpoints stay.
    """
    waiting, running = list(jobs), set[_Worker]()
    said: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
    for job in jobs:
        listener(Event(job, "queued"))
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                able = [i for i, job in enumerate(waiting) if ready(job)] or ([] if running else [0])
                if not able:
                    break
                worker = _Worker(waiting.pop(able[0]), said, keep_open)
                running.add(worker)
                listener(Event(worker.job, "spawn", {"pid": worker.process.pid}))
            worker, message = said.get()
            if message is not None:
                if message["event"] == "error":
                    worker.error = message
                else:
                    worker.finished |= message["event"] == "done"
                    listener(Event(worker.job, message.pop("event"), message))
                    waiting = [job for job in waiting if not dropped(job)]
                    for other in running:
                        other.drop(dropped(other.job))
                continue
            running.discard(worker)
            end = worker.end()
            if end is not None and not worker.dropped:
                listener(end)
                waiting = [job for job in waiting if not dropped(job)]
    finally:
        _stop(running)


class _Worker:
    """One process and the thread that reads what it says."""

    def __init__(
        self, job: Job, said: queue.Queue[tuple[_Worker, dict[str, Any] | None]], keep_open: Sequence[int]
    ) -> None:
        self.job, self.said = job, said
        self.error: dict[str, Any] | None = None
        self.finished = self.dropped = False
        folder = Path(job.folder)
        path = folder / JOB
        path.write_text(job.to_json(), encoding="utf-8")
        with open(folder / LOG, "ab" if job.resume else "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "engram.studies.worker", str(path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_environment(job.device),
                pass_fds=tuple(keep_open),
                start_new_session=True,  # a Ctrl-C reaches the parent alone, which stops the workers
            )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        output = self.process.stdout
        if output is not None:
            with output:
                for line in output:
                    with contextlib.suppress(ValueError):  # half a line of a killed process
                        self.said.put((self, json.loads(line)))
        self.process.wait()
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
                message = f"stopped by an unexpected {message} (see {self.job.folder}/{LOG})"
        elif code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            why = ", perhaps for want of memory" if name == "SIGKILL" else ""
            message = f"its process was killed by {name}{why}"
        else:
            message = f"its process ended with exit status {code} (see {self.job.folder}/{LOG})"
        return Event(self.job, "failed", {"message": message, "expected": expected})


def _environment(device: str) -> dict[str, str]:
    """The worker's environment: one thread on a CPU, and this very package."""
    import engram

    env = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
    if device.startswith("cpu"):
        env |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    root = str(Path(engram.__file__).resolve().parent.parent)
    if root not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        env["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [env.get("PYTHONPATH")])])
    return env


def _stop(workers: set[_Worker]) -> None:
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        try:
            worker.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
