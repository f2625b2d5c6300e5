"""Runs that several tests look at; each test that changes one works on a copy."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engram.cli.main import main
from engram.studies.comparison import Outcome, execute, variant
from engram.studies.results import find_results
from engram.studies.settings import DataSettings, NetworkSettings

# A run of a blink on noisy stripes: 3 tasks, few samples, a small perceptron.
SMALL = ["--data", "stripes", "--tasks", "3", "--network", "mlp"]
SMALL += ["--mlp.hidden", "[16]", "--finetune.epochs", "3"]
DATA = DataSettings(data="stripes", tasks=3)
NETWORK = NetworkSettings("mlp", {"hidden": [16]})
OPTIONS = {"epochs": 3}


@dataclass
class Called:
    """What a command did: exit status and what it printed."""

    code: int
    out: str
    err: str


Call = Callable[..., Called]


@pytest.fixture(scope="session", autouse=True)
def _places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test sees the developer's data or cache, all find ``stripes``; workers inherit this."""
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
        patch.setenv("ENGRAM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _no_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take longer than these runs; a test that looks at them asks for ``real_report``."""
    if "real_report" not in request.fixturenames:
        monkeypatch.setattr("engram.report.write_report", plain_page)


@pytest.fixture
def real_report() -> None:
    """Asks for the report with its figures."""


def plain_page(directory: str | os.PathLike[str]) -> Path:
    """Stands in for the report: a page without figures."""
    find_results(directory)
    page = Path(directory) / "report.html"
    page.write_text("no figures", encoding="utf-8")
    return page


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    """Calls the command line in this process."""

    def run(*argv: object) -> Called:
        capfd.readouterr()
        code = main([str(a) for a in argv])
        said = capfd.readouterr()
        return Called(code, said.out, said.err)

    return run


@pytest.fixture
def refused(call: Call) -> Callable[..., str]:
    """Calls the command line, expects one line on standard error and exit status 2, and returns the line."""

    def run(*argv: object) -> str:
        done = call(*argv)
        assert done.code == 2, done
        assert done.err.startswith("engram: ")
        assert done.err.count("\n") == 1, done.err
        assert "Traceback" not in done.err
        return done.err

    return run


@pytest.fixture(scope="session")
def finished_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seed 1 of a small run, never interrupted."""
    out = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engram.report.write_report", plain_page)
        assert main(["run", "finetune", *SMALL, "--seeds", "1", "--out", str(out), "--tensorboard"]) == 0
    return out


@dataclass
class Killed:
    """A comparison of one method and two seeds, of which one worker was killed after its first task."""

    out: Path
    outcome: Outcome


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
        patch.setattr("engram.report.write_report", plain_page)
        outcome = execute(
            [variant("finetune", OPTIONS)],
            DATA,
            NETWORK,
            seeds=[0, 1],
            out=out,
            nested=False,
            jobs=2,
            listener=kill,
        )
    return Killed(out, outcome)


@pytest.fixture
def finished(finished_folder: Path, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(finished_folder, tmp_path / "finished"))


@pytest.fixture
def killed(killed_run: Killed, tmp_path: Path) -> Path:
    """A copy of a run of which one worker was killed."""
    return Path(shutil.copytree(killed_run.out, tmp_path / "killed"))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but for the empty lock."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != ".lock"
    }
