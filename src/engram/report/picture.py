"""A drawn figure with the words that describe it to a reader who cannot see it."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from pathlib import Path

from engram.core.files import shortened


@dataclass(frozen=True)
class Picture:
    """A drawn figure: file name without ending, alternative text, caption, PNG."""

    name: str
    alt: str
    caption: str
    png: Path

    @property
    def data_uri(self) -> str:
        """The PNG as a data URI, so that the page needs no other file."""
        return "data:image/png;base64," + base64.b64encode(self.png.read_bytes()).decode("ascii")


def slug(text: str) -> str:
    """A name for files and anchors: lower-case letters, digits and single dashes."""
    return shortened(re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "method", text)
