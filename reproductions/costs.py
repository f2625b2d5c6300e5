"""Accuracy against bytes and seconds, from the result files of this folder: a table and a figure a data set.

    python reproductions/costs.py

Reads ``reproductions/costs/DATA/*.json``, prints a Markdown table of each data set, as docs/accuracy-and-bytes.md holds
them, and writes ``docs/figures/cost-DATA.svg``.
"""

from __future__ import annotations

from pathlib import Path

from engram.report import style
from engram.report.exports import markdown
from engram.report.figures_cost import cost_figure, cost_table
from engram.studies.results import read_result

HERE = Path(__file__).resolve().parent


def main() -> None:
    style.every_format = False
    for folder in sorted(path for path in (HERE / "costs").iterdir() if path.is_dir()):
        results = [read_result(file) for file in sorted(folder.glob("*.json"))]
        table = cost_table(results)
        if table is not None:
            print(f"## {folder.name}\n\n{markdown(table)}")
            style.write(cost_figure(results), HERE.parent / "docs" / "figures" / f"cost-{folder.name}")


if __name__ == "__main__":
    main()
