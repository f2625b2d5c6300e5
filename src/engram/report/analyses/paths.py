"""The file of the surrogate analysis (`engram.report.analyses.surrogate`) and its figure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engram.core.files import parsed, read_regular
from engram.core.stored import Losses, check
from engram.errors import EngramError
from engram.report.style import COLOURS, LINES, WIDTH, new_figure, styled

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
    figure = new_figure(WIDTH + 0.6, 3.8, "Surrogate and true loss of task 1 along the path", note)
    left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    left.plot(paths.first_true, color=COLOURS[0], label="true loss")
    left.plot(paths.first_surrogate, color=COLOURS[1], linestyle=LINES[1], label="surrogate")
    left.set_title("while task 1 is trained")
    right.plot(paths.second_true, color=COLOURS[0], label=f"true loss, c = {paths.c:g}")
    right.plot(
        paths.second_surrogate, color=COLOURS[1], linestyle=LINES[1], label=f"surrogate, c = {paths.c:g}"
    )
    right.plot(paths.free_true, color=COLOURS[6], linestyle=LINES[2], label="true loss, c = 0")
    right.set_title("while task 2 is trained")
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.set_ylabel("loss [nats]")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        axes.legend(fontsize=8)
    return figure


def read(path: Path) -> Paths:
    """What `main` wrote.

    Raises:
        EngramError: one line, where the file is missing or something else.
    """
    what = f"{path} is not a file of the surrogate analysis"
    try:
        value = parsed(read_regular(path))
        check(value, Paths, what)
        found = Paths(**value)
    except (OSError, ValueError, TypeError) as error:
        why = str(error).removeprefix(what).strip(" :.")
        raise EngramError(
            f"{what} ({why}): write it anew with python -m engram.report.analyses.surrogate DIR."
        ) from error
    return found
