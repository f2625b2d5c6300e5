"""``engram list``: what there is, as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from engram.core.options import closest, options_of
from engram.errors import ConfigError

READS = {"task": "the current task", "memory": "task + stored samples", "all": "all data so far"}


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for index, name in enumerate(columns):
        table.add_column(name, no_wrap=index == 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def everything() -> Iterator[Any]:
    """Tables of methods, data, networks and recipes."""
    from engram.methods.registry import METHODS
    from engram.networks import NETWORKS
    from engram.recipes import DEFAULT_FOR_DATA, RECIPES
    from engram.streams import SHORT_NAMES

    rows = []
    for name, found in METHODS.items():
        scenarios = sorted(getattr(found.make, "scenarios", ()))
        reads = str(getattr(found.make, "reads", "task"))
        rows.append((name, found.summary, ", ".join(scenarios), READS.get(reads, reads)))
    yield _table("Methods (engram list METHOD shows options)", ("name", "what", "scenarios", "reads"), rows)
    data = [("digits", "8x8 grey digits, comes with scikit-learn; nothing is loaded from the net")]
    data += [
        (name, f"Hugging Face {hub}, or a folder {name} in --data-dir") for name, hub in SHORT_NAMES.items()
    ]
    data += [("a folder", "train*.parquet and test*.parquet, or train/CLASS/*.png and test/CLASS/*.png")]
    data += [("user/name", "any Hugging Face data set with an image and a label column")]
    data += [("NAME:0-4", "only the classes 0 to 4 of a data set")]
    data += [("A+B:0-9+B:10-19", "one data set after another, a task each")]
    yield _table("Data", ("name", "what"), data)
    networks = []
    for name, cls in NETWORKS.items():
        size = f"{cls.image_size}x{cls.image_size}" if cls.image_size else "any"
        lines = (cls.__doc__ or "").strip().splitlines()
        options = ", ".join(
            f"--{name}.{f.name} {'' if f.default is MISSING else _shown(f.default)}".strip()
            for f in fields(cls)  # type: ignore[arg-type]
        )
        networks.append((name, size, lines[0] if lines else "", options))
    yield _table(
        "Networks (images are resized to what a network needs)",
        ("name", "images", "what", "options"),
        networks,
    )
    usual = {recipe: data for data, recipe in DEFAULT_FOR_DATA.items()}
    recipes = []
    for name, make in RECIPES.items():
        default = f" (default for {usual[name]})" if name in usual else ""
        recipes.append((name, make().summary + default, ", ".join(make().methods)))
    yield _table("Recipes (--recipe NAME; none for plain defaults)", ("name", "what", "sets"), recipes)


def one_method(name: str) -> Iterator[Any]:
    """What a method is, and its options.

    Raises:
        ConfigError: there is no such method.
    """
    from engram.methods.registry import METHODS

    if name not in METHODS:
        raise ConfigError(
            f"method must be one of {', '.join(sorted(METHODS))}, got {name!r}{closest(name, METHODS)}: "
            "see engram list."
        )
    found = METHODS[name]
    yield Text(f"{name}: {found.summary}", style="bold")
    yield Text(f"scenarios: {', '.join(sorted(getattr(found.make, 'scenarios', ())))}")
    reads = str(getattr(found.make, "reads", "task"))
    yield Text(f"reads: {READS.get(reads, reads)}")
    rows = [
        (f"--{name}.{o.name}", o.kind, _shown(o.default), o.help)
        for o in options_of(found.config, skip=found.fixed)
    ]
    yield _table("Options", ("option", "type", "default", "what"), rows)


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ",".join(map(str, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
