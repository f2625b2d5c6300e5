"""Look of the figures: colour-blind-safe colours with distinct markers and lines, titles, saving.

matplotlib is imported inside the functions, so that importing engram stays fast; pyplot is never used, hence
no global state and no display.
Source of the colours: Okabe, Ito: Color Universal Design (2008), without the yellow that is unreadable on
white.
"""

from __future__ import annotations

import functools
import io
import os
import textwrap
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from engram.core.files import os_errors, write_atomically
from engram.errors import EngramError, PlaceError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
R = TypeVar("R")

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)))
HATCHES = ("", "//", "..", "xx", "--")
INK, MUTED, GRID = "#1f2328", "#57606a", "#dfe3e8"
DPI = 160
LONGEST_LABEL = 18  # letters, beside a plot of the usual width
WIDTH = 6.2
"""Inches; in the page a figure is shown at about this size, so that its letters keep theirs."""

RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "figure.facecolor": "white",
    "hatch.linewidth": 0.7,
    "pdf.fonttype": 42,
}


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """Run a figure function under the house style, leaving the caller's matplotlib settings alone."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        import matplotlib  # when something is drawn

        with matplotlib.rc_context(RC):
            return function(*args, **kwargs)

    return run


def new_figure(width: float, height: float, title: str, note: str) -> Figure:
    """An empty figure, sizes in inches: title on top, below what was measured over how many seeds."""
    # As above.
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
    figure.suptitle(title, x=0.012, ha="left", fontweight="bold", fontsize=11.5)
    note = "\n".join(textwrap.wrap(note, int(width * 16)))
    figure.supxlabel(note, x=0.012, ha="left", fontsize=8, color=MUTED)
    return figure


def line_style(index: int) -> dict[str, Any]:
    """Colour, marker and line of the index-th method; the first 7 * 8 * 5 combinations differ."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINES[index % len(LINES)],
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
    }


def place_legend(figure: Figure) -> None:
    """The legend at the right, or, where a name is too long to leave room for the plot and its title, below."""
    handles, labels = _entries(figure)
    if max((len(label) for label in labels), default=0) <= LONGEST_LABEL:
        figure.legend(handles, labels, loc="outside right upper")
    else:
        figure.axes[0].legend(handles, labels, loc="upper left", bbox_to_anchor=(-0.02, -0.2), ncols=2)


def _entries(figure: Figure) -> tuple[list[Any], list[str]]:
    """Every labelled thing drawn, each label once."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)


def task_axis(axes: Axes, n_tasks: int, label: str = "tasks learned") -> None:
    """Whole task numbers from 1, thinned so that they stay readable."""
    step = max(1, -(-n_tasks // 12))
    axes.set_xticks(range(1, n_tasks + 1, step))
    axes.set_xlim(0.7, n_tasks + 0.3)
    axes.set_xlabel(label)
    axes.grid(axis="y")
    axes.set_axisbelow(True)


#: Processes that draw figures side by side; more than one only in a process of ours, which has no threads.
side_by_side = 1
#: Whether figures are written as PDF too.
with_pdf = True
UNEXPECTED = 255  # exit status of a child; others are numbers of the system's errors
_children: dict[int, Path] = {}  # and where they write


def save(figure: Figure, stem: Path) -> Path:
    """Write ``stem.png``, and ``stem.pdf`` where that is wanted, without dates, so that equal figures are equal files.

    With `side_by_side` a child process writes them, and they are there after `await_drawn`. A PDF of before goes.

    Args:
        figure: the figure.
        stem: path without ending; its folder is created.
    Returns:
        The path of the PNG.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    if side_by_side == 1:
        _draw(figure, stem)
        return stem.with_name(f"{stem.name}.png")
    await_drawn(side_by_side - 1)
    child = os.fork()
    if child == 0:
        status = UNEXPECTED
        try:
            _draw(figure, stem)
            status = 0
        except PlaceError as error:
            status = getattr(error.__cause__, "errno", None) or UNEXPECTED
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(status)
    _children[child] = stem.parent
    return stem.with_name(f"{stem.name}.png")


def await_drawn(most: int = 0) -> None:
    """Wait until at most so many figures are being drawn; ``EngramError`` where one could not be."""
    while len(_children) > most:
        child = next(iter(_children))
        folder = _children.pop(child)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if 0 < status < UNEXPECTED:
            with os_errors(folder):
                raise OSError(status, os.strerror(status))
        if status:
            raise EngramError("a figure could not be drawn: the lines above say why.")


def _write(figure: Figure, path: Path, **how: Any) -> None:
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:], **how)
    write_atomically(path, content.getvalue(), sync=False)


def _draw(figure: Figure, stem: Path) -> None:
    import matplotlib  # as above

    with matplotlib.rc_context(RC):
        figure.draw_without_rendering()
        figure.set_layout_engine(None)  # places are found once
        png, pdf = (stem.with_name(f"{stem.name}.{ending}") for ending in ("png", "pdf"))
        _write(figure, png, dpi=DPI, metadata={"Software": None})
        if with_pdf:
            _write(figure, pdf, metadata={"CreationDate": None})
        else:
            pdf.unlink(missing_ok=True)
