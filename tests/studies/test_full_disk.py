"""A disk that is full at some moment: one line says so, what is on it stays, and with space the study goes on."""

from __future__ import annotations

import errno
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engram
from calling import no_figures
from engram.core import files
from engram.errors import PlaceError
from engram.studies import conduct
from engram.studies.jobs import Event
from engram.studies.results import read
from engram.studies.study import Outcome, Problem

MOMENTS = 10
FEW: dict[str, Any] = {"epochs": 2, "batch_size": 16, "lr": 0.01}
rng = np.random.default_rng(0)
LABELS = np.arange(48) % 4
IMAGES = rng.integers(0, 60, (48, 4, 4))
IMAGES[np.arange(48), LABELS] += 150
DATA = IMAGES.astype(np.uint8), LABELS
GIVEN: dict[str, Any] = {
    "recipe": "none",
    "network": engram.NetworkSettings("mlp", {"hidden": [4]}),
    "jobs": 1,
}


def run(out: Path, **more: Any) -> Outcome:
    return engram.compare(["finetune"], DATA, out=out, options={"finetune": FEW}, **GIVEN, **more)


def comparison(out: Path, **more: Any) -> Outcome:
    options = {"finetune": FEW, "l2sp": FEW}
    return engram.compare(["finetune", "l2sp"], DATA, out=out, options=options, **GIVEN, **more)


def sweep(out: Path, **more: Any) -> Outcome:
    over = {"lr": "0.001..0.1:log"}
    options = {"epochs": 1, "batch_size": 16}
    more = {**GIVEN, "engine": "optuna", "trials": 2, "choose_on": "valid_all", "options": options, **more}
    return engram.sweep("finetune", over, DATA, out=out, device="cpu", **more)


@contextmanager
def full_after(n: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """From the n-th file on (from 0) none can be written, in this process and in those forked from it."""
    opened, made = files.open_own, multiprocessing.get_context("fork").Value("i", 0)

    def open_own(path: Path, flags: int) -> int:
        if path.suffix == ".tmp":
            with made.get_lock():
                made.value += 1
                if made.value > n:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(path, flags)

    with monkeypatch.context() as patch:
        patch.setattr(files, "open_own", open_own)
        yield made


def measured(out: Path) -> Any:
    """What a folder says, times left out."""
    study = read(out)
    seeds = [
        (f.result["label"], s["seed"], s["accuracy_matrix"], s["confusion"], s["storage_bytes"])
        for f in study.results
        for s in f.result["seeds"]
    ]
    return seeds, study.found.get("chosen")


def test_a_choice_of_what_there_was_room_for_is_not_the_end() -> None:
    """A sweep chooses among trials that are done; where one can go on, something is missing."""
    for again, code in ((True, 2), (False, 0)):
        problem = Problem("lr=1", 0, "the disk is full", expected=True, again=again, begun=True)
        assert Outcome(Path(), problems=[problem], answered=True).exit_code == code


def test_a_sweep_that_is_stopped_between_two_trials_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_figures(monkeypatch)

    def stop(event: Event) -> None:
        if event.kind == "done":
            raise KeyboardInterrupt

    assert sweep(tmp_path, listener=stop).interrupted
    assert len(read(tmp_path).results) == 1
    assert len(sweep(tmp_path, resume=True).results) == 2


@pytest.mark.slow
@pytest.mark.parametrize("study", [run, comparison, sweep])
def test_a_full_disk_loses_nothing_and_is_said(
    study: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_epoch: None
) -> None:
    no_figures(monkeypatch)
    monkeypatch.setattr(conduct, "SPARING", 0.0)  # as many files in every run, however long one took to write
    with full_after(10**6, monkeypatch) as made:
        assert study(tmp_path / "alone").exit_code == 0
    whole, total = measured(tmp_path / "alone"), made.value
    assert total >= MOMENTS  # else two of them are one
    for n in range(MOMENTS):
        out = tmp_path / str(n)
        with full_after(n * (total - 1) // (MOMENTS - 1), monkeypatch):
            try:
                outcome = study(out)
            except PlaceError as error:  # nothing has begun
                said = [str(error)]
            else:
                said = [*(p.message for p in outcome.problems), *outcome.unwritten]
                assert outcome.exit_code == 2
                for p in outcome.problems:
                    seeds = out.rglob(f"seed-{p.seed}/checkpoints/*.json")
                    assert p.again
                    assert p.begun == any(p.label == path.parents[2].name for path in seeds)
        assert said, n
        for line in said:
            assert "No space left on device" in line, n
            assert "\n" not in line
        assert not list(out.rglob(".*.tmp"))
        assert study(out, resume=True).exit_code == 0, n
        assert measured(out) == whole, n
