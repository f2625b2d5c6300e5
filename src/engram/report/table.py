"""The tables of a report: one set of strings for the terminal (rich) and for HTML.

Every column says of what, with which unit and spread; the footnotes say what is not comparable and which
seeds failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engram.protocols.entry import done_seeds
from engram.protocols.metrics import Summary
from engram.report.comparable import comparable
from engram.report.words import (
    MISSING,
    by_accuracy,
    content_words,
    mean_pm,
    number,
    spread_words,
    task_names,
)

if TYPE_CHECKING:
    from rich.console import Group

__all__ = [
    "Column",
    "Table",
    "accuracy_table",
    "class_table",
    "footnotes",
    "headline_table",
    "matrix_table",
    "seed_table",
    "terminal",
]

Result = Mapping[str, Any]

#: What the columns of generative methods mean, where they are printed.
GENERATED = (
    "Final average accuracy (acc_real): the method's own answers on real test images. acc_gen: share of its generated "
    "images that a classifier trained on all real data labels as intended; good images that are all alike score 100 %. "
    "acc_rev: accuracy on real test images of a classifier trained on its generated images alone, which suffers from "
    "bad and from alike images. Diversity: spread of generated images in the features of the classifier of acc_gen, "
    "that of real ones being 1, of the class where it is least; near 0 the generator has collapsed. Fréchet distance: "
    "of generated from real training images in these features; in brackets that of real test images."
)


@dataclass(frozen=True)
class Column:
    """A column: its heading, what exactly it holds, text (left) or number (right), heading for a terminal.

    A minor column moves below the table where the terminal is narrow.
    """

    name: str
    of: str = ""
    text: bool = False
    short: str = ""
    minor: bool = False


@dataclass(frozen=True)
class Table:
    """A table of strings; the first cell of a row is its heading."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    footnotes: tuple[str, ...] = ()


def _frechet(summary: Mapping[str, Any]) -> str:
    if not summary.get("frechet"):
        return MISSING
    return f"{mean_pm(summary['frechet'])} ({number(summary['frechet_real']['mean'])})"


def headline_table(results: Sequence[Result]) -> Table:
    """One row per result, best final average accuracy first.

    Args:
        results: results of schema 1 with their summary.
    Returns:
        Table of strings: percentages and percentage points with one decimal, ``mean ± half width`` of the 95
        % interval, the mean alone where only one seed finished; `footnotes` below.
    """
    ordered = sorted(results, key=by_accuracy)
    facts = list(dict.fromkeys(k for r in ordered for k in r.get("facts") or {}))
    columns = (
        Column("Method", text=True),
        *(Column(f, text=True) for f in facts),
        Column("Seeds", "finished"),
        Column("Final average accuracy", "%, real test data", short="Final avg\naccuracy %"),
        Column("Worst seed", "%", short="Worst\n%"),
        Column("Forgetting", "percentage points", short="Forgetting\npoints"),
        Column("acc_gen", "%, generated samples", short="acc_gen\n%"),
        Column("acc_rev", "%, learned from generated samples", short="acc_rev\n%"),
        Column("Diversity", "least of all classes, of real ones 1", short="Least\ndiv."),
        Column("Fréchet distance", "of real test images in brackets", short="Fréchet\ndist."),
        Column("Stored real samples", "after the last task", short="Real\nkept", minor=True),
        Column("Storage", "KiB", short="KiB"),
        Column("Time", "s per seed", short="s per\nseed", minor=True),
    )
    rows = []
    for r in ordered:
        s = r["summary"]
        final = s["final_average_accuracy"] or {}
        rows.append(
            (
                f"{r['label']} (edited)" if r.get("edited") else str(r["label"]),
                *(str((r.get("facts") or {}).get(f, MISSING)) for f in facts),
                f"{s['n']} of {s['n'] + len(s['excluded'])}" if s["excluded"] else str(s["n"]),
                mean_pm(s["final_average_accuracy"], scale=100),
                number(final.get("worst"), scale=100),
                mean_pm(s["final_forgetting"], scale=100),
                mean_pm(s["final_acc_gen"], scale=100),
                mean_pm(s.get("acc_rev"), scale=100),
                mean_pm(s.get("least_diversity"), digits=2),
                _frechet(s),
                number((s["stored_real_samples"] or {}).get("mean"), digits=0),
                number((s["storage_total_bytes"] or {}).get("mean"), scale=1 / 1024),
                mean_pm(s["seconds"]),
            )
        )
    some = ("acc_gen", "acc_rev", "Diversity", "Fréchet distance")  # of generative methods
    keep = [i for i, c in enumerate(columns) if c.name not in some or any(r[i] != MISSING for r in rows)]
    return Table(
        title=f"After the last task: {spread_words(results)}",
        columns=tuple(columns[i] for i in keep),
        rows=tuple(tuple(row[i] for i in keep) for row in rows),
        footnotes=tuple(footnotes(ordered)),
    )


def footnotes(results: Sequence[Result]) -> list[str]:
    """What a reader has to know before using the numbers: edited files, left-out seeds, no interval, not comparable."""
    content: dict[str, list[str]] = {}
    for r in results:
        for words in content_words(r):
            content.setdefault(words, []).append(str(r["label"]))
    notes = [f"{', '.join(labels)}: {words}" for words, labels in content.items()]
    for r in results:
        s = r["summary"]
        for out in s["excluded"]:
            why = f": {out['error']}" if out.get("error") else "."
            how = "failed" if out["status"] == "failed" else "has not finished"
            notes.append(f"{r['label']}: seed {out['seed']} {how} and is left out of every number{why}")
        if s["n"] == 1:
            notes.append(f"{r['label']}: n = 1, no interval.")
        if s["n"] == 0:
            notes.append(f"{r['label']}: no finished seed, hence no numbers.")
    notes += above_joint(results)
    if any(r["summary"].get("final_acc_gen") for r in results):
        notes.append(GENERATED)
    notes += [f"Not directly comparable. {reason}" for reason in comparable(results)]
    return notes


def above_joint(results: Sequence[Result]) -> list[str]:
    """Who lies above joint training, which is to be the upper bound, by so much that their intervals do not meet."""
    notes = []
    for bound in (r for r in results if r["method"] == "joint"):
        most = bound["summary"]["final_average_accuracy"] or {}
        for r in results:
            found = r["summary"]["final_average_accuracy"] or {}
            if most.get("ci95") and found.get("ci95") and found["ci95"][0] > most["ci95"][1]:
                notes.append(
                    f"{r['label']} lies above {bound['label']} by more than the intervals, so that {bound['label']} is "
                    "no upper bound here: train it longer, or with the network and augmentation of that row."
                )
    return notes


def accuracy_table(results: Sequence[Result]) -> Table:
    """Average accuracy [%] after each task, the numbers behind the accuracy curves."""
    n_tasks = max(len(r["tasks"]) for r in results)
    rows = []
    for r in results:
        series = r["summary"]["average_accuracy"]
        cells = [MISSING] * n_tasks
        if series is not None:
            pairs = zip(series["mean"], series["ci95"], strict=True)
            cells[: len(series["mean"])] = [mean_pm({"mean": m, "ci95": c}, scale=100) for m, c in pairs]
        rows.append((str(r["label"]), str(r["summary"]["n"]), *cells))
    after = (Column(f"after task {t + 1}") for t in range(n_tasks))
    columns = (Column("Method", text=True), Column("Seeds"), *after)
    return Table(f"Average accuracy [%] after each task, {spread_words(results)}", columns, tuple(rows))


def matrix_table(result: Result) -> Table:
    """Accuracy matrix [%] in numbers, mean ± half width of the 95 % interval over the finished seeds."""
    matrices = [s["accuracy_matrix"] for s in done_seeds(result)]
    names = task_names(result)
    rows = []
    for i, name in enumerate(names):
        cells = []
        for j in range(len(names)):
            s = Summary.of(m[i][j] for m in matrices)
            missing = s.mean != s.mean
            cells.append(MISSING if missing else mean_pm({"mean": s.mean, "ci95": s.ci95}, scale=100))
        rows.append((name, *cells))
    columns = (Column("after learning", text=True), *(Column(f"on {name}") for name in names))
    title = f"Accuracy of each task [%], {result['label']}, {spread_words([result])}"
    return Table(title, columns, tuple(rows))


def class_table(results: Sequence[Result]) -> Table | None:
    """A row a class: accuracy [%] after the last task of each result, and of one alone what it is most often taken for.

    None where the counts of answers are not known, or results have other classes.
    """
    shown = [r for r in results if any(s.get("confusion") for s in done_seeds(r))]
    names = [str(c) for c in shown[0]["data"].get("class_names") or []] if shown else []
    if not names or any(list(r["data"].get("class_names") or []) != names for r in shown):
        return None
    counts = [[s["confusion"] for s in done_seeds(r) if s.get("confusion")] for r in shown]
    if any(len(one) != len(names) for of_result in counts for one in of_result):
        return None
    rows = []
    for c, name in enumerate(names):
        cells = []
        for of_result in counts:
            of_class = Summary.of(100 * one[c][c] / sum(one[c]) for one in of_result if sum(one[c]))
            missing = of_class.mean != of_class.mean
            cells.append(MISSING if missing else mean_pm({"mean": of_class.mean, "ci95": of_class.ci95}))
        if len(shown) == 1:
            answers = [sum(one[c][k] for one in counts[0]) for k in range(len(names))]
            most = max((k for k in range(len(names)) if k != c), key=answers.__getitem__, default=c)
            share = 100 * answers[most] / max(sum(answers), 1)
            cells.append(f"{names[most]} ({share:.1f} %)" if most != c and answers[most] else MISSING)
        rows.append((name, *cells))
    columns = [Column("Class", text=True), *(Column(str(r["label"]), "%") for r in shown)]
    if len(shown) == 1:
        columns[1:] = [
            Column("Accuracy", "%"),
            Column("Most often taken for", "share of its images", text=True),
        ]
    return Table(
        f"Accuracy of each class after the last task, {spread_words(shown)}", tuple(columns), tuple(rows)
    )


def seed_table(result: Result) -> Table:
    """One row per seed, failed and unfinished ones included."""
    columns = (
        Column("Seed"),
        Column("Status", text=True),
        Column("Final average accuracy", "%"),
        Column("Forgetting", "percentage points"),
        Column("Backward transfer", "percentage points"),
        Column("acc_gen", "%, generated samples"),
        Column("Time", "s"),
        Column("Peak memory", "MiB"),
        Column("Stored real samples"),
        Column("Error", text=True),
    )
    rows = tuple(
        (
            str(s["seed"]),
            str(s["status"]),
            number(s.get("final_average_accuracy"), scale=100),
            number(s.get("final_forgetting"), scale=100),
            number(s.get("backward_transfer"), scale=100),
            number((s.get("acc_gen") or [None])[-1], scale=100),
            number(s.get("seconds")),
            number(s.get("peak_memory_bytes"), scale=1 / 2**20),
            number(s.get("stored_real_samples"), digits=0),
            str(s.get("error") or MISSING),
        )
        for s in result["seeds"]
    )
    return Table(f"Seeds of {result['label']}", columns, rows)


def _full_name(column: Column) -> str:
    return f"{column.name} ({column.of})" if column.of else column.name


def _moved(table: Table, width: int) -> list[int]:
    """Columns that move below the table: text and minor ones where it is tight, then the last ones until it fits."""
    widths = []
    for index, column in enumerate(table.columns):
        heading = max(map(len, (column.short or column.name).splitlines()))
        longest = max([heading, *(len(row[index]) for row in table.rows)])
        widths.append(2 + (min(longest, 12) if column.text else longest))
    kept = list(range(len(widths)))
    if width < 100 or sum(widths) + 2 > width:
        kept = [i for i in kept if not i or not (table.columns[i].text or table.columns[i].minor)]
    while len(kept) > 2 and sum(widths[i] for i in kept) + 2 > width:
        kept.pop()
    return [i for i in range(len(widths)) if i not in kept]


def terminal(table: Table, *, width: int = 120) -> Group:
    """The table as a rich renderable, footnotes below.

    Args:
        table: any table of this module.
        width: columns of the terminal; what does not fit moves below the table.
    """
    # A page does without rich.
    from rich import box
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    moved = _moved(table, width)
    look: dict[str, Any] = {"title_justify": "left", "title_style": "bold", "box": box.SIMPLE_HEAD}
    drawn = RichTable(title=Text(table.title), padding=(0, 1, 0, 0), **look)
    for index, column in enumerate(table.columns):
        if index not in moved:
            number = not column.text
            heading = Text(column.short or column.name)
            # Numbers are never cut: where a long name leaves too little room, the name takes more lines.
            cells = [len(row[index]) for row in table.rows]
            least = max(cells, default=0) if number else None
            drawn.add_column(
                heading,
                justify="right" if number else "left",
                no_wrap=number,
                min_width=least,
                overflow="fold",
            )
    for row in table.rows:
        drawn.add_row(*(Text(cell) for i, cell in enumerate(row) if i not in moved))
    below = [
        Text(f"{_full_name(table.columns[i])}: " + ", ".join(f"{row[0]} {row[i]}" for row in table.rows))
        for i in moved
    ]
    notes = [Text(f"[{i}] {note}", style="dim") for i, note in enumerate(table.footnotes, 1)]
    return Group(drawn, *below, *notes)
