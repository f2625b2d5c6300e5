"""Training is pretended where only what surrounds it is tested."""

from __future__ import annotations

import importlib

import pytest
from pretending import Pretend

from calling import plain_page


@pytest.fixture
def pretend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Runs jobs without training them, and draws no figures unless ``real_report`` is asked for."""
    made = Pretend()
    # ``engram.studies.tradeoff`` is the function of that name.
    monkeypatch.setattr(importlib.import_module("engram.studies.tradeoff"), "run_shared", made)
    if "real_report" not in request.fixturenames:
        monkeypatch.setattr("engram.report.write_report", plain_page)
    return made
