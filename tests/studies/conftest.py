"""Training is pretended where only what surrounds it is tested."""

from __future__ import annotations

import pytest
from pretending import Pretend

from calling import no_figures


@pytest.fixture
def pretend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Runs jobs without training them, and draws no figures unless ``real_report`` is asked for."""
    made = Pretend()
    monkeypatch.setattr("engram.studies.conduct.Processes", lambda *_: made)
    monkeypatch.setattr("engram.studies.sharing.run_shared", made.run)
    if "real_report" not in request.fixturenames:
        no_figures(monkeypatch)
    return made
