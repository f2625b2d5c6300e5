"""Reports: tables for the terminal, figures, and one HTML page, all made from result files.

Nothing heavy is imported until a report is written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engram.studies.results import FoundResult

__all__ = ["write_report"]


def write_report(directory: str | os.PathLike[str]) -> Path:
    """Draw the figures and write ``report.html`` for the results found in a folder.

    Args:
        directory: folder of a run, a comparison, a sweep or a trade-off; gets ``figures/`` (PNG, PDF) and
            ``report.html``.
    Returns:
        Path of the page, which embeds its figures and needs no other file.
    Raises:
        EngramError: the folder holds no result, or one that is malformed.
    """
    from engram.report.analyses.sections import analysis_pictures
    from engram.report.figures_sweep import sweep_pictures
    from engram.report.figures_tradeoff import tradeoff_pictures
    from engram.report.gallery import comparison_pictures, method_pictures
    from engram.report.html import render
    from engram.report.words import by_accuracy
    from engram.studies.results import SWEEP_FILE, TRADEOFF_FILE, FoundResult, find_results
    from engram.studies.sweep_file import read_sweep
    from engram.studies.tradeoff_file import read_tradeoff

    root = Path(directory)
    sweep = read_sweep(root) if (root / SWEEP_FILE).is_file() else None
    tradeoff = read_tradeoff(root) if (root / TRADEOFF_FILE).is_file() else None
    found: list[FoundResult] = []
    used: set[str] = set()
    stored = find_results(root) if tradeoff is None else _chosen_points(root, tradeoff)
    for item in sorted(stored, key=lambda f: by_accuracy(f.result)):
        label = base = str(item.result["label"])
        number = 2
        while label in used:
            label, number = f"{base} ({number})", number + 1
        used.add(label)
        found.append(FoundResult(item.directory, {**item.result, "label": label}))
    if sweep is not None:  # the chosen trial in full, the others in the sweep's own table and figures
        name = (sweep.get("chosen") or {}).get("name")
        found = [f for f in found if f.result["label"] == name] or found[:1]
    results = [f.result for f in found]
    figures = root / "figures"
    page = render(
        results,
        comparison_pictures(results, figures),
        [method_pictures(f, figures) for f in found],
        sweep,
        sweep_pictures(sweep, figures) if sweep is not None else (),
        analysis_pictures(results, root, figures),
        tradeoff,
        tradeoff_pictures(tradeoff, figures) if tradeoff is not None else (),
    )
    target = root / "report.html"
    temporary = root / f".report.{os.getpid()}.tmp"
    try:
        temporary.write_text(page, encoding="utf-8")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _chosen_points(root: Path, tradeoff: Mapping[str, Any]) -> list[FoundResult]:
    """Of each curve the point that validation images choose, or the first; of other methods their one point."""
    from engram.studies.results import FoundResult, read_result

    found = []
    for m in tradeoff["methods"]:
        chosen = (m["m1_valid"] or m["m1"] or {"at": m["points"]})["at"][0]["name"]
        point = next(p for p in m["points"] if p["name"] == chosen)
        label = (
            m["label"] if m["option"] is None else f"{m['label']}{',' if ':' in m['label'] else ':'}{chosen}"
        )
        folder = root / m["folder"] / point["folder"]
        found.append(FoundResult(folder, {**read_result(folder), "label": label}))
    return found
