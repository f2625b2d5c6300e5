"""Reports: tables for the terminal, figures, and one HTML page, all made from what a study leaves on disk.

Nothing heavy is imported until a report is written.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import engram
from engram.core.files import checksum, digest, os_errors, read_regular, write_atomically

if TYPE_CHECKING:
    from engram.studies.results import Findings, FoundResult

__all__ = ["is_current", "write_report"]

PAGE = "report.html"


@os_errors()
def write_report(
    directory: str | os.PathLike[str],
    *,
    every_format: bool = True,
    sheet: str | os.PathLike[str] | None = None,
    accept_edited: bool = False,
) -> Path:
    """Draw the figures and write ``report.html`` for the study in a folder.

    Args:
        directory: folder of a run, a comparison, a sweep or a trade-off; gets ``report.html`` and ``figures/``: each
            figure as SVG, its numbers as CSV, and ``captions.md``.
        every_format: each figure as PDF and PNG too, which takes longer.
        sheet: matplotlib style file for the files in ``figures/``; the page keeps its own look.
        accept_edited: take files that do not match their checksum as they are; the page says so.
    Returns:
        Path of the page, which embeds its figures and needs no other file.
    Raises:
        EngramError: the folder holds no study, or one that is malformed or edited; there is no such style file.
    """
    # What draws and renders is slow to import, and not needed where only a page's name is.
    from engram.report import style
    from engram.report.analyses.sections import analysis_pictures
    from engram.report.figures_sweep import sweep_pictures
    from engram.report.figures_tradeoff import tradeoff_pictures
    from engram.report.gallery import comparison_pictures, method_pictures, mistakes
    from engram.report.html import render
    from engram.studies.results import read

    study = read(directory, accept_edited=accept_edited)
    shown = _shown(study)
    found = _in_full(study)
    results = [f.result for f in found]
    figures = study.root / "figures"
    style.every_format = every_format
    sweep = study.found if study.kind == "sweep" else None
    tradeoff = study.found if study.kind == "tradeoff" else None
    with style.restyled(sheet):
        overview = comparison_pictures(results, figures)
        details = [method_pictures(f, figures) for f in found]
        of_sweep = sweep_pictures(sweep, figures) if sweep is not None else []
        analyses = analysis_pictures(results, study.root, figures)
        of_tradeoff = tradeoff_pictures(tradeoff, figures) if tradeoff is not None else []
        style.await_drawn()
    page = render(
        results,
        overview,
        details,
        [mistakes(f) for f in found],
        sweep,
        of_sweep,
        analyses,
        tradeoff,
        of_tradeoff,
        shown=shown,
    )
    every = [
        *of_sweep,
        *of_tradeoff,
        *overview,
        *analyses,
        *(p for both in details for some in both for p in some),
    ]
    if every:
        captions = "\n".join(f"- **{p.name}**: {p.title}. {p.note} {p.caption}" for p in every)
        write_atomically(figures / "captions.md", f"{captions}\n".encode())
        shutil.rmtree(figures / "page")
    write_atomically(study.root / PAGE, page.encode())
    return study.root / PAGE


def is_current(directory: str | os.PathLike[str], *, accept_edited: bool = False) -> bool:
    """Whether the page in a folder shows what is known of the study now; errors as `write_report`."""
    from engram.studies.results import read  # as above

    study = read(directory, accept_edited=accept_edited)
    try:
        head = read_regular(study.root / PAGE)[:1000].decode(errors="replace")
    except OSError:
        return False
    said = re.search(r'<meta name="engram-shown" content="(\w+)">', head)
    return said is not None and said[1] == _shown(study)


def _shown(study: Findings) -> str:
    """All that the page of a study shows, in one word."""
    files = [study.root / "surrogate.json"]
    kinds = ("samples", "mistakes")
    samples = [f.images(seed, kind) for f in study.results for seed in f.result["seeds"] for kind in kinds]
    files += [path for path in samples if path is not None]
    contents = [digest(path.read_bytes()) if path.is_file() else "" for path in files]
    results = [f.result for f in study.results]
    return checksum(
        {"engram": engram.__version__, "results": results, "found": study.found, "files": contents}
    )


def _in_full(study: Findings) -> list[FoundResult]:
    """The results that a page shows in full, best first, under distinct labels.

    Of a sweep it is the chosen trial; of each curve of a trade-off the point that validation images choose.
    """
    from engram.report.words import by_accuracy  # as above

    results = study.results
    if study.kind == "tradeoff":
        results = _chosen_points(study)
    found: list[FoundResult] = []
    used: set[str] = set()
    for item in sorted(results, key=lambda f: by_accuracy(f.result)):
        label = base = str(item.result["label"])
        number = 2
        while label in used:
            label, number = f"{base} ({number})", number + 1
        used.add(label)
        found.append(item._replace(result={**item.result, "label": label}))
    if study.kind == "sweep":
        name = (study.found.get("chosen") or {}).get("name")
        return [f for f in found if f.result["label"] == name] or found[:1]
    return found


def _chosen_points(study: Findings) -> list[FoundResult]:
    by_folder = {f.directory.resolve(): f for f in study.results}
    found = []
    for m in study.found["methods"]:
        chosen = (m["m1_valid"] or m["m1"] or {"at": m["points"]})["at"][0]["name"]
        point = next(p for p in m["points"] if p["name"] == chosen)
        sign = "," if ":" in m["label"] else ":"
        label = m["label"] if m["option"] is None else f"{m['label']}{sign}{chosen}"
        at = by_folder[(study.root / m["folder"] / point["folder"]).resolve()]
        found.append(at._replace(result={**at.result, "label": label}))
    return found
