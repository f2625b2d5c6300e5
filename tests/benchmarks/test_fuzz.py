"""Three hundred mutated inputs: each is read rightly or refused in one line; and the attack notices what is not."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from fuzz.__main__ import MEBIBYTES, SHARES
from fuzz.attack import Said, attempts
from fuzz.kinds import KINDS, Kind

from engram.studies import results

INPUTS = 300
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=SHARES)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kind]:
    pytest.importorskip("optuna", reason="needs the extra engram[optuna]")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield KINDS[request.param](tmp_path_factory.mktemp("fuzz") / request.param)


def faults(kind: Kind, n: int) -> list[tuple[int, Said]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        said = list(enumerate(attempts(kind, 1, range(n))))
    assert max(s.memory for _, s in said) < MEBIBYTES
    return [(number, s) for number, s in said if s.outcome not in ("read", "refused")]


def test_mutated_inputs_are_read_rightly_or_refused(kind: Kind) -> None:
    name = next(name for name, made in KINDS.items() if type(kind) is made)
    found = faults(kind, INPUTS * SHARES[name] // sum(SHARES.values()))
    assert not found, "\n".join(f"{name} 1 {number}: {s.outcome}: {s.why}" for number, s in found)


@pytest.mark.parametrize("kind", ["studies"], indirect=True)
def test_an_edited_file_that_is_taken_is_noticed(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    load = results._load

    def trusting(path: Path, what: str, accept_edited: bool) -> Any:
        return load(path, what, True)[0], None

    monkeypatch.setattr(results, "_load", trusting)
    assert {s.outcome for _, s in faults(kind, 20)} == {"silent"}
