"""A drawn figure with the words that describe it to a reader who cannot see it."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engram.core.files import shortened
from engram.report.style import GRID, INK, MUTED, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: What colours become where the reader's screen is dark.
DARK = {INK: "#e6eaef", MUTED: "#a9b4bf", GRID: "#2c343e", "#4d4d4d": "#c3cad1", "#0072b2": "#4aa3e0"}


@dataclass(frozen=True)
class Picture:
    """A drawn figure: file name without ending, title, what was measured, alternative text, caption, its folder."""

    name: str
    title: str
    note: str
    alt: str
    caption: str
    folder: Path

    @property
    def wide(self) -> str:
        """The figure as a data URI, so that the page needs no other file."""
        return _data_uri(self.folder / "page" / f"{self.name}.svg")

    @property
    def narrow(self) -> str:
        """The same for a phone."""
        return _data_uri(self.folder / "page" / f"{self.name}-narrow.svg")


def drawn(folder: Path, name: str, make: Callable[[], Figure], alt: str, caption: str) -> Picture:
    """Draw a figure into a folder, see `engram.report.style.save`; ``make`` makes it."""
    title, note = save(make, folder / name)
    return Picture(name, title, note, alt, caption, folder)


def _data_uri(path: Path) -> str:
    rules = "".join(
        f'[style*="{kind}: {light}"]{{{kind}:{dark}!important}}'
        for light, dark in DARK.items()
        for kind in ("fill", "stroke")
    )
    style = f"<style>@media screen and (prefers-color-scheme: dark){{{rules}}}</style>"
    svg = path.read_text(encoding="utf-8").replace("<defs>", f"{style}<defs>", 1)
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode("ascii")


def slug(text: str) -> str:
    """A name for files and anchors: lower-case letters, digits and single dashes."""
    return shortened(re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "method", text)
