"""Where the four axes meet: one stream, one network, one method, one protocol, one seed."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors

from engram.core.contract import Method
from engram.core.files import write_atomically
from engram.core.network import Network
from engram.core.options import Compile, Precision
from engram.core.origin import described
from engram.core.stored import RunRecord, check
from engram.errors import CheckpointError, ConfigError
from engram.features.extractor import Extractor
from engram.learning import compiling
from engram.learning.checkpoint import Checkpoints
from engram.learning.learner import Learner, as_network, check_device, checkpoint_folder
from engram.learning.loop import EpochEnd
from engram.methods.registry import MethodSpec, spec_of
from engram.parts.memory import SampleMemory
from engram.protocols.entry import seed_result
from engram.protocols.evaluation import (
    MANY,
    Oracle,
    evaluate,
    judge_generator,
    mistakes,
    oracle_of,
    sample_grid,
    top5,
)
from engram.protocols.protocol import Protocol
from engram.streams.guard import Guard
from engram.streams.stream import Stream

GRID = 10


@dataclass(frozen=True)
class TaskEnd:
    """Told after each task: test accuracy of the tasks seen (None where the method has not learned them yet), seconds
    it took, validation accuracy where recorded."""

    task: int
    accuracies: list[float | None]
    seconds: float
    record: dict[str, Any]
    valid: list[float] | None = None


Observer = Callable[[EpochEnd | TaskEnd], None]


def resolve(
    stream: Stream,
    network: Any,
    spec: MethodSpec | type[Method] | str,
    protocol: Protocol | str,
) -> tuple[Network, MethodSpec, Protocol]:
    """Names to objects, checked against the stream."""
    if isinstance(protocol, str):
        if protocol not in ("class", "task", "domain"):
            raise ConfigError(
                f"scenario must be one of class, domain, task, got {protocol!r}: give one of them."
            )
        protocol = Protocol(protocol)  # type: ignore[arg-type]
    protocol.check(stream)
    return as_network(network, stream.image_shape), spec_of(spec), protocol


def run(
    stream: Stream,
    network: Any = None,
    spec: MethodSpec | type[Method] | str = "dgmw",
    protocol: Protocol | str = "class",
    *,
    seed: int = 0,
    device: str = "cpu",
    compile: Compile = "eager",
    precision: Precision = "float32",
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    observer: Observer | None = None,
    stop_after: Callable[[EpochEnd | TaskEnd], bool] | None = None,
) -> dict[str, Any]:
    """Learn a stream with one method and one seed.

    Args:
        stream: what arrives.
        network: an object, a name, or None for the one that fits the images.
        spec: a method's name, ``engram.method(name, option=...)``, or a class of your own with its default options.
        protocol: a scenario's name (class, task, domain) or a :class:`Protocol`.
        seed: of everything random in the run.
        device: cpu or cuda.
        compile: ``inductor`` or ``cudagraphs`` makes graphs of steps, see :mod:`engram.learning.compiling`; the same
            within rounding.
        precision: of the losses: float32, tf32 or bf16, see :mod:`engram.learning.precision`.
        out: a folder for checkpoints (see `Checkpoints.due`) and generated samples; None keeps nothing on disk.
        resume: continue from the newest checkpoint in ``out``, bit for bit; start if there is none.
        observer: told after each epoch and each task; what it does cannot change the run.
        stop_after: leave after the first event for which it is true, with a checkpoint and status "unfinished".

    Returns:
        The seed's entry of a result file (see :mod:`engram.studies.results`).

    Raises:
        ConfigError: a combination that cannot work.
        DivergedError: a loss or a parameter is not finite; the last good checkpoint stays.
        CheckpointError: ``resume`` meets checkpoints of another run, or damaged ones only.
    """
    network, spec, protocol = resolve(stream, network, spec, protocol)
    return Session(
        stream,
        network,
        spec,
        protocol,
        seed=seed,
        device=device,
        compile=compile,
        precision=precision,
        out=out,
        resume=resume,
        observer=observer,
    ).go(stop_after)


class _Stop(Exception):
    """Raised inside an epoch callback to leave the loop; never seen outside this module."""


class Session:
    """One run in progress: a stream handed to a learner, task by task, and judged from outside.

    It owns the learner, the guard before the stream, the record so far and the checkpoints.

    Args:
        shared: folder for what the runs of a study have in common.
        began: of this process's clock (`time.perf_counter`), when the run was taken up; now where None.

    Attributes:
        other, since: seconds that were spent on anything but training up to ``since``, on this process's clock.
        elapsed: seconds that the task in progress was trained, up to its last epoch; None between tasks.
    """

    def __init__(
        self,
        stream: Stream,
        network: Network,
        spec: MethodSpec,
        protocol: Protocol,
        *,
        seed: int,
        device: str,
        compile: Compile = "eager",
        precision: Precision = "float32",
        out: str | os.PathLike[str] | None,
        resume: bool,
        observer: Observer | None,
        shared: Path | None = None,
        began: float | None = None,
    ) -> None:
        self.learner = Learner(
            spec,
            network,
            image_shape=stream.image_shape,
            scenario=protocol.scenario,
            seed=seed,
            n_classes=stream.n_classes,
            n_tasks=stream.n_tasks,
            device=device,
            compile=compile,
            precision=precision,
        )
        if compile == "cudagraphs" and (why := compiling.why_not(compile, self.learner.device)):
            raise ConfigError(f"compile must be eager or inductor here, got 'cudagraphs': {why}.")
        self.method, self.state = self.learner.method, self.learner.state
        self.view = stream.view if isinstance(stream.view, Extractor) else None
        self.stream, self.protocol = stream.to(self.learner.device), protocol
        self.seed, self.observer, self.shared = seed, observer, shared
        self.other, self.since = 0.0, time.perf_counter() if began is None else began
        self.elapsed: float | None = None
        self.guard = Guard(self.stream, self.method.reads)
        self.record: dict[str, Any] = {"rows": [], "tasks": [], "seconds": [], "acc_gen": [], "peak": 0}
        if protocol.record_valid:
            self.record["valid"] = []
        self.phases: list[dict[str, Any]] = []  # of the task in progress, in their order
        self.folder = Path(out) if out is not None else None
        self.checkpoints: Checkpoints | None = None
        self.confusion: list[list[int]] | None = None
        if self.folder is not None:
            self.checkpoints = Checkpoints(checkpoint_folder(self.folder), self.identity())
            if resume:
                self.restore(self.checkpoints)
        self.oracle: Oracle | None = None

    def identity(self) -> dict[str, Any]:
        """What makes a checkpoint belong to this run: its learner, code of one's own, and what it is judged by."""
        own = {"method": described(self.learner.spec.make), "network": self.learner.network.source()}
        return {
            **self.learner.identity(),
            **({"sources": own} if any(own.values()) else {}),
            "stream": self.stream.describe(),
            "protocol": _protocol_identity(self.protocol),
        }

    def restore(self, checkpoints: Checkpoints, *, shared: bool = False) -> bool:
        """Continue from the newest of these checkpoints; False where there is none. ``shared``: change no file."""
        record = self.learner.restore(checkpoints, shared=shared)
        if record is None:
            return False
        check(record, RunRecord, "a checkpoint is not of a run", CheckpointError)
        if {len(record[key]) for key in ("rows", "tasks", "seconds")} != {self.state.cursor.task}:
            raise CheckpointError(
                "a checkpoint must record every task that was learned, it does not: delete the folder and start again."
            )
        self.phases = record.pop("phases")
        self.confusion = record.pop("confusion")
        self.record = record
        self.elapsed = record.pop("elapsed", None)
        self.other += float(record.pop("other", 0.0))
        checkpoints.seconds += float(record.pop("checkpoints", 0.0))
        return True

    def go(self, stop_after: Callable[[EpochEnd | TaskEnd], bool] | None) -> dict[str, Any]:
        """Learn the tasks that are left."""
        status = "unfinished"
        with contextlib.suppress(_Stop):
            for index in range(self.state.cursor.task, self.stream.n_tasks):
                self._learn(index, stop_after)
            status = "done"
        self.method.eval()
        return self._entry(status)

    def _learn(self, index: int, stop_after: Callable[[EpochEnd | TaskEnd], bool] | None) -> None:
        task = self.protocol.task(self.stream, index)
        self.guard.begin(index)
        data = self.guard.training_data(index)
        features = self._features_cost(index)
        classes = self.stream.class_names[0 if self.method.reads == "all" else task.start : task.stop]
        began = time.perf_counter() - (self.elapsed or 0.0)

        def on_epoch(event: EpochEnd) -> None:
            if not self.phases or self.phases[-1]["phase"] != event.phase:
                self.phases.append({"phase": event.phase, "epochs": []})
            self.phases[-1]["epochs"].append(
                {"epoch": event.epoch, "losses": event.losses, "measures": event.measures}
            )
            # What predicts is whole only in the last phase: a separate solver is untrained before it.
            if event.phase_index == len(self.method.phases(task, len(data))) - 1:
                self._look(index, event)
            self.elapsed = time.perf_counter() - began
            if self.checkpoints is not None and self.checkpoints.due():
                self.save()
            self._tell(event, stop_after)

        self._count_other()
        self.learner.learn(data, classes, on_epoch=on_epoch)
        self.since, self.elapsed = time.perf_counter(), None
        self.guard.end(index)
        seconds = self.since - began + features["seconds"]
        found, counts = evaluate(self.learner, self.stream, self.protocol, index)
        self.confusion = counts.tolist()
        row: list[float | None] = [*found]
        valid = self._valid_row(index) if self.protocol.record_valid else None
        best = self.record.pop("best", None)
        chosen = "last"
        if best is not None and best["valid"] >= self._validation(index):
            chosen = best["epoch"]
            row, self.confusion, valid = best["row"], best["confusion"], best.get("valid_row", valid)
        if not self.method.answers(task):
            row = [None] * len(row)
        if valid is not None:
            self.record["valid"].append(valid)
        if self.stream.n_classes >= MANY and self.protocol.scenario == "class":
            self.record.setdefault("top5", []).append(top5(self.learner, self.stream, index))
        if self.method.generative and self.protocol.generated_per_class:
            if self.oracle is None:
                self.oracle = self._make_oracle()
            n = self.protocol.generated_per_class
            self.record["acc_gen"].append(self.oracle.accuracy(self.method, task, n, self.seed))
        self._write_samples(task.n_seen, f"samples-{index + 1}.safetensors")
        done = {"task": index, "seconds": seconds, "phases": self.phases, **self.method.report()}
        if self.view is not None:
            done["features"] = features
        if best is not None:
            done["selected_epoch"] = chosen
        self.phases = []
        self.record["rows"].append(row)
        done["storage_bytes"] = self._storage_bytes()
        self.record["tasks"].append(done)
        self.record["seconds"].append(seconds)
        if self.checkpoints is not None and (
            index + 1 == self.stream.n_tasks or stop_after or self.checkpoints.due()
        ):
            self.save()
        self._tell(TaskEnd(index, row, seconds, done, valid), stop_after)

    def _look(self, index: int, event: EpochEnd) -> None:
        """Keep the test row of the epoch with the best validation accuracy, where the protocol selects by it."""
        if self.protocol.selection == "last" or (event.epoch + 1) % self.protocol.select_every:
            return
        valid_row = self._valid_row(index)
        valid = sum(valid_row) / len(valid_row)
        best = self.record.get("best")
        if best is None or valid > best["valid"]:
            row, counts = evaluate(self.learner, self.stream, self.protocol, index)
            best = {"valid": valid, "row": row, "confusion": counts.tolist(), "epoch": event.epoch}
            self.record["best"] = best | ({"valid_row": valid_row} if self.protocol.record_valid else {})

    def _valid_row(self, index: int) -> list[float]:
        return evaluate(self.learner, self.stream, self.protocol, index, "valid")[0]

    def _validation(self, index: int) -> float:
        row = self._valid_row(index)
        return sum(row) / len(row)

    def _data_kept(self) -> int:
        """Training samples of the tasks learned, where the method reads all of them again and again."""
        learned = self.stream.tasks[: len(self.record["rows"])]
        return sum(task.n_train for task in learned) if self.method.reads == "all" else 0

    def _features_cost(self, index: int) -> dict[str, float]:
        """Seconds of the features of a task's training samples, which were just read: as when they were computed."""
        if self.view is None:
            return {"seconds": 0.0}
        fitting = self.view.fit_seconds if index == 0 else 0.0
        return {"seconds": self.view.seconds + fitting, "fitting": fitting}

    def _storage_bytes(self) -> dict[str, int]:
        shape, kept = self.stream.image_shape, self.method.storage_bytes()
        entry = 1 if len(shape) == 3 else 4  # pixels are bytes, entries of feature vectors floats
        each = math.prod(shape) * entry + 8
        more = {} if self.view is None else {"features": self.view.storage_bytes()}
        return {**kept, "exemplars": kept["exemplars"] + self._data_kept() * each, **more}

    def _count_other(self) -> None:
        """Count the seconds up to now, which were not spent in training."""
        now = time.perf_counter()
        self.other, self.since = self.other + now - self.since, now

    def _count_peak(self) -> None:
        self.record["peak"] = max(int(self.record["peak"]), peak_memory_bytes(self.stream.device))

    def save(self) -> None:
        """Write a checkpoint of where the run stands."""
        if self.checkpoints is None:
            return
        self._count_peak()
        if self.elapsed is None:
            self._count_other()
        record = {
            **self.record,
            **({} if self.elapsed is None else {"elapsed": self.elapsed}),
            "other": self.other,
            "checkpoints": self.checkpoints.seconds,
            "phases": self.phases,
            "confusion": self.confusion,
        }
        self.learner.store(self.checkpoints, record)

    def _tell(
        self, event: EpochEnd | TaskEnd, stop_after: Callable[[EpochEnd | TaskEnd], bool] | None
    ) -> None:
        if self.observer is not None:
            self.observer(event)
        if stop_after is not None and stop_after(event):
            self.save()
            raise _Stop

    def _entry(self, status: str) -> dict[str, Any]:
        n = self.stream.n_tasks
        rows = _square(self.record["rows"], n)
        self._count_peak()
        samples = generated = None
        if status == "done" and self.method.generative and self.protocol.generated_per_class:
            oracle = self._make_oracle() if self.oracle is None else self.oracle
            generated = judge_generator(self.method, self.stream, oracle, self.seed)
        if status == "done":
            samples = self._write_samples(self.stream.n_classes, "samples.safetensors")
        wrong = None
        if status == "done" and self.folder is not None and self._knows_pixels():
            found = mistakes(self.learner, self.stream, self.protocol)
            if found is not None:
                write_atomically(self.folder / "mistakes.safetensors", save_tensors(found))
                wrong = f"{self.folder.name}/mistakes.safetensors"
        self._count_other()
        return seed_result(
            self.seed,
            rows or [[None] * n],
            status=status,
            seconds=sum(self.record["seconds"]),
            seconds_other=self.other,
            seconds_checkpoints=None if self.checkpoints is None else self.checkpoints.seconds,
            seconds_per_task=self.record["seconds"],
            peak_memory_bytes=self.record["peak"],
            stored_real_samples=stored_real_samples(self.method) + self._data_kept(),
            storage_bytes=self._storage_bytes(),
            acc_gen=self.record["acc_gen"] or None,
            confusion=self.confusion,
            tasks=self.record["tasks"],
            samples=samples,
            mistakes=wrong,
            valid_matrix=_square(self.record["valid"], n) if self.record.get("valid") else None,
            generated=generated,
            top5=self.record.get("top5"),
        )

    def _knows_pixels(self) -> bool:
        """Whether there are images to show, and the method as it is now gave the answers that are reported."""
        return len(self.stream.images.image_shape) == 3 and self.protocol.selection == "last"

    def _write_samples(self, n_classes: int, name: str) -> str | None:
        """Write generated images of the first classes, by the same noise every time; the file's place in the study."""
        images = len(self.method.context.image_shape) == 3
        if not self.method.generative or self.folder is None or not images:
            return None
        grid = sample_grid(self.method, n_classes, GRID, self.seed)
        write_atomically(self.folder / name, save_tensors(grid))
        return f"{self.folder.name}/{name}"

    def _make_oracle(self) -> Oracle:
        return oracle_of(self.stream, self.method.context.network, self.shared)


def _protocol_identity(protocol: Protocol) -> dict[str, Any]:
    """What of a protocol belongs to a checkpoint; a field that is off by default appears only when it is on."""
    return {k: v for k, v in dataclasses.asdict(protocol).items() if k != "record_valid" or v}


def _square(rows: list[list[float | None]], n: int) -> list[list[float | None]]:
    """Rows filled up to ``n`` entries: what was not measured is None."""
    return [[*row, *[None] * (n - len(row))] for row in rows]


def stored_real_samples(method: Method) -> int:
    """Real samples that a method keeps, counted in its memories."""
    return sum(len(m) for m in method.modules() if isinstance(m, SampleMemory))


def peak_memory_bytes(device: torch.device) -> int:
    """Peak of this process, or of the accelerator's allocator."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


__all__ = ["Observer", "Protocol", "Session", "TaskEnd", "check_device", "resolve", "run"]
