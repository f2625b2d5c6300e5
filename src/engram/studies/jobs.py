"""What a worker is told, and what it says.

A job is one seed of one variant, complete in JSON, so that it can be sent to a process or another machine by file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from engram.core.options import Compile, Precision
from engram.methods.registry import MethodSpec, add_file, entry, method
from engram.studies.settings import DataSettings, FeatureSettings, NetworkSettings, Size

if TYPE_CHECKING:
    from engram.core.network import Network
    from engram.learning.loop import EpochEnd
    from engram.protocols.protocol import Protocol as Judged
    from engram.protocols.session import TaskEnd
    from engram.streams.stream import Stream

__all__ = ["Event", "Executor", "Job", "Listener", "told"]

# In the folder of a seed, beside its checkpoints.


@dataclass(frozen=True)
class Job:
    """One seed of one variant.

    Args:
        data: the data and how they arrive.
        network: with its name resolved.
        method: a registered name.
        options: all of its options.
        seed: of everything random in training.
        device: cpu or cuda.
        compile: how steps are made graphs.
        precision: of the losses.
        folder: of this seed; gets checkpoints, samples and ``seed.json``.
        resume: continue from the checkpoints in the folder.
        label: what the variant is called in tables and messages.
        method_file: of a method of one's own, where it is loaded from.
        record_valid: measure validation samples too, see :class:`engram.protocols.evaluation.Protocol`.
        identity: checksum of what makes the run this run; ``seed.json`` carries it.
        start: folder of a common start, from which a job without checkpoints of its own begins.
        common: this job is a common start: it ends where the method's trade-off option begins to matter.
        held: by name, data that were given as objects. No file holds them.
        features: what methods see the images through.
        size: of images, see :func:`engram.studies.building.prepare`.
        inherits: the job needs objects of the process that made it: it cannot be read from a file elsewhere.
        shared: folder for what the runs of the study have in common, or "" for none.
        ready: the stream and the network that the settings make, for a process that has them by descent; no file
            holds them.
    """

    data: DataSettings
    network: NetworkSettings
    method: str
    options: Mapping[str, Any]
    seed: int
    device: str
    folder: str
    resume: bool = False
    label: str = ""
    record_valid: bool = False
    identity: str = ""
    start: str = ""
    common: bool = False
    method_file: str = ""
    held: Mapping[str, Any] = field(default_factory=dict)
    features: FeatureSettings = field(default_factory=FeatureSettings)
    size: Size = "network"
    inherits: bool = False
    shared: str = ""
    compile: Compile = "eager"
    precision: Precision = "float32"
    ready: tuple[Stream, Network] | None = field(default=None, compare=False, repr=False)

    def to_json(self) -> str:
        """The job as JSON text, but for what no file can hold."""
        return json.dumps(asdict(replace(self, options=dict(self.options), held={}, ready=None)), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The job that ``to_json`` wrote."""
        values = json.loads(text)
        values["data"] = DataSettings(**values["data"])
        values["network"] = NetworkSettings(**values["network"])
        values["features"] = FeatureSettings(**values["features"])
        return cls(**values)

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return any((Path(self.folder) / "checkpoints").glob("*.json"))

    def protocol(self) -> Judged:
        """How the run is judged."""
        return replace(self.data.protocol(), record_valid=self.record_valid)

    def spec(self) -> MethodSpec:
        """The method with its options; ``ConfigError`` for unknown ones."""
        if self.method_file:
            add_file(self.method_file)
        fixed = entry(self.method).fixed
        return method(self.method, {k: v for k, v in self.options.items() if k not in fixed})


@dataclass(frozen=True)
class Event:
    """Something a worker said, or its end.

    Kinds: ``queued``; ``spawn`` (pid); ``start`` (rows, valid, seconds, n_tasks, epochs_done); ``epoch`` (task,
    phase, epoch, n_epochs, losses); ``task`` (task, accuracies, seconds, valid where recorded); ``note``
    (message); ``done``; ``failed`` (message, expected, and ``again`` where the system refused a place).
    """

    job: Job
    kind: str
    data: Mapping[str, Any] = field(default_factory=dict)


Listener = Callable[[Event], None]


def told(event: EpochEnd | TaskEnd) -> tuple[str, dict[str, Any]]:
    """What a run says of an epoch or a task: kind and data of an `Event`."""
    of_task = hasattr(event, "accuracies")
    names = (
        ("task", "accuracies", "seconds", "valid")
        if of_task
        else ("task", "phase", "epoch", "n_epochs", "losses")
    )
    said = {name: getattr(event, name) for name in names}
    return "task" if of_task else "epoch", {k: v for k, v in said.items() if v is not None}


class Executor(Protocol):
    """Runs jobs side by side: processes of this machine, or a cluster."""

    def run(
        self,
        jobs: Sequence[Job],
        listener: Listener,
        *,
        dropped: Callable[[Job], bool] = lambda job: False,
        ready: Callable[[Job], bool] = lambda job: True,
    ) -> None:
        """Run every job, as far as there is room in the order given.

        Args:
            jobs: each with a folder of its own, which exists.
            listener: told everything, in this thread.
            dropped: asked after every event; a job for which it is true is stopped, or never started, and is no
                failure. Its checkpoints stay.
            ready: asked whenever there is room; a job for which it is false waits, and later ones go first. One that
                waits while nothing runs is taken as ready.

        Raises:
            KeyboardInterrupt: passed on after everything that runs was stopped; checkpoints stay.
        """
