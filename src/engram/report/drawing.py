"""The page drawn in a process of its own, whose imports run beside the last runs: ``python -m engram.report.drawing``.

On standard input it is told folders, a line each, and whether edited files are accepted; it answers with the error of
each, or an empty line.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from engram.core.staying import staying
from engram.errors import EngramError
from engram.report import is_current, style, write_report
from engram.studies.jobs import Event, Listener
from engram.studies.machine import default_jobs, environment

#: What a page imports when it is drawn.
LOADED = (
    "engram.report.analyses.sections",
    "engram.report.figures_sweep",
    "engram.report.figures_tradeoff",
    "engram.report.gallery",
    "engram.studies.results",
    "safetensors.numpy",
    "scipy.special",
    "jinja2",
    "yaml",
)

#: What a command imports when it tells its table.
TOLD = (
    "engram.report.exports",
    "engram.report.figures_sweep",
    "engram.report.table",
    "rich.console",
    "rich.table",
)


class Drawing:
    """Draws the page at the end of a study: a context, whose process starts when no run waits any more."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.waiting: set[str] = set()

    def __enter__(self) -> Drawing:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.communicate()  # closes its input, so that it ends

    def beside(self, listener: Listener | None) -> Listener:
        """A listener that hears what ``listener`` does, and starts the process in time."""

        def heard(event: Event) -> None:
            if event.kind == "queued":
                self.waiting.add(event.job.folder)
            elif event.kind in ("spawn", "start", "failed"):
                self.waiting.discard(event.job.folder)
                if not self.waiting and self.process is None:
                    self.start()
                    for name in TOLD:  # while the last runs learn
                        importlib.import_module(name)
            if listener is not None:
                listener(event)

        return heard

    def start(self) -> subprocess.Popen[str]:
        """The process, started if it was not."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "engram.report.drawing"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment(),
                start_new_session=True,  # a Ctrl-C reaches the parent alone
            )
        return self.process

    def page(self, root: Path, *, accept_edited: bool = False) -> Path:
        """The page of the study in ``root``, drawn anew where results have changed; errors as `write_report`."""
        if not is_current(root, accept_edited=accept_edited):
            process = self.start()
            if process.stdin is not None and process.stdout is not None:
                with contextlib.suppress(BrokenPipeError):  # it died, which its answer will say
                    process.stdin.write(json.dumps([str(root), accept_edited]) + "\n")
                    process.stdin.flush()
                answer = process.stdout.readline()
                if not answer:
                    raise EngramError(
                        f"the process that draws the page of {root} died: try engram report {root}."
                    )
                if json.loads(answer):
                    raise EngramError(json.loads(answer))
        return root / "report.html"


def main() -> None:
    """Load what a page needs and draw a figure for nobody, so that fonts are at hand; then draw the pages asked for."""
    logging.getLogger("matplotlib").setLevel(
        logging.ERROR
    )  # where its folders cannot be made it tells at length
    style.every_format = False
    with staying("matplotlib"), tempfile.TemporaryDirectory() as folder:
        for name in LOADED:
            importlib.import_module(name)
        importlib.import_module("engram.report.html").template()
        style.save(lambda: style.styled(style.new_figure)(2.0, "engram", "engram"), Path(folder) / "figure")
    if sys.platform == "linux":
        style.side_by_side = default_jobs("cpu")
    for line in sys.stdin:
        error = ""
        try:
            root, accept_edited = json.loads(line)
            write_report(root, every_format=False, accept_edited=accept_edited)
        except EngramError as fault:
            error = str(fault)
        try:
            print(json.dumps(error), flush=True)
        except BrokenPipeError:  # nobody waits for the page any more
            break
    os._exit(0)  # a tidy end of all that was imported takes a second


if __name__ == "__main__":
    main()
