"""The jobs of a sweep as tasks of a Ray cluster, one process each.

A task gets a job as JSON and returns the seed's entry as JSON. Where a fork can learn, the job is a fork of Ray's
process, which so imports PyTorch once for many jobs; elsewhere Ray's process ends with its job. A process that dies is
started again by Ray, up to ``RETRIES`` times, and continues from the job's checkpoints where its folder can be seen (a
shared disk, or this machine). Two processes of one job cannot work at once: the job's folder is locked, and the second
finds the first one's result. The result file of a seed is written once, by whoever finishes first, atomically.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from engram.core.files import open_own, write_atomically
from engram.core.staying import staying
from engram.errors import ConfigError, EngramError, PlaceError, reason
from engram.studies.folders import JOB_FILE, LOG_FILE, SEED_FILE
from engram.studies.forks import FORKS, Fork, why_not_forked
from engram.studies.jobs import Event, Job, Listener
from engram.studies.machine import environment
from engram.studies.worker import learn, log_of

RETRIES = 3
PATIENCE = 20.0  # seconds for a cluster to answer
PR_SET_PDEATHSIG = 1  # of Linux
TASK_LOCK = ".task.lock"
PROBE = "import ray,sys; ray.init(address=sys.argv[1], log_to_driver=False); print('answers'); ray.shutdown()"
PASSED_ON = ("ENGRAM_DATA", "ENGRAM_CACHE")


def require() -> None:
    """``ConfigError`` where Ray is not installed."""
    try:
        _ray()
    except ImportError as error:
        raise ConfigError("engine ray needs Ray, it is not installed: pip install engram[ray].") from error


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray  # an extra, and seconds
    return ray


class Cluster:
    """Runs jobs on the cluster at ``address``, or on one of this machine's own: a context that joins it, and leaves.

    A cluster that this process has joined already is used as it is; one that was started here ends.

    Args:
        address: HOST:PORT, ray://HOST:PORT or auto; None for this machine.
        room: tasks side by side on this machine; another cluster has its own limit.
        device: that all jobs use.

    Raises:
        ConfigError: no cluster answers there.
    """

    def __init__(self, address: str | None, room: int, device: str) -> None:
        self.address, self.room, self.device = address, room, device

    def __enter__(self) -> Cluster:
        ray = _ray()
        if ray.is_initialized():
            return self
        with _signals_kept():
            self._join(ray)
        return self

    def _join(self, ray: Any) -> None:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        with _quiet_warnings():
            if self.address is None:
                gpus = self.room if self.device.startswith("cuda") else 0
                rooms = {"num_cpus": self.room, "num_gpus": gpus}
                try:
                    with _environment_set("PYTHONPATH", environment(self.device).get("PYTHONPATH")):
                        ray.init(address="local", include_dashboard=False, **rooms, **quiet)
                except Exception as error:
                    raise EngramError(
                        f"Ray must start on this machine, it does not ({reason(error)}): try again when there is less "
                        "to do, or use engine grid."
                    ) from error
                return
            _check_answers(self.address)
            variables = {k: os.environ[k] for k in PASSED_ON if k in os.environ}
            env = {"env_vars": variables} if variables else None
            try:
                ray.init(address=self.address, runtime_env=env, **quiet)
            except Exception as error:
                raise _silent(self.address, error) from error

    def __exit__(self, *_: object) -> None:
        with _quiet_warnings():
            _ray().shutdown()

    def run(
        self,
        jobs: Sequence[Job],
        listener: Listener,
        *,
        dropped: Callable[[Job], bool] = lambda job: False,
        ready: Callable[[Job], bool] = lambda job: True,
    ) -> None:
        """As :class:`engram.studies.jobs.Executor`, but no job is dropped and none waits for another.

        Events of a job come when it ends. On an interrupt its tasks are cancelled; checkpoints stay.
        """
        ray = _ray()
        gpus = 1 if self.device.startswith("cuda") else 0
        # A process a job, as everywhere: its peak memory is its own.
        ends = {} if FORKS and not gpus else {"max_calls": 1}
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES, **ends)(learn_there)
        pending: dict[Any, Job] = {}
        try:
            with _quiet_warnings():
                for job in jobs:
                    there = replace(job, folder=str(Path(job.folder).resolve()))
                    pending[task.remote(there.to_json())] = job
                    listener(Event(job, "queued"))
                while pending:
                    ended, _ = ray.wait(list(pending), timeout=1.0)  # short, so that an interrupt is heard
                    for reference in ended:
                        job = pending.pop(reference)
                        try:
                            answer = ray.get(reference)
                        except ray.exceptions.RayError as error:
                            answer = {"error": _death(error), "expected": False}
                        _note(job, answer, listener)
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes a polite kill for itself, and ends with stacks; ours ends like Ctrl-C."""
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if in_main else None
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _environment_set(name: str, value: str | None) -> Iterator[None]:
    before = os.environ.get(name)
    try:
        if value is not None:
            os.environ[name] = value
        yield
    finally:
        if value is not None:
            os.environ.pop(name)
            if before is not None:
                os.environ[name] = before


@contextlib.contextmanager
def _quiet_warnings() -> Iterator[None]:
    """Ray warns of its own future defaults and leaves files open; neither is for a user of ours."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=ResourceWarning)
        yield


def _silent(address: str, why: object) -> ConfigError:
    lines = str(why).strip().splitlines() or [type(why).__name__]
    return ConfigError(
        f"address must be that of a Ray cluster, none answers at {address} ({lines[-1][:160].rstrip('.')}): start one "
        "with ray start --head, or leave --address out to use this machine."
    )


def _check_answers(address: str) -> None:
    """First the port, then a process that joins: what is no Ray can hold up or end the process that tries."""
    if address != "auto":
        host, colon, port = address.removeprefix("ray://").rpartition(":")
        if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ConfigError(f"address must be HOST:PORT, ray://HOST:PORT or auto, got {address!r}.")
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            raise _silent(address, error) from error
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE, address], capture_output=True, text=True, timeout=PATIENCE
        )
        said, heard = done.stdout, done.stderr
        why = "it is no Ray cluster of this version, or refuses"
    except subprocess.TimeoutExpired as error:
        said, heard = "", bytes(error.stderr or b"").decode(errors="replace")
        why = f"no answer in {PATIENCE:.0f} s"
    if "answers" in said:
        return
    if "InvalidAuthToken" in heard or "AuthenticationError" in heard:
        raise ConfigError(
            f"the Ray cluster at {address} asks for its token, none or another was given: set Ray's RAY_AUTH_MODE "
            "and RAY_AUTH_TOKEN as for any other program that joins it."
        )
    raise _silent(address, why)


def _death(error: Exception) -> str:
    if "WorkerCrashed" in type(error).__name__ or "OutOfMemory" in type(error).__name__:
        return f"its process died, {RETRIES} times again after the first ({type(error).__name__})"
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1]}"


def _note(job: Job, answer: dict[str, Any], listener: Listener) -> None:
    """The events of a job that has ended; its entry is written unless the disk it was written to is ours."""
    if "error" in answer:
        listener(Event(job, "failed", {"message": answer.pop("error"), **answer}))
        return
    path = Path(job.folder) / SEED_FILE
    if not path.exists():
        write_atomically(path, answer["entry"].encode())
    entry = json.loads(answer["entry"])
    rows, seconds = entry["accuracy_matrix"], entry["seconds_per_task"]
    started = {"rows": [], "valid": [], "seconds": [], "n_tasks": len(rows), "epochs_done": 0}
    listener(Event(job, "start", started))
    for t, (row, took) in enumerate(zip(rows, seconds, strict=True)):
        said = {
            "task": t,
            "accuracies": row[: t + 1],
            "seconds": took,
            "valid": entry["valid_matrix"][t][: t + 1],
        }
        listener(Event(job, "task", said))
    listener(Event(job, "done"))


class _Silence:
    """Takes the place of the parent, to whom a worker on a cluster cannot speak."""

    def send(self, kind: str, **data: Any) -> None:
        """Nothing."""


def learn_there(text: str) -> dict[str, Any]:
    """What a task does: one job, in this process or a fork; returns ``entry``, or ``error`` and ``expected``."""
    job = Job.from_json(text)
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(open_own(folder / TASK_LOCK, os.O_WRONLY), "w") as lock, log_of(job) as log:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path, told = folder / SEED_FILE, folder / JOB_FILE
        same = replace(job, resume=False).to_json()
        again = told.exists() and told.read_text(encoding="utf-8") == same
        if not (again and path.exists()):
            write_atomically(told, same.encode(), sync=False)
            error = _apart(replace(job, resume=job.resume or again), log)
            if error:
                return error
        return {"entry": path.read_text(encoding="utf-8")}


def _apart(job: Job, log: TextIO) -> dict[str, Any]:
    """`_attempt` in a fork of this process, where that can learn. When it dies this process does, so that Ray knows."""
    with staying("torch"):
        importlib.import_module("engram.protocols.common_start")
    if not FORKS or why_not_forked(job.device):
        return _attempt(job, log)

    def task(write: int) -> int:
        # What kills Ray's process, as a cancelled task does, kills the fork.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        with os.fdopen(write, "w", encoding="utf-8") as told:
            json.dump(_attempt(job, log), told)
        return 0

    fork = Fork(task)
    with fork.stdout as told:
        said = told.read()
    fork.wait()
    if fork.returncode != 0:
        os._exit(1)
    return dict(json.loads(said))


def _attempt(job: Job, log: TextIO) -> dict[str, Any]:
    """Learn, in this process; ``error`` and ``expected``, or nothing."""
    print(f"process {os.getpid()}: {job.label or job.method}, seed {job.seed}", file=log, flush=True)
    try:
        learn(job, _Silence())
    except EngramError as error:
        print(f"{type(error).__name__}: {error}", file=log, flush=True)
        return {"error": str(error), "expected": True, "again": isinstance(error, PlaceError)}
    except (Exception, SystemExit) as error:  # code of a user's own may end the process
        traceback.print_exc(file=log)
        first = (str(error).splitlines() or [""])[0]
        message = f"stopped by an unexpected {type(error).__name__}: {first} (see {job.folder}/{LOG_FILE})"
        return {"error": message, "expected": False}
    return {}
