"""Look of the figures: colour-blind-safe colours with distinct markers and lines, legends, saving.

The look is a matplotlib style file, ``engram.mplstyle`` beside this one, and a user's own on top (:func:`restyled`).
matplotlib is imported inside the functions, so that importing engram stays fast; pyplot is never used, hence
no global state and no display.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import logging
import os
import textwrap
import traceback
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from engram.core.files import os_errors, write_atomically
from engram.errors import ConfigError, EngramError, PlaceError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
R = TypeVar("R")

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)))
HATCHES = ("", "//", "..", "xx", "--")
INK, MUTED, GRID = "#1f2328", "#57606a", "#dfe3e8"
#: Letters on the light cells of a heat map, which stay light where the page is dark.
ON_LIGHT = "#10151b"
#: Width in inches of a figure on a phone; elsewhere it is the style's.
NARROW = 3.4
COLUMNS = ("panel", "series", "x", "y", "low", "high")

_sheet: str | None = None  # a style file of the user's
_narrow = False
_data: WeakKeyDictionary[Figure, list[tuple[Any, ...]]] = WeakKeyDictionary()


@contextlib.contextmanager
def restyled(sheet: str | os.PathLike[str] | None) -> Iterator[None]:
    """Figures drawn within this context follow a matplotlib style file where it says something else than engram's.

    Args:
        sheet: path of the file; None for engram's look alone.

    Raises:
        ConfigError: the file is missing, or no style file.
    """
    global _sheet
    before, _sheet = _sheet, None if sheet is None else os.fspath(sheet)
    try:
        _look(_sheet)
        yield
    finally:
        _sheet = before


@functools.cache
def _look(sheet: str | None) -> Any:
    import matplotlib  # when something is drawn

    look: Any
    own: Any
    with resources.as_file(resources.files("engram.report") / "engram.mplstyle") as house:
        look = dict(matplotlib.rc_params_from_file(house, use_default_template=False))
    if sheet is not None:
        complaints: list[str] = []

        def hear(record: logging.LogRecord) -> bool:
            complaints.append(" ".join(record.getMessage().split()))
            return False  # matplotlib need not say it too

        log = logging.getLogger("matplotlib")
        log.addFilter(hear)
        try:
            own = matplotlib.rc_params_from_file(sheet, use_default_template=False)
        except (OSError, ValueError) as error:
            complaints.append(str(error))
        finally:
            log.removeFilter(hear)
        if complaints:
            raise ConfigError(f"{sheet} must be a matplotlib style file, it is not: {complaints[0]}")
        if not own:
            raise ConfigError(
                f"{sheet} must be a matplotlib style file, it sets nothing: see matplotlib's manual, style sheets."
            )
        look |= own
    if not all(1 <= side <= 50 for side in look["figure.figsize"]):
        raise ConfigError(
            f"sides of figures must be 1 to 50 inches, {sheet} has figure.figsize "
            f"{', '.join(f'{side:g}' for side in look['figure.figsize'])}: give others."
        )
    return look


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """Run a figure function under the style, leaving the caller's matplotlib settings alone."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        import matplotlib  # when something is drawn

        look = _look(_sheet)
        with matplotlib.rc_context(look | {"figure.figsize": (NARROW, 3.4)} if _narrow else look):
            return function(*args, **kwargs)

    return run


def width() -> float:
    """Width in inches of the figure that is being made."""
    import matplotlib  # as above

    return float(matplotlib.rcParams["figure.figsize"][0])


def new_figure(height: float, title: str, note: str) -> Figure:
    """An empty figure of this height in inches.

    Title and note (what was measured, over how many seeds) are its label and its gid: they stand beside it, in the
    page and in ``captions.md``, and not in it.
    """
    # As above.
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(width(), height), layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06))
    figure.set_label(title)
    figure.set_gid(note)
    _data[figure] = []
    return figure


def keep(
    axes: Axes,
    series: str,
    x: Sequence[Any],
    y: Sequence[Any],
    low: Sequence[Any] | None = None,
    high: Sequence[Any] | None = None,
    *,
    panel: str = "",
) -> None:
    """Remember what is drawn, for the CSV file beside the figure: a row a point, with the ends of its interval."""
    nothing = [None] * len(x)
    _data[axes.figure] += [  # type: ignore[index]  # no figure of ours is part of another
        (panel, series, *point) for point in zip(x, y, low or nothing, high or nothing, strict=True)
    ]


def data_of(figure: Figure) -> str:
    """The numbers that a figure shows as CSV, see `COLUMNS`; empty for pictures of images."""
    rows = _data.get(figure)
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow("" if v is None or v != v else f"{v:.6g}" if isinstance(v, float) else v for v in row)
    return text.getvalue()


def colour(index: int) -> str:
    """The style's colour of the index-th method."""
    import matplotlib  # as above

    cycle = matplotlib.rcParams["axes.prop_cycle"].by_key().get("color", [INK])
    return str(cycle[index % len(cycle)])


def line_style(index: int) -> dict[str, Any]:
    """Colour, marker and line of the index-th method; the first 7 * 8 * 5 combinations differ."""
    return {
        "color": colour(index),
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINES[index % len(LINES)],
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
    }


def place_legend(figure: Figure) -> None:
    """The legend where it covers nothing inside the only plot, or else above all plots."""
    import matplotlib  # as above

    handles, labels = _entries(figure)
    size = matplotlib.rcParams["legend.fontsize"]
    points = 72 * figure.get_figwidth()
    letters = int((points - 60) / (0.62 * size))  # that a line has room for
    labels = [textwrap.fill(label, max(letters, 8)) for label in labels]
    longest = max((len(line) for label in labels for line in label.splitlines()), default=0)
    if len(figure.axes) == 1 and len(labels) <= 6 and longest <= 0.7 * letters:
        axes = figure.axes[0]
        legend = axes.legend(handles, labels, loc="lower left")
        _lay_out(figure)
        for place in (
            "lower left",
            "upper right",
            "lower right",
            "upper left",
            "center right",
            "center left",
        ):
            legend.set_loc(place)
            if not _covers(axes, legend.get_window_extent()):
                return
        legend.remove()
    columns = max(1, min(len(labels), int(points / (0.62 * size * longest + 50))))
    lines = sum(label.count("\n") + 1 for label in labels[::columns])
    figure.set_figheight(figure.get_figheight() + lines * 1.35 * size / 72)
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, borderaxespad=0.2)


def _lay_out(figure: Figure) -> None:
    """Find the places of everything, as drawing does before it draws."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)


def _covers(axes: Axes, box: Any) -> bool:
    """Whether something drawn lies within a box of the screen."""
    own = axes.get_window_extent()
    if box.x0 < own.x0 or box.y0 < own.y0 or box.x1 > own.x1 or box.y1 > own.y1:
        return True
    paths = [(line.get_path(), line.get_transform(), False) for line in axes.lines]
    paths += [(patch.get_path(), patch.get_transform(), True) for patch in axes.patches]
    paths += [(p, c.get_transform(), True) for c in axes.collections for p in c.get_paths()]
    if any(t.transform_path(p).intersects_bbox(box, filled=f) for p, t, f in paths):
        return True
    return any(box.overlaps(text.get_window_extent()) for text in axes.texts)


def _entries(figure: Figure) -> tuple[list[Any], list[str]]:
    """Every labelled thing drawn, each label once."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)


def task_axis(axes: Axes, n_tasks: int, label: str = "tasks learned", columns: int = 1) -> None:
    """Whole task numbers from 1, as many as stay readable where ``columns`` plots stand side by side."""
    room = max(2, int(3.4 * (width() / columns - 0.9)))
    axes.set_xticks(range(1, n_tasks + 1, max(1, -(-n_tasks // room))))
    axes.set_xlim(0.7, n_tasks + 0.3)
    axes.set_xlabel(label)
    axes.grid(axis="y")


def percentages(axes: Axes) -> None:
    """A vertical axis that ends at 0 and 100, with markers at its ends drawn whole."""
    axes.set_ylim(0, 100)
    for line in axes.lines:
        line.set_clip_on(False)


#: Processes that draw figures side by side; more than one only in a process of ours, which has no threads.
side_by_side = 1
#: Whether figures are written as PDF and PNG too.
every_format = True
UNEXPECTED = 255  # exit status of a child; others are numbers of the system's errors
_children: dict[int, Path] = {}  # and where they write


def save(make: Callable[[], Figure], stem: Path) -> tuple[str, str]:
    """Write a figure's files (:func:`write`) and, in the folder ``page`` beside them, what a page shows.

    That is the SVG in engram's own look, and a narrow one. With `side_by_side` a child process writes all of it, which
    is there after `await_drawn`.

    Args:
        make: makes the figure.
        stem: path without ending; its folder is created.
    Returns:
        The figure's title and note.
    """
    (stem.parent / "page").mkdir(parents=True, exist_ok=True)
    figure = make()
    said = str(figure.get_label()), str(figure.get_gid())
    if side_by_side == 1:
        _draw(figure, make, stem)
        return said
    await_drawn(side_by_side - 1)
    child = os.fork()
    if child == 0:
        status = UNEXPECTED
        try:
            _draw(figure, make, stem)
            status = 0
        except PlaceError as error:
            status = getattr(error.__cause__, "errno", None) or UNEXPECTED
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(status)
    _children[child] = stem.parent
    return said


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


@styled
def _write(figure: Figure, *paths: Path) -> None:
    _lay_out(figure)
    figure.set_layout_engine(None)  # places are found once
    for path in paths:
        nothing = {"svg": ("Date", "Creator"), "pdf": ("CreationDate",), "png": ("Software",)}[
            path.suffix[1:]
        ]
        content = io.BytesIO()
        metadata = {**dict.fromkeys(nothing), "Title": figure.get_label()}
        plain = "none" if path.suffix == ".svg" else "auto"
        figure.savefig(content, format=path.suffix[1:], metadata=metadata, facecolor=plain)
        write_atomically(path, content.getvalue(), sync=False)


def write(figure: Figure, stem: Path) -> Path:
    """Write ``stem.svg`` and its numbers as ``stem.csv``; ``stem.pdf`` and ``stem.png`` too, or remove those of before.

    Files have no dates, so that equal figures are equal files.

    Returns:
        The path of the SVG.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    data, svg, pdf, png = (stem.with_name(f"{stem.name}.{e}") for e in ("csv", "svg", "pdf", "png"))
    if data_of(figure):
        write_atomically(data, data_of(figure).encode(), sync=False)
    if every_format:
        _write(figure, svg, pdf, png)
    else:
        _write(figure, svg)
        pdf.unlink(missing_ok=True)
        png.unlink(missing_ok=True)
    return svg


def _draw(figure: Figure, make: Callable[[], Figure], stem: Path) -> None:
    global _narrow
    svg, page = write(figure, stem), stem.parent / "page"
    if _sheet is None:
        write_atomically(page / svg.name, svg.read_bytes(), sync=False)
    else:
        with restyled(None):
            _write(make(), page / svg.name)
    with restyled(None):
        _narrow = True
        try:
            _write(make(), page / f"{stem.name}-narrow.svg")
        finally:
            _narrow = False
