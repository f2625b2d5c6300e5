"""``engram list``: what there is, as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from engram import features, networks
from engram.cli.command_line import USUAL
from engram.core.data_names import SHORT_NAMES
from engram.core.options import shown
from engram.methods import registry
from engram.recipes import DEFAULT_FOR_DATA, RECIPES

READS = {"task": "the current task", "memory": "task + stored samples", "all": "all data so far"}


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    made = Table(
        title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for index, name in enumerate(columns):
        made.add_column(name, no_wrap=index == 0, overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def everything() -> Iterator[Any]:
    """Tables of methods, data, networks and recipes."""
    rows = []
    for name in registry.METHODS:
        found = registry.about(name)
        rows.append((name, found.summary, ", ".join(found.scenarios), READS[found.reads]))
    yield table("Methods (engram list METHOD shows options)", ("name", "what", "scenarios", "reads"), rows)
    data = [("digits", "8x8 grey digits, comes with scikit-learn; nothing is loaded from the net")]
    data += [
        (name, f"Hugging Face {hub}, or a folder {name} in --data-dir") for name, hub in SHORT_NAMES.items()
    ]
    data += [("a folder", "train*.parquet and test*.parquet, or train/CLASS/*.png and test/CLASS/*.png")]
    data += [("user/name", "any Hugging Face data set with an image and a label column")]
    data += [("NAME:0-4", "only the classes 0 to 4 of a data set")]
    data += [("A+B:0-9+B:10-19", "one data set after another, a task each")]
    yield table("Data", ("name", "what"), data)
    rows = []
    for name in networks.NETWORKS:
        known = networks.about(name)
        size = f"{known.image_size}x{known.image_size}" if known.image_size else "any"
        options = ", ".join(f"--{name}.{o.name} {shown(o.default)}" for o in known.options)
        rows.append((name, size, known.summary, options))
    yield table(
        "Networks (images are resized to what a network needs)",
        ("name", "images", "what", "options"),
        rows,
    )
    fixed = []
    for name in features.FEATURES:
        known = features.about(name)
        options = ", ".join(f"--{name}.{o.name} {shown(o.default)}" for o in known.options)
        fixed.append((name, known.summary, options))
    fixed.append(("FILE.py:NAME", "a torch module of your own, with --weights FILE", ""))
    fixed.append(("timm:NAME", "a network of the package timm, which is an extra", ""))
    yield table("Fixed features (--features NAME; none for the images)", ("name", "what", "options"), fixed)
    usual = {recipe: data for data, recipe in DEFAULT_FOR_DATA.items()}
    recipes = []
    for name, make in RECIPES.items():
        default = f" (default for {usual[name]})" if name in usual else ""
        recipes.append((name, make().summary + default, ", ".join(make().methods)))
    yield table("Recipes (--recipe NAME; none for plain defaults)", ("name", "what", "sets"), recipes)


def one_method(name: str) -> Iterator[Any]:
    """A page of a method: its paper, departures and cost as its file says them, scenarios, and its options by group.

    Raises:
        ConfigError: there is no such method.
    """
    found = registry.about(name)
    yield Text(f"{name}: {found.summary}", style="bold")
    yield Text(f"\n{registry.docstring(name)}\n")
    yield Text(f"Scenarios: {', '.join(found.scenarios)}. Reads {READS[found.reads]}.")
    if found.tradeoff:
        yield Text(f"Trades old tasks for new ones by --{name}.{found.tradeoff}: engram tradeoff {name}.")
    groups: dict[str, list[tuple[str, ...]]] = {
        "What most people set": [],
        "As in its paper": [],
        "Further": [],
    }
    for o in found.options:
        title = list(groups)[0 if o.name in USUAL else 1 + o.further]
        groups[title].append((f"--{name}.{o.name}", o.kind, shown(o.default), o.help.replace("``", "")))
    for title, rows in groups.items():
        if rows:
            yield table(title, ("option", "type", "default", "what"), rows)
