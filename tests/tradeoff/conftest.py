"""No test sees the developer's cache; training is pretended where only what surrounds it is tested."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator

import pytest
from pretending import Pretend, plain_page

from engram.cli.main import main


@pytest.fixture(scope="session", autouse=True)
def _places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENGRAM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def pretend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Runs jobs without training them, and draws no figures unless ``real_report`` is asked for."""
    made = Pretend()
    # ``engram.studies.tradeoff`` is the function of that name.
    monkeypatch.setattr(importlib.import_module("engram.studies.tradeoff"), "run_shared", made)
    if "real_report" not in request.fixturenames:
        monkeypatch.setattr("engram.report.write_report", plain_page)
    return made


@pytest.fixture
def real_report() -> None:
    """Asks for the report with its figures."""


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Calls ``engram tradeoff``, expects one line on standard error and exit status 2, and returns the line."""

    def run(*argv: object) -> str:
        capfd.readouterr()
        code = main(["tradeoff", *(str(a) for a in argv)])
        said = capfd.readouterr()
        assert code == 2, said
        assert said.err.startswith("engram: ")
        assert said.err.count("\n") == 1, said.err
        return said.err

    return run
