"""One job in a process of its own: forked from the one that plans, or fresh.

A fresh one, ``python -m engram.studies.worker``, is told where its job lies on standard input, and imports what every
run needs before it is told, so that this costs nothing while the parent still plans. Events
go to standard output as JSON lines, everything else to the log in the job's folder. A finished seed's entry is written
to ``seed.json``, with the identity of its run, before it is announced; that of a common start
(:mod:`engram.protocols.common_start`) says only that it is one. Exit status: 0 done, 2 an error that a user can act
on, 1 anything else.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import socket
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any, TextIO

from engram.core.files import open_own, os_errors
from engram.core.staying import staying
from engram.errors import EngramError, PlaceError
from engram.studies.folders import LOG_FILE
from engram.studies.jobs import Job, told
from engram.studies.results import write_entry


class _Log(io.FileIO):
    """A file that takes what there is room for: a line of a log that is lost ends no run."""

    def write(self, content: Any) -> int:
        with contextlib.suppress(OSError):
            super().write(content)
        return memoryview(content).nbytes


def log_of(job: Job) -> TextIO:
    """The log in a job's folder, to write at its end; ``PlaceError`` where it cannot be opened."""
    raw = _Log(open_own(Path(job.folder) / LOG_FILE, os.O_WRONLY | os.O_APPEND), "w")
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", line_buffering=True
    )


class Channel:
    """The parent's end of standard output, as JSON lines."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def send(self, kind: str, **data: Any) -> None:
        """One event. When nobody listens any more the process ends: its checkpoints stay."""
        try:
            self.stream.write(json.dumps({"event": kind, **data}) + "\n")
            self.stream.flush()
        except BrokenPipeError:
            os._exit(0)


def main() -> int:
    """Run the job whose file is named on standard input."""
    channel = Channel(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    with staying("torch"), contextlib.suppress(Exception):  # what is wrong is said when the job needs it
        importlib.import_module("engram.protocols.common_start")
    # Lock files of the study come along and stay open: its folder is in use as long as this process lives.
    path, *_ = socket.recv_fds(socket.socket(fileno=0), 65536, 16)
    if not path:
        return 0
    return work(Job.from_json(Path(os.fsdecode(path)).read_text(encoding="utf-8")), channel)


def work(job: Job, channel: Channel) -> int:
    """The whole of a process of its own: what any library prints goes to the log, warnings are events too."""
    try:
        sys.stdout = sys.stderr = log = log_of(job)
    except EngramError as error:
        return _refused(error, channel)
    if not job.resume:
        os.truncate(log.fileno(), 0)
    os.dup2(log.fileno(), 2)
    os.dup2(log.fileno(), 1)  # stray prints of any library must not mix with the events
    print(f"process {os.getpid()}: {job.label or job.method}, seed {job.seed}", file=sys.stderr, flush=True)

    def note(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"note: {message}", file=sys.stderr, flush=True)
        channel.send("note", message=str(message))

    warnings.showwarning = note
    return attempt(job, channel)


def attempt(job: Job, channel: Any) -> int:
    """Learn, and tell the channel of an error; the exit status."""
    try:
        with os_errors():
            learn(job, channel)
    except EngramError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return _refused(error, channel)
    except (Exception, SystemExit) as error:  # code of a user's own may end the process
        traceback.print_exc()
        first = (str(error).splitlines() or [""])[0]
        channel.send("error", message=f"{type(error).__name__}: {first}", expected=False)
        return 1
    return 0


def _refused(error: EngramError, channel: Any) -> int:
    channel.send("error", message=str(error), expected=True, again=isinstance(error, PlaceError))
    return 2


def learn(job: Job, channel: Any) -> None:
    """Run the job in this process, tell the channel, and write the seed's entry."""
    # Torch comes with these; a process that only sends jobs, or reads their results, does without.
    import torch

    from engram.protocols import common_start
    from engram.protocols.session import Session, resolve
    from engram.studies.building import prepare

    if job.device == "cpu":
        torch.set_num_threads(1)

    def observe(event: Any) -> None:
        kind, said = told(event)
        channel.send(kind, **said)

    began = time.perf_counter()
    stream, given = job.ready or prepare(job.data, job.network, job.held, job.features, job.size)
    network, spec, protocol = resolve(stream, given, job.spec(), job.protocol())
    folder = Path(job.folder)
    session = Session(
        stream,
        network,
        spec,
        protocol,
        seed=job.seed,
        device=job.device,
        compile=job.compile,
        precision=job.precision,
        out=folder,
        resume=job.resume and not job.common,
        observer=observe,
        shared=Path(job.shared) if job.shared else None,
        began=began,
    )
    if job.common:
        common_start.open_start(session, folder)
    elif job.start:
        common_start.begin_from(session, Path(job.start))
    done = [*(t["phases"] for t in session.record["tasks"]), session.phases]
    channel.send(
        "start",
        rows=session.record["rows"],
        seconds=session.record["seconds"],
        valid=session.record.get("valid", []),
        n_tasks=common_start.n_tasks(session) if job.common else stream.n_tasks,
        epochs_done=sum(len(phase["epochs"]) for phases in done for phase in phases),
    )
    if job.common:
        common_start.learn_start(session)
        entry = {"common": True}
    else:
        entry = session.go(None)
    write_entry(folder, job.identity, entry)
    channel.send("done")


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # a tidy end of all that was imported takes a second
