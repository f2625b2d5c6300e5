"""What comes before a trade-off option matters is trained once, and nothing that is measured changes by a bit."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from sweeping import DATA, GIVEN, NETWORK
from torch import Tensor

import engram
from calling import no_figures
from engram.checks.comparing import timeless
from engram.core.contract import Batch, Phase, Step, TaskInfo, Terms, Tradeoff
from engram.core.files import sealed
from engram.errors import EngramError
from engram.methods.finetune import Finetune
from engram.methods.lwf import Lwf
from engram.methods.registry import METHODS, Entry, entry
from engram.methods.si import Si
from engram.parts.fitting import TrainOptions
from engram.studies.folders import JOB_FILE, SEED_FILE, SHARED
from engram.studies.jobs import Event, Job, Listener
from engram.studies.processes import Processes
from engram.studies.settings import plain
from engram.studies.sharing import run_shared
from engram.studies.worker import learn

pytestmark = pytest.mark.usefixtures("every_epoch")

TIMES = ("seconds", "peak", "elapsed", "other", "checkpoints")  # in the record of a checkpoint


@dataclass(frozen=True)
class PullConfig(TrainOptions):
    """Options.

    Args:
        pull: how far weights go back at the end of a later task.
    """

    pull: float = 0.5


class Pull(Finetune):
    """Fits, then takes some steps at a lower rate whose loss the option scales; later tasks only."""

    Config = PullConfig  # type: ignore[assignment]
    tradeoff = Tradeoff("pull", scale="linear", after="fit")

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        (fit,) = super().phases(task, n_samples)
        if task.index == 0:
            return (fit,)
        update = replace(fit.updates[0], loss=self.pulled)
        return (fit, replace(fit, name="pull", updates=(update,), epochs=1))

    def pulled(self, batch: Batch, step: Step) -> Terms:
        return {k: v * self.config.pull for k, v in self.loss(batch, step).items()}  # type: ignore[attr-defined]


OPTIONS: dict[str, dict[str, Any]] = {
    "si": {"epochs": 3},
    "lwf": {"epochs": 3, "warmup_epochs": 2, "optimiser": "sgd", "momentum": 0.9, "keep_optimiser": True},
    "pull": {"epochs": 3},
}
OPTION = {"si": "c", "lwf": "strength", "pull": "pull"}


@pytest.fixture(autouse=True)
def _declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Si, "tradeoff", Tradeoff("c"))
    monkeypatch.setattr(Lwf, "tradeoff", Tradeoff("strength", after="adapt"))
    monkeypatch.setitem(METHODS, "pull", Entry(Pull, PullConfig(), "of this test"))


def jobs(root: Path, method: str, values: Sequence[float], **more: Any) -> list[Job]:
    """A job a value, in folders below ``root``."""
    made = []
    for value in values:
        options = {**asdict(entry(method).config), **OPTIONS[method], OPTION[method]: value, **more}
        folder = root / f"{OPTION[method]}={value}" / "seed-0"
        folder.mkdir(parents=True, exist_ok=True)
        made.append(
            Job(
                DATA, NETWORK, method, plain(options), 0, "cpu", str(folder), True, str(value),
                record_valid=True,
            )
        )  # fmt: skip
    return made


class Killed(Exception):
    """Stands for a signal."""


Said = dict[str, Any]


class Here:
    """Runs jobs in this process, one after another; remembers the epochs that were trained, and notes.

    Args:
        kill: true for what was said when the job ends as a killed process does.
    """

    def __init__(self, kill: Callable[[Job, str, Said], bool] = lambda *_: False) -> None:
        self.kill = kill
        self.epochs: list[str] = []
        self.notes: list[str] = []

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves nothing behind."""

    def run(
        self,
        queue: Sequence[Job],
        listener: Listener,
        *,
        dropped: Callable[[Job], bool] = lambda job: False,
        ready: Callable[[Job], bool] = lambda job: True,
    ) -> None:
        waiting = list(queue)
        while waiting := [job for job in waiting if not dropped(job)]:
            job = next(job for job in waiting if ready(job))
            waiting.remove(job)
            with warnings.catch_warnings(record=True) as heard:
                warnings.simplefilter("always")
                self._run(job, listener)
            self.notes += [str(w.message) for w in heard if "common start" in str(w.message)]

    def _run(self, job: Job, listener: Listener) -> None:
        def send(kind: str, **data: Any) -> None:
            data = json.loads(json.dumps(data))
            if kind == "epoch":
                self.epochs.append(f"{job.label}: {data['task']} {data['phase']} {data['epoch']}")
            listener(Event(job, kind, data))
            if self.kill(job, kind, data):
                raise Killed

        (Path(job.folder) / JOB_FILE).write_text(job.to_json())
        channel = type("Channel", (), {"send": staticmethod(send)})()
        try:
            learn(Job.from_json((Path(job.folder) / JOB_FILE).read_text()), channel)
        except EngramError as error:
            listener(Event(job, "failed", {"message": str(error), "expected": True}))
        except Killed:
            listener(Event(job, "failed", {"message": "killed", "expected": False}))


def left_by(job: Job) -> tuple[dict[str, Any], dict[str, Any], dict[str, bytes]]:
    """What a job measured, and its last checkpoint: JSON without times, and tensors."""
    folder = Path(job.folder)
    entry = timeless(json.loads((folder / SEED_FILE).read_text()))
    last = max((folder / "checkpoints").glob("*.json"))
    meta = json.loads(last.read_text())
    meta["tasks"] = [{k: v for k, v in task.items() if k != "seconds"} for task in meta["tasks"]]
    meta["record"] = {k: v for k, v in meta["record"].items() if k not in TIMES}
    tensors = load_file(last.with_suffix(".safetensors"))
    return entry, {k: v for k, v in meta.items() if k != "sha256"}, {k: bits(v) for k, v in tensors.items()}


def bits(tensor: Tensor) -> bytes:
    return tensor.numpy().tobytes()


def alone(root: Path, method: str, values: Sequence[float], **more: Any) -> list[Any]:
    """What the jobs leave when nothing is shared."""
    made = jobs(root, method, values, **more)
    Here().run(made, lambda event: None)
    return [left_by(job) for job in made]


def ignore(event: Event) -> None:
    """Listens to nothing."""


VALUES = {"si": [0.0, 1.0, 100.0], "lwf": [0.5, 5.0], "pull": [0.25, 0.75]}
#: Epochs of a whole run, and of its common start.
LENGTH = {"si": (9, 3), "lwf": (9 + 4, 3 + 2), "pull": (9 + 2, 3 + 3)}


@pytest.mark.parametrize("method", OPTIONS)
def test_what_is_measured_is_the_same_bit_for_bit_and_takes_fewer_epochs(method: str, tmp_path: Path):
    values = VALUES[method]
    made, here = jobs(tmp_path / "a", method, values), Here()
    heard: list[Event] = []
    starts: list[Event] = []
    run_shared(made, heard.append, root=tmp_path / "a", starts=starts.append, executor=here)
    assert [left_by(job) for job in made] == alone(tmp_path / "b", method, values)
    whole, common = LENGTH[method]
    assert len(here.epochs) == common + len(values) * (whole - common)
    assert sum("common start" in epoch for epoch in here.epochs) == common
    # The caller hears of its own jobs only, and of each as if it had learned everything.
    assert {id(event.job) for event in heard} == {id(job) for job in made}
    begun = [event.data for event in heard if event.kind == "start"]
    assert all(said["epochs_done"] == common and len(said["rows"]) == 1 for said in begun)
    assert {event.job.label for event in starts} == {f"{method} common start"}
    assert [event.kind for event in starts].count("epoch") == common
    assert not list(tmp_path.glob(f"a/{SHARED}/*/seed-0/checkpoints"))


def test_seconds_of_the_common_start_count_in_every_run(tmp_path: Path):
    made = jobs(tmp_path, "si", [0.0, 1.0])
    took: list[float] = []
    run_shared(made, ignore, root=tmp_path, executor=Here(),
        starts=lambda event: took.append(event.data["seconds"]) if event.kind == "task" else None,
    )  # fmt: skip
    for job in made:
        assert json.loads((Path(job.folder) / SEED_FILE).read_text())["seconds_per_task"][0] == took[0] > 0


@pytest.mark.parametrize("method", ["si", "pull"])
def test_a_common_start_that_was_stopped_is_continued(method: str, tmp_path: Path):
    def stop(event: Event) -> None:
        if event.kind == "epoch" and event.data["epoch"] == 1:
            raise KeyboardInterrupt

    values = VALUES[method]
    made = jobs(tmp_path / "a", method, values)
    first, second = Here(), Here()
    with pytest.raises(KeyboardInterrupt):
        run_shared(made, ignore, root=tmp_path / "a", starts=stop, executor=first)
    run_shared(made, ignore, root=tmp_path / "a", executor=second)
    assert [left_by(job) for job in made] == alone(tmp_path / "b", method, values)
    assert len(first.epochs) == 2
    assert not set(first.epochs) & set(second.epochs)
    whole, common = LENGTH[method]
    assert len(first.epochs + second.epochs) == common + len(values) * (whole - common)


def test_a_common_start_that_stands_at_the_fork_learns_nothing_more(tmp_path: Path):
    def stop(event: Event) -> None:
        if event.kind == "epoch" and (event.data["task"], event.data["epoch"]) == (1, 2):
            raise KeyboardInterrupt  # its checkpoint is written, that it is over is not said

    made, second = jobs(tmp_path, "pull", [0.25, 0.75]), Here()
    with pytest.raises(KeyboardInterrupt):
        run_shared(made, ignore, root=tmp_path, starts=stop, executor=Here())
    run_shared(made, ignore, root=tmp_path, executor=second)
    assert not [epoch for epoch in second.epochs if "common" in epoch]
    assert [left_by(job) for job in made] == alone(tmp_path / "b", "pull", [0.25, 0.75])


def test_a_finished_common_start_is_not_repeated(tmp_path: Path):
    def stop(event: Event) -> None:
        if event.kind == "start":
            raise KeyboardInterrupt

    made, second = jobs(tmp_path, "si", [0.0, 1.0]), Here()
    with pytest.raises(KeyboardInterrupt):
        run_shared(made, stop, root=tmp_path, executor=Here())
    run_shared(made, ignore, root=tmp_path, executor=second)
    assert len(second.epochs) == 2 * 6
    assert [left_by(job) for job in made] == alone(tmp_path / "b", "si", [0.0, 1.0])


def test_a_common_start_whose_process_died_gives_what_it_has(tmp_path: Path):
    made = jobs(tmp_path / "a", "si", [0.0, 1.0])
    here = Here(lambda job, kind, said: job.common and kind == "epoch" and said["epoch"] == 1)
    failed: list[str] = []
    run_shared(made, lambda event: failed.append(event.kind) if event.kind == "failed" else None,
        root=tmp_path / "a", executor=here,
    )  # fmt: skip
    assert not failed
    assert len(here.epochs) == 2 + 2 * 7
    assert [left_by(job) for job in made] == alone(tmp_path / "b", "si", [0.0, 1.0])


def test_a_common_start_that_diverges_fails_its_jobs(tmp_path: Path):
    made, here = jobs(tmp_path, "si", [0.0, 1.0], optimiser="sgd", lr=1e30), Here()
    heard: list[Event] = []
    run_shared(made, heard.append, root=tmp_path, executor=here)
    assert [(event.kind, event.job.label) for event in heard] == [("failed", "0.0"), ("failed", "1.0")]
    assert all(e.data["expected"] and "must be finite" in e.data["message"] for e in heard)


@pytest.mark.parametrize("newest_only", [True, False])
def test_a_damaged_common_start(newest_only: bool, tmp_path: Path):
    def damage(event: Event) -> None:
        if event.kind == "done":
            files = sorted(Path(event.job.folder).glob("checkpoints/*.safetensors"))
            assert len(files) > 1
            for path in files[-1:] if newest_only else files:
                path.write_bytes(path.read_bytes()[:-1])

    made, here = jobs(tmp_path / "a", "si", [0.0, 1.0]), Here()
    run_shared(made, ignore, root=tmp_path / "a", starts=damage, executor=here)
    assert [left_by(job) for job in made] == alone(tmp_path / "b", "si", [0.0, 1.0])
    # The checkpoint before the last is that of the last epoch: only the task's end is done again.
    assert len(here.epochs) == 3 + 2 * (6 if newest_only else 9)
    assert newest_only or ["the run begins from nothing" in note for note in here.notes] == [True, True]


def test_a_common_start_of_other_data_is_refused_and_begun_anew(tmp_path: Path):
    def stop(event: Event) -> None:
        if event.kind == "done":
            path = max(Path(event.job.folder).glob("checkpoints/*.json"))
            meta = json.loads(path.read_text())
            meta["identity"]["stream"]["fingerprint"] = "another"
            body = json.dumps({k: v for k, v in meta.items() if k != "sha256"})
            path.write_bytes(sealed(body))

    made, here = jobs(tmp_path / "a", "si", [0.0, 1.0]), Here()
    run_shared(made, ignore, root=tmp_path / "a", starts=stop, executor=here)
    assert all("fingerprint" in note and "begins from nothing" in note for note in here.notes)
    assert len(here.notes) == 2
    assert [left_by(job) for job in made] == alone(tmp_path / "b", "si", [0.0, 1.0])


def test_jobs_that_have_begun_go_on_from_their_own_checkpoints(tmp_path: Path):
    made = jobs(tmp_path / "a", "si", [0.0, 1.0, 100.0])
    first = Here(lambda job, kind, said: job.label == "0.0" and kind == "epoch" and said["task"] == 1)
    first.run(made[:1], ignore)
    second = Here()
    run_shared(made, ignore, root=tmp_path / "a", executor=second)
    assert [left_by(job) for job in made] == alone(tmp_path / "b", "si", [0.0, 1.0, 100.0])
    assert len(first.epochs) == 4
    assert len(second.epochs) == 5 + 3 + 2 * 6
    assert not [epoch for epoch in second.epochs if epoch in first.epochs]


def test_a_killed_run_continues_from_its_own_checkpoint(tmp_path: Path):
    made = jobs(tmp_path / "a", "pull", [0.25, 0.75])
    first = Here(lambda job, kind, said: job.label == "0.25" and kind == "epoch" and said["phase"] == "pull")
    run_shared(made, ignore, root=tmp_path / "a", executor=first)
    (start,) = (tmp_path / "a" / SHARED).glob("*/seed-0")
    assert (start / "checkpoints").exists()  # one of its jobs is not done
    second = Here()
    run_shared(made[:1], ignore, root=tmp_path / "a", executor=second)
    assert [left_by(job) for job in made] == alone(tmp_path / "b", "pull", [0.25, 0.75])
    assert not set(first.epochs) & set(second.epochs)
    assert not (start / "checkpoints").exists()


def test_one_job_alone_or_a_method_without_a_trade_off_gets_no_common_start(tmp_path: Path):
    lone = [*jobs(tmp_path, "si", [1.0]), *jobs(tmp_path, "lwf", [1.0])]
    here = Here()
    run_shared(lone, ignore, root=tmp_path, executor=here)
    assert not (tmp_path / SHARED).exists()
    other = replace(lone[0], method="finetune", options={"epochs": 1})
    folders = [tmp_path / "x", tmp_path / "y"]
    for folder in folders:
        folder.mkdir()
    run_shared([replace(other, folder=str(f)) for f in folders], ignore, root=tmp_path, executor=here)
    assert not (tmp_path / SHARED).exists()


def test_jobs_that_differ_in_more_share_with_their_like_only(tmp_path: Path):
    made = [*jobs(tmp_path / "a", "si", [0.0, 1.0]), *jobs(tmp_path / "b", "si", [0.0, 1.0], lr=0.01)]
    made += [replace(job, seed=1, folder=job.folder[:-1] + "1") for job in made[:2]]
    for job in made:
        Path(job.folder).mkdir(parents=True, exist_ok=True)
    starts: list[Event] = []
    run_shared(made, ignore, root=tmp_path, starts=starts.append, executor=Here())
    begun = {(event.job.label, event.job.seed) for event in starts}
    assert begun == {("si common start 1", 0), ("si common start 2", 0), ("si common start 1", 1)}


def test_a_dropped_group_needs_no_common_start(tmp_path: Path):
    made, here = jobs(tmp_path, "si", [0.0, 1.0]), Here()
    run_shared(made, ignore, root=tmp_path, dropped=lambda job: True, executor=here)
    assert not here.epochs


def test_a_sweep_shares_and_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    here = Here()
    monkeypatch.setattr("engram.studies.conduct.Processes", lambda *_: here)
    no_figures(monkeypatch)
    out = tmp_path / "sweep"
    given: dict[str, Any] = {**GIVEN, "options": OPTIONS["si"], "out": out}
    labels: set[str] = set()
    outcome = engram.sweep(
        "si", {"c": [0.0, 1.0]}, **given, listener=lambda event: labels.add(event.job.label)
    )
    assert outcome.exit_code == 0
    assert labels == {"c=0", "c=1", "si common start"}
    assert len(here.epochs) == 3 + 2 * 6
    trials = [Path(out, t["folder"], "seed-0") for t in outcome.found["trials"]]
    expected = alone(tmp_path / "b", "si", [0.0, 1.0])
    found = [timeless(json.loads((t / SEED_FILE).read_text())) for t in trials]
    assert [f | {"identity": ""} for f in found] == [entry for entry, _, _ in expected]
    # One finished trial and two new values; then everything goes with --overwrite.
    engram.sweep("si", {"c": [0.0, 1.0, 10.0, 100.0]}, **given, resume=True)
    assert len(here.epochs) == 2 * (3 + 2 * 6)
    assert (out / SHARED).is_dir()
    (out / "study.json").write_text("no sweep")
    engram.sweep("si", {"c": [1.0]}, **given, overwrite=True)
    assert not (out / SHARED).exists()


def test_a_comparison_shares_among_variants_and_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    here = Here()
    monkeypatch.setattr("engram.studies.conduct.Processes", lambda *_: here)
    no_figures(monkeypatch)
    labels: set[str] = set()
    given: dict[str, Any] = {**GIVEN, "options": {"si": OPTIONS["si"], "finetune": {"epochs": 3}}}
    outcome = engram.compare(
        ["si:c=0.0", "si", "finetune"],
        **given,
        out=tmp_path / "a",
        listener=lambda event: labels.add(event.job.label),
    )
    assert outcome.exit_code == 0
    assert labels == {"si:c=0.0", "si", "finetune", "si common start"}
    assert len(here.epochs) == 3 + 2 * 6 + 9
    assert not list(tmp_path.glob(f"a/{SHARED}/*/seed-0/checkpoints"))
    apart = [engram.compare([m], **given, out=tmp_path / m) for m in ("si:c=0.0", "si", "finetune")]
    for found, one in zip(outcome.results, apart, strict=True):
        assert [timeless(s) for s in found["seeds"]] == [timeless(s) for s in one.results[0]["seeds"]]
    # What a cut-off comparison has left is learned anew with --overwrite.
    (start,) = tmp_path.glob(f"a/{SHARED}/*/seed-0")
    (start / "mine.txt").write_text("mine")
    engram.compare(["si"], **given, out=tmp_path / "a", overwrite=True)
    assert [path.name for path in start.iterdir()] == ["mine.txt"]


@pytest.mark.slow
def test_processes_wait_for_their_common_start_and_outlive_it(tmp_path: Path):
    def both(root: Path, make: Any) -> list[Any]:
        return [*make(root, "si", [0.0, 1.0], epochs=30), *make(root, "lwf", [2.0])]

    made = both(tmp_path / "a", jobs)
    kinds: list[tuple[str, str]] = []
    pids: list[int] = []

    def kill(event: Event) -> None:
        kinds.append((event.job.label, event.kind))
        if event.kind == "spawn":
            pids.append(event.data["pid"])
        if event.kind == "epoch":
            with contextlib.suppress(ProcessLookupError):
                os.kill(pids[0], signal.SIGKILL)

    with Processes(2) as processes:
        run_shared(
            made, lambda event: kinds.append((event.job.label, event.kind)), processes,
            root=tmp_path / "a", starts=kill,
        )  # fmt: skip
    assert ("si common start", "failed") in kinds
    spawned = [label for label, kind in kinds if kind == "spawn"]
    assert set(spawned[:2]) == {"si common start", "2.0"}  # lwf does not wait
    assert kinds.index(("si common start", "failed")) < kinds.index(("0.0", "spawn"))
    assert not [kind for label, kind in kinds if kind == "failed" and "common" not in label]
    assert [left_by(job) for job in made] == both(tmp_path / "b", alone)
