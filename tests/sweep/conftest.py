"""No test sees the developer's cache; the command line is called in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from engram.cli.main import main


@pytest.fixture(scope="session", autouse=True)
def _places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ENGRAM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Calls ``engram sweep``, expects one line on standard error and exit status 2, and returns the line."""

    def run(*argv: object) -> str:
        capfd.readouterr()
        code = main(["sweep", *(str(a) for a in argv)])
        said = capfd.readouterr()
        assert code == 2, said
        assert said.err.startswith("engram: ")
        assert said.err.count("\n") == 1, said.err
        return said.err

    return run
