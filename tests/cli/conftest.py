"""Runs that several tests look at; each test that changes one works on a copy."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stripes import DATA, NETWORK, OPTIONS, SMALL, Killed

from calling import kept_each_epoch, no_figures
from engram.api import conclude
from engram.cli.main import main
from engram.studies.settings import Settings
from engram.studies.study import Comparison
from engram.studies.variants import variant


@pytest.fixture(scope="session", autouse=True)
def _places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test sees the developer's data, all find ``stripes``; workers inherit this."""
    data = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, n in (("train", 12), ("test", 4)):
        for label in range(10):
            folder = data / "stripes" / split / str(label)
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 80, (8, 8))
                pixels[label % 8, :: 1 + label // 8] += 150
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENGRAM_DATA", str(data))
        yield


@pytest.fixture(autouse=True)
def _no_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take longer than these runs; a test that looks at them asks for ``real_report``."""
    if "real_report" not in request.fixturenames:
        no_figures(monkeypatch)


@pytest.fixture(scope="session")
def finished_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seed 1 of a small run, never interrupted."""
    out = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        no_figures(patch)
        assert main(["run", "finetune", *SMALL, "--seeds", "1", "--out", str(out), "--tensorboard"]) == 0
    return out


@pytest.fixture(scope="session")
def killed_run(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """Seed 0 finished; seed 1 was killed with SIGKILL after its first task."""
    out = tmp_path_factory.mktemp("killed") / "run"
    processes: dict[int, int] = {}

    def kill(event: object) -> None:
        job, kind, data = event.job, event.kind, event.data  # type: ignore[attr-defined]
        if kind == "spawn":
            processes[job.seed] = data["pid"]
        if kind == "task" and job.seed == 1 and data["task"] == 0:
            os.kill(processes[1], signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        no_figures(patch)
        kept_each_epoch(patch)
        settings = Settings(out, DATA, NETWORK, (0, 1), jobs=2)
        outcome = conclude(Comparison(settings, [variant("finetune", OPTIONS, folder=".")]), kill)
    return Killed(out, outcome)


@pytest.fixture
def finished(finished_folder: Path, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(finished_folder, tmp_path / "finished"))


@pytest.fixture
def killed(killed_run: Killed, tmp_path: Path) -> Path:
    """A copy of a run of which one worker was killed."""
    return Path(shutil.copytree(killed_run.out, tmp_path / "killed"))
