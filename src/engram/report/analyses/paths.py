"""The file of the surrogate analysis (`engram.report.analyses.surrogate`) and its figure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engram.core.files import checksum, parsed, read_regular
from engram.core.stored import Losses, check
from engram.errors import EngramError
from engram.report.style import LINES, colour, keep, new_figure, place_legend, styled, width

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FILE", "Paths", "read", "surrogate_figure"]

FILE = "surrogate.json"


@dataclass(frozen=True)
class Paths:
    """Losses in nats after each step, the start included; ``first`` and ``second`` name the task being trained.

    Args:
        c, xi, lr, steps, seed: of the runs.
        data: what was learned.
        first_true, first_surrogate: loss of task 1 and its surrogate while task 1 is trained.
        second_true, second_surrogate: the same while task 2 is trained with the penalty.
        second_new: loss of task 2 in that run.
        free_true, free_new: losses of tasks 1 and 2 in a run without penalty (c = 0).
    """

    c: float
    xi: float
    lr: float
    steps: int
    seed: int
    data: str
    first_true: Losses
    first_surrogate: Losses
    second_true: Losses
    second_surrogate: Losses
    second_new: Losses
    free_true: Losses
    free_new: Losses


@styled
def surrogate_figure(paths: Paths) -> Figure:
    """Left: while task 1 is trained. Right: while task 2 is trained, with and without the penalty."""
    note = (
        f"{paths.data}; full-batch gradient descent, rate {paths.lr:g}, {paths.steps} steps a task; c = {paths.c:g}, "
        f"xi = {paths.xi:g}; 1 seed. Losses on training images, of task 1."
    )
    across = width() > 4
    figure = new_figure(3.8 if across else 6.4, "Surrogate and true loss of task 1 along the path", note)
    lines = (
        ("while task 1 is trained", "true loss", paths.first_true, 0),
        ("while task 1 is trained", "surrogate", paths.first_surrogate, 1),
        ("while task 2 is trained", "true loss", paths.second_true, 0),
        ("while task 2 is trained", "surrogate", paths.second_surrogate, 1),
        ("while task 2 is trained", "true loss, c = 0", paths.free_true, 6),
    )
    panels = list(dict.fromkeys(panel for panel, *_ in lines))
    plots = {}
    for place, panel in enumerate(panels, 1):
        plots[panel] = axes = figure.add_subplot(*((1, 2) if across else (2, 1)), place)
        axes.set_title(panel)
        axes.set_xlabel("step")
        axes.grid(axis="y")
    for panel, name, values, index in lines:
        plots[panel].plot(values, color=colour(index), linestyle=LINES[min(index, 2)], label=name)
        keep(plots[panel], name, range(len(values)), values, panel=panel)
    for axes in plots.values():
        axes.set_ylim(bottom=0)
    plots[panels[0]].set_ylabel("loss [nats]")
    place_legend(figure)
    return figure


def read(path: Path) -> Paths:
    """What `main` wrote.

    Raises:
        EngramError: one line, where the file is missing, edited or something else.
    """
    what = f"{path} is not a file of the surrogate analysis"
    try:
        value = parsed(read_regular(path))
        if isinstance(value, dict) and value.pop("sha256", None) != checksum(value):
            raise ValueError("its content does not match its checksum")
        check(value, Paths, what)
        found = Paths(**value)
    except (OSError, ValueError, TypeError) as error:
        why = str(error).removeprefix(what).strip(" :.")
        raise EngramError(
            f"{what} ({why}): write it anew with python -m engram.report.analyses.surrogate DIR."
        ) from error
    return found
