"""Methods, networks and features in words: names, summaries and options, read without torch from ``index.json``.

``make index`` writes the file from the classes; a test compares the two.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from typing import Any

from engram.core.options import Option, Range

FILE = "index.json"


@dataclass(frozen=True)
class About:
    """A method, network or kind of features in words.

    Args:
        summary: one line.
        options: those that a user can give, with their defaults.
        scenarios: of a method: where it can be used.
        reads: of a method: task, memory or all.
        tradeoff: of a method: the option that trades old tasks for new ones.
        image_size: of a network: pixels squared that images must have.
        refines: of a method: whether samples of known classes may come later, as if they had come at first.
    """

    summary: str
    options: tuple[Option, ...]
    scenarios: tuple[str, ...] = ()
    reads: str = ""
    tradeoff: str | None = None
    image_size: int | None = None
    refines: bool = False

    def to_json(self) -> dict[str, Any]:
        """As JSON; types as they are written in Python."""
        further: dict[bool, list[Any]] = {True: ["further"], False: []}
        options = {o.name: [_written(o.type), o.default, o.help, *further[o.further]] for o in self.options}
        return {**asdict(self), "options": options}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> About:
        """What `to_json` wrote."""
        options = [
            Option(
                name,
                _hint(hint),
                tuple(default) if isinstance(default, list) else default,
                text,
                bool(further),
            )
            for name, (hint, default, text, *further) in values["options"].items()
        ]
        return cls(**{**values, "options": tuple(options), "scenarios": tuple(values["scenarios"])})


def _written(hint: Any) -> str:
    return hint.__name__ if type(hint) is type else repr(hint)


@cache
def _hint(written: str) -> Any:
    return eval(written, {"typing": typing, "Range": Range})  # our own file, and Python's way to write a type


@cache
def index(kind: str) -> dict[str, About]:
    """All registered ``"methods"``, ``"networks"`` or ``"features"`` by name."""
    text = resources.files("engram").joinpath(FILE).read_text(encoding="utf-8")
    return {name: About.from_json(values) for name, values in json.loads(text)[kind].items()}
