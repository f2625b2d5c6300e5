"""Reports: tables for the terminal, figures, and one HTML page, all made from result files.

Nothing heavy is imported until a report is written.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["write_report"]


def write_report(directory: str | os.PathLike[str]) -> Path:
    """Draw the figures and write ``report.html`` for the results found in a folder.

    Args:
        directory: folder of a run or of a comparison; gets ``figures/`` (PNG, PDF) and ``report.html``.
    Returns:
        Path of the page, which embeds its figures and needs no other file.
    Raises:
        EngramError: the folder holds no result, or one that is malformed.
    """
    from engram._sweepfile import read_sweep
    from engram.analyses.sections import analysis_pictures
    from engram.report._words import by_accuracy
    from engram.report.figures_sweep import sweep_pictures
    from engram.report.gallery import comparison_pictures, method_pictures
    from engram.report.html import render
    from engram.results import SWEEP_FILE, FoundResult, find_results

    root = Path(directory)
    sweep = read_sweep(root) if (root / SWEEP_FILE).is_file() else None
    found: list[FoundResult] = []
    used: set[str] = set()
    for item in sorted(find_results(root), key=lambda f: by_accuracy(f.result)):
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
    )
    target = root / "report.html"
    temporary = root / f".report.{os.getpid()}.tmp"
    try:
        temporary.write_text(page, encoding="utf-8")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target
