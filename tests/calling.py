"""What tests say about the command line."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from engram.learning import checkpoint
from engram.report.drawing import Drawing
from engram.studies.results import read


@dataclass
class Called:
    """What a command did: exit status and what it printed."""

    code: int
    out: str
    err: str


Call = Callable[..., Called]
Refused = Callable[..., str]


def no_figures(patch: pytest.MonkeyPatch) -> None:
    """Figures take longer than small runs: leave a page without them."""
    patch.setattr(Drawing, "start", lambda self: None)
    patch.setattr(Drawing, "page", lambda self, root, **how: plain_page(root, **how))
    for place in ("engram.report.write_report", "engram.cli.main.write_report"):
        patch.setattr(place, plain_page)


def kept_each_epoch(patch: pytest.MonkeyPatch) -> None:
    """A checkpoint is due after every epoch, in this process and its forks."""
    patch.setattr(checkpoint, "LEAST_SECONDS", 0.0)
    patch.setattr(checkpoint, "SHARE", float("inf"))


def plain_page(directory: str | os.PathLike[str], *, accept_edited: bool = False, **_: object) -> Path:
    """Stands in for the report."""
    read(directory, accept_edited=accept_edited)
    page = Path(directory) / "report.html"
    page.write_text("no figures", encoding="utf-8")
    return page
