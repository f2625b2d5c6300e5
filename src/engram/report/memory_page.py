"""The page of a memory: one self-contained HTML file that opens offline and runs no script."""

from __future__ import annotations

import base64
import io
from importlib import resources

import jinja2
from PIL import Image
from torch import Tensor

from engram.memory.facts import Facts


def render(name: str, facts: Facts) -> str:
    """The page as a string."""
    template = resources.files("engram.report").joinpath("memory.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    samples = None if facts.samples is None else _data_uri(facts.samples)
    return environment.from_string(template).render(
        name=name, about=facts.about, tables=facts.tables, command=facts.command, samples=samples
    )


def _data_uri(samples: Tensor) -> str:
    """Images uint8 [K, n, C, H, W] as one picture, a row a class."""
    k, n, c, h, w = samples.shape
    sheet = samples.permute(0, 3, 1, 4, 2).reshape(k * h, n * w, c).numpy()
    file = io.BytesIO()
    Image.fromarray(sheet if c == 3 else sheet[..., 0]).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
