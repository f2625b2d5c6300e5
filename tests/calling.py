"""What tests say about the command line."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engram.studies.results import find_results


@dataclass
class Called:
    """What a command did: exit status and what it printed."""

    code: int
    out: str
    err: str


Call = Callable[..., Called]
Refused = Callable[..., str]


def plain_page(directory: str | os.PathLike[str]) -> Path:
    """Stands in for the report, whose figures take longer than small runs: a page without them."""
    find_results(directory)
    page = Path(directory) / "report.html"
    page.write_text("no figures", encoding="utf-8")
    return page
