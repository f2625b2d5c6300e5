"""A study's results as files for a paper, a spreadsheet or a script; the page is not among them.

Departures: none (no paper). Cost: none worth naming.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from math import ceil
from pathlib import Path
from textwrap import wrap

import engram
from engram.core.files import cell, os_errors, write_atomically
from engram.errors import ConfigError
from engram.protocols.entry import plain
from engram.report.figures_sweep import sweep_table
from engram.report.figures_tradeoff import measures_table
from engram.report.table import Table, headline_table
from engram.studies.results import Findings, read
from engram.studies.tidy import COLUMNS, tidy

#: Letters of a line of a heading in LaTeX, and columns that are read beside each other on a page.
HEAD, BESIDE = 13, 8

__all__ = ["FORMATS", "export", "main_table", "markdown"]


def main_table(study: Findings) -> Table:
    """The table with which a study's command ends."""
    if study.kind == "tradeoff":
        return measures_table(study.found)
    if study.kind == "sweep":
        return sweep_table(study.found)
    return headline_table([f.result for f in study.results])


def as_csv(study: Findings) -> str:
    """The rows of :func:`engram.studies.tidy.tidy`, with a line of headings; an empty cell where a value is None.

    Names that a spreadsheet would take for formulas have an apostrophe before them.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in tidy(f.result for f in study.results):
        writer.writerow({k: cell(v) if isinstance(v, str) else v for k, v in row.items()})
    return text.getvalue()


def as_markdown(study: Findings) -> str:
    """The main table."""
    return markdown(main_table(study))


def markdown(table: Table) -> str:
    """A table as text, notes below."""

    def row(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    head = [f"{c.name} ({c.of})" if c.of else c.name for c in table.columns]
    rule = "|" + "|".join("---" if c.text else "---:" for c in table.columns) + "|"
    lines = [table.title, "", row(head), rule, *(row(list(cells)) for cells in table.rows)]
    notes = [f"{i}. {note}" for i, note in enumerate(table.footnotes, 1)]
    return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"


def as_latex(study: Findings) -> str:
    """The main table as a float with the rules of package booktabs, no wider than the page; its notes below.

    Where it has more than `BESIDE` columns its parts stand below each other, each with the first column.
    """
    table = main_table(study)
    others = range(1, len(table.columns))
    n = ceil(len(others) / (BESIDE - 1))  # parts, about as wide as each other
    parts = [
        _tabular(table, [0, *others[len(others) * i // n : len(others) * (i + 1) // n]]) for i in range(n)
    ]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs,graphicx}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(table.title)}.}}",
            "\n\\par\\medskip\n".join(parts),
            *([r"\par\smallskip\raggedright\footnotesize"] if table.footnotes else []),
            *(_latex(note) for note in table.footnotes),
            r"\end{table}",
            "",
        ]
    )


def _tabular(table: Table, columns: Sequence[int]) -> str:
    """These columns of a table."""
    chosen = [table.columns[i] for i in columns]
    heads = [[*wrap(c.name, HEAD), *wrap(c.of, HEAD)] for c in chosen]
    lines = zip_longest(*(reversed(head) for head in heads), fillvalue="")  # they end on one line
    spec = "".join("l" if c.text else "r" for c in chosen)
    return "\n".join(
        [
            r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{spec}}}",
            r"\toprule",
            *reversed([_row(line) for line in lines]),
            r"\midrule",
            *(_row(row[i] for i in columns) for row in table.rows),
            r"\bottomrule",
            r"\end{tabular}}",
        ]
    )


def _row(cells: Iterable[str]) -> str:
    return " & ".join(map(_latex, cells)) + r" \\"


def as_json(study: Findings) -> str:
    """Everything measured, with means and intervals; NaN is null."""
    results = [f.result for f in study.results]
    whole = {"engram": engram.__version__, "kind": study.kind, "results": results, "found": study.found}
    return json.dumps(plain(whole), indent=1, allow_nan=False) + "\n"


_SPECIAL = {c: rf"\{c}" for c in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
_SPECIAL |= {"^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "\n": " "}
_SPECIAL |= {
    "–": "--",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "…": r"\dots{}",
    "·": r"$\cdot$",
    "é": r"\'e",
}


def _latex(text: str) -> str:
    text = re.sub(r"(?<![\w.-])-(?=[\d.])", "−", text)  # a number below 0, not a hyphen
    return re.sub("|".join(map(re.escape, _SPECIAL)), lambda m: _SPECIAL[m[0]], text)


#: By format, the file's name and what makes its text.
FORMATS: dict[str, tuple[str, Callable[[Findings], str]]] = {
    "csv": ("results.csv", as_csv),
    "latex": ("table.tex", as_latex),
    "markdown": ("table.md", as_markdown),
    "json": ("results-all.json", as_json),
}


@os_errors()
def export(directory: str | os.PathLike[str], format: str, *, accept_edited: bool = False) -> Path:
    """Write a study's results into its folder: csv, latex, markdown or json.

    Args:
        directory: folder of a run, a comparison, a sweep or a trade-off.
        format: ``csv`` is ``results.csv``, a row a method, seed and pair of tasks; ``latex`` (``table.tex``) and
            ``markdown`` (``table.md``) are the table with which the command ends; ``json`` (``results-all.json``) is
            all that was measured, with means and intervals.
        accept_edited: take files that do not match their checksum as they are; table and json say so.

    Returns:
        Path of the file.

    Raises:
        ConfigError: there is no such format.
        EngramError: the folder holds no study, or one that is malformed or edited.
    """
    if format not in FORMATS:
        raise ConfigError(f"format must be one of {', '.join(FORMATS)}, got {format!r}: give one of them.")
    name, text = FORMATS[format]
    study = read(directory, accept_edited=accept_edited)
    write_atomically(study.root / name, text(study).encode())
    return study.root / name
