"""The table, figures and files of a reproduction: published beside measured, each with its verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import engram
from engram.core.files import parsed, with_checksum, write_atomically
from engram.errors import ConfigError
from engram.protocols.entry import plain
from engram.protocols.metrics import Summary
from engram.recipes.published import TABLES
from engram.recipes.targets import Target
from engram.report import figures, style
from engram.report.analyses import accuracies, omegas, paths
from engram.report.exports import markdown
from engram.report.figures_tradeoff import measures_table, tradeoff_figure
from engram.report.gallery import load_samples, load_sheets
from engram.report.picture import slug
from engram.report.plasticity import has_gates, has_growth, has_mask_use
from engram.report.table import Column, Table
from engram.report.verdicts import SMALLER_IS_BETTER, judge, judge_statement, measured
from engram.report.words import MISSING, mean_pm
from engram.studies.folders import folder_name
from engram.studies.results import as_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from engram.studies.reproduction import PartFound

__all__ = ["FILE", "Conclusion", "check_folder", "conclude", "write"]

FILE, SCHEMA = "reproduction.json", 1


@dataclass(frozen=True)
class Conclusion:
    """What a reproduction shows.

    Args:
        tables: of figures, a part each, and of statements.
        json: the same with all values, one a seed, and where they were read.
    """

    tables: tuple[Table, ...]
    json: Mapping[str, Any]


def check_folder(out: Path, target: str, budget: str, parts: Collection[str]) -> None:
    """``ConfigError`` where a folder holds another reproduction, one of another version, or files of somebody else.

    ``parts`` are the names of the studies that a reproduction which was stopped may have begun.
    """
    path = out / FILE
    if not path.exists():
        there = sorted(p.name for p in out.iterdir()) if out.is_dir() else []
        for name in there:
            if name not in parts and not name.startswith("."):
                raise ConfigError(
                    f"{out} must be empty or hold {target}, it holds {name}: give another --out."
                )
        return
    try:
        held = parsed(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): delete it, or give another --out.") from error
    if not isinstance(held, dict) or held.get("schema") != SCHEMA:
        raise ConfigError(
            f"{path} is of another version, this one reads schema {SCHEMA}: give another --out."
        )
    if (held.get("target"), held.get("budget")) != (target, budget):
        raise ConfigError(
            f"{out} must hold {target} with budget {budget} or nothing, it holds {held.get('target')} with budget "
            f"{held.get('budget')}: give another --out."
        )


# Tables -----------------------------------------------------------------------------------------------------
def conclude(target: Target, budget: str, found: Sequence[PartFound]) -> Conclusion:
    """Tables and values; a pure function of its arguments."""
    tables: list[Table] = []
    parts: list[dict[str, Any]] = []
    for one in found:
        if one.part.tradeoff:
            if one.curves:
                tables.append(measures_table(one.curves))
            curves = {k: one.curves.get(k) for k in ("seeds", "methods")}
            parts.append({"name": one.part.name, "smaller": one.part.smaller, "curves": curves})
            continue
        table, rows = _part(one)
        tables.append(table)
        parts.append({"name": one.part.name, "smaller": one.part.smaller, "rows": rows})
    judged = [
        (s, one.part.name, *judge_statement(s, one))
        for s in target.statements
        for one in found
        if one.part.name == (s.part or found[0].part.name)
    ]
    if judged:
        title = f"{target.name}: what the paper says in words ({target.paper})"
        columns = (Column("Statement", text=True), Column("Part", text=True), Column("Verdict", text=True))
        cells = tuple((s.said, part, v.words) for s, part, v, _ in judged)
        notes = ("Margins are paired over the seeds that both methods have, with 95 % Student-t intervals.",)
        tables.append(Table(title, columns, cells, notes))
    statements = [
        {"said": s.said, "verdict": v.kind, "words": v.words, "margins": values} for s, _, v, values in judged
    ]
    whole = {"schema": SCHEMA, "engram": engram.__version__, "target": target.name, "budget": budget}
    return Conclusion(tuple(tables), plain({**whole, "parts": parts, "statements": statements}))


def _part(found: PartFound) -> tuple[Table, list[dict[str, Any]]]:
    part, published = found.part, TABLES[found.part.published] if found.part.published else None
    cells, rows = [], []
    for row in part.rows:
        edited = any(f.result.get("edited") for f in found.files.get(row.name, ()))
        name = f"{row.name} (edited)" if edited else row.name
        for column in part.columns:
            value = (published.values.get(row.name, {}) if published else {}).get(column.name)
            values = measured(found, row, column)
            verdict = judge(part, row, column, values, value)
            s = Summary.of(values.values())
            size = column.measure in SMALLER_IS_BETTER
            digits = 0 if column.measure == "generator" else 2 if size else 1
            shown = mean_pm({"mean": s.mean, "ci95": s.ci95}, digits=digits) if values else MISSING
            said = MISSING if value is None else f"{value:.{2 if value < 1000 else 0}f}"
            if values or value is not None:
                cells.append((name, row.variant, column.name, said, shown, str(len(values)), verdict.words))
            rows.append(
                {
                    "row": row.name,
                    "variant": row.variant,
                    "column": column.name,
                    "published": value,
                    "values": {str(k): v for k, v in values.items()},
                    "mean": None if math.isnan(s.mean) else s.mean,
                    "ci95": s.ci95,
                    "verdict": verdict.kind,
                    "words": verdict.words,
                    "edited": edited,
                    "read_from": sorted({str(f.directory) for f in found.files.get(row.name, ())}),
                }
            )
    notes = [
        "Measured: mean ± half width of the 95 % Student-t interval over n seeds; accuracies in %, sizes in MB."
    ]
    if published:
        notes.append(f"Published: {published.paper}, {published.place}; {published.known}.")
    if part.smaller:
        notes.append(f"Smaller setting: {part.smaller}.")
    if any(row["edited"] for row in rows):
        notes.append(
            "Edited: files were changed by hand; what follows from what stands in them was computed anew."
        )
    notes += [
        f"{name}: results of the same seeds in {', '.join(sorted(map(str, folders)))} were not used."
        for name, folders in found.unused.items()
    ]
    devices = sorted({str(f.result["device"].get("class")) for r in found.files.values() for f in r})
    if len(devices) > 1:
        notes.append(f"Devices: {', '.join(devices)}.")
    columns = (
        Column("Row", text=True),
        Column("Method", text=True),
        Column("What", text=True),
        Column("Published"),
        Column("Measured"),
        Column("n"),
        Column("Verdict", text=True),
    )
    return Table(f"{part.name}, recipe {part.recipe}", columns, tuple(cells), tuple(notes)), rows


# Files --------------------------------------------------------------------------------------------------------
def write(
    out: Path, target: Target, found: Sequence[PartFound], conclusion: Conclusion, *, run: bool = True
) -> tuple[list[Path], list[str]]:
    """Write ``reproduction.json``, ``table.md``, ``results/`` and ``figures/``, in place of what an earlier call wrote.

    Args:
        run: whether the surrogate analysis may be made where its file is missing.
    Returns:
        The paths of the figures, and the names of those of the target that no result here can be drawn from.
    """
    notes = [f"# {target.name}", "", f"{target.paper}: {target.what}.", target.note, ""]
    text = "\n".join([*notes, *(markdown(table) for table in conclusion.tables)])
    # First, since it says whose the folder is.
    write_atomically(out / FILE, (as_text(with_checksum(dict(conclusion.json))) + "\n").encode())
    write_atomically(out / "table.md", text.encode())
    for one in found:
        results, drawings = (
            out / "results" / one.part.name,
            (out / "figures").glob(f"{slug(one.part.name)}-*.*"),
        )
        for old in (*results.glob("*.json"), *drawings):
            old.unlink()
        for name, result in one.results.items():
            path = results / f"{folder_name(name)}.json"
            write_atomically(path, (as_text(with_checksum(result)) + "\n").encode())
    drawn, undrawn = [], []
    if "surrogate" in target.figures and not run and not (out / paths.FILE).is_file():
        undrawn.append("surrogate")
    elif "surrogate" in target.figures:
        drawn.append(style.write(_surrogate(out), out / "figures" / "surrogate"))
    for kind in (k for k in target.figures if k != "surrogate"):
        made = [(one.part.name, *each) for one in found for each in FIGURES[kind](one)]
        drawn += [style.write(f, out / "figures" / slug(f"{part}-{name}")) for part, name, f in made]
        if not made:
            undrawn.append(kind)
    return drawn, undrawn


def _surrogate(out: Path) -> Figure:
    """The figure of the surrogate analysis, which is measured where its file is not there."""
    if not (out / paths.FILE).is_file():
        # Torch comes with this; a table of results does without.
        from engram.report.analyses import surrogate

        surrogate.main([str(out)])
    return paths.surrogate_figure(paths.read(out / paths.FILE))


Drawn = list[tuple[str, "Figure"]]


def _together(name: str, draw: Callable[[Sequence[Mapping[str, Any]]], Figure], fits: Any = None) -> Any:
    """One figure of all results for which there are data."""

    def drawn(found: PartFound) -> Drawn:
        shown = [r for r in found.results.values() if fits is None or fits(r)]
        return [(name, draw(shown))] if shown else []

    return drawn


def _each(name: str, draw: Callable[[Mapping[str, Any]], Figure], fits: Any) -> Any:
    """A figure of each result for which there are data."""

    def drawn(found: PartFound) -> Drawn:
        return [(f"{label}-{name}", draw(r)) for label, r in found.results.items() if fits(r)]

    return drawn


def _samples(found: PartFound) -> Drawn:
    out = []
    for name, files in found.files.items():
        for one in files:
            sampled = load_samples(one)
            if sampled is not None:
                seed, images, labels = sampled
                result = {**one.result, "label": name}
                out.append((f"{name}-samples", figures.sample_grid(result, images, labels, seed=seed)))
                break
    return out


def _sheets(found: PartFound) -> Drawn:
    """Of each row all images after each task, and the first of each class after all tasks in one figure."""
    out: Drawn = []
    for name, files in found.files.items():
        sheets = next((s for s in map(load_sheets, files) if s is not None), None)
        if sheets is not None:
            result = {**found.results[name], "label": name}
            out.append(
                (f"{name}-after-each-task", figures.samples_over_tasks(result, sheets[1], seed=sheets[0]))
            )
            for t, images in enumerate(sheets[1], 1):
                then = {**result, "label": f"{name} after task {t}"}
                labels = np.arange(len(images))
                out.append((f"{name}-task-{t}", figures.sample_grid(then, images, labels, seed=sheets[0])))
    return out


def _tradeoffs(found: PartFound) -> Drawn:
    return [("curves", tradeoff_figure(found.curves))] if found.curves else []


#: By name, the figures of a part.
FIGURES: dict[str, Callable[[PartFound], Drawn]] = {
    "accuracies": _together("accuracies", figures.accuracy_curves),
    "samples": _samples,
    "growth": _together("growth", figures.network_growth, has_growth),
    "reuse": _each("mask-use", figures.mask_use, has_mask_use),
    "gates": _each("gates", figures.gate_values, has_gates),
    "top5": _together("top5", figures.top5_curves, lambda r: r["summary"].get("top5")),
    "memory": _together("memory", figures.memory_curves, figures.memory_account),
    "storage": _together("storage", figures.storage_bars),
    "sheets": _sheets,
    "task_panels": _together("task-panels", accuracies.task_panels),
    "against_tasks": _together("against-tasks", accuracies.tasks_figure),
    "correlations": _together("omega-correlations", omegas.matrices_figure, omegas.correlations),
    "task_bars": _together("task-bars", accuracies.task_bars),
    "tradeoffs": _tradeoffs,
    "surrogate": lambda found: [],
}
