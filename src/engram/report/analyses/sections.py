"""Which analyses of the SI paper a folder of results allows, drawn for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engram.report.analyses import accuracies, omegas, paths
from engram.report.picture import Picture, drawn

__all__ = ["analysis_pictures"]

Result = Mapping[str, Any]
MOST_PANELS = 6  # tasks; more do not fit


def analysis_pictures(results: Sequence[Result], root: Path, folder: Path) -> list[Picture]:
    """Pictures of the analyses for which the data are there; each caption says which figure it corresponds to.

    Args:
        results: results of schema 1 with distinct labels. Those of other tasks than the first one's are left out.
        root: folder of the results; may hold ``surrogate.json``.
        folder: where files go.
    Raises:
        EngramError: ``surrogate.json`` is something else.
    """
    out = []
    shown = [r for r in results if r["summary"]["n"]]
    shown = [r for r in shown if r["tasks"] == shown[0]["tasks"]]
    if any(r["method"] == "si" for r in shown) and len(shown[0]["tasks"]) > 1:
        out += _accuracies(shown, folder)
    with_omegas = [r for r in shown if omegas.correlations(r)]
    if with_omegas:
        said = "; ".join(
            f"{r['label']}: "
            + ", ".join(f"{k} {omegas.mean_between_tasks(m):.2f}" for k, m in omegas.correlations(r).items())
            for r in with_omegas
        )
        out.append(
            drawn(
                folder,
                "omega-correlations",
                lambda: omegas.matrices_figure(with_omegas),
                f"Heat maps of the correlation of omega between tasks. Mean between different tasks: {said}.",
                "Pairwise correlations of omega between tasks, by layer (Zenke et al. 2017, Fig. 5).",
            )
        )
    if (root / paths.FILE).is_file():
        found = paths.read(root / paths.FILE)
        out.append(
            drawn(
                folder,
                "surrogate",
                lambda: paths.surrogate_figure(found),
                f"Line charts: loss of task 1 falls from {found.first_true[0]:.2f} to {found.first_true[-1]:.2f} nats, "
                f"its surrogate from {found.first_surrogate[0]:.2f}; after task 2 the loss is "
                f"{found.second_true[-1]:.2f}, without penalty {found.free_true[-1]:.2f}.",
                "Surrogate and true loss along the path, a small problem of its own (Zenke et al. 2017, Fig. 1 and 2).",
            )
        )
    return out


def _accuracies(shown: Sequence[Result], folder: Path) -> list[Picture]:
    """Fig. 3, 4 or 6, by scenario and stream."""
    first, n = shown[0], len(shown[0]["tasks"])
    final = ", ".join(
        f"{s.label} {s.mean[-1]:.1f} %" for s in (accuracies.final_accuracies(r) for r in shown)
    )
    out = []
    if accuracies.is_permuted(first):
        authors = accuracies.authors_curve(shown)
        beside = "" if authors is None else f" The {authors.label} ends at {authors.mean[-1]:.1f} %."
        ends = ", ".join(
            f"{s.label} {s.mean[-1]:.1f} %" for s in map(accuracies.against_tasks, shown) if s.mean
        )
        out.append(
            drawn(
                folder,
                "tasks",
                lambda: accuracies.tasks_figure(shown),
                f"Line chart of the average accuracy against the number of tasks. At its last point: {ends}.{beside}",
                "Average accuracy against the number of tasks (Zenke et al. 2017, Fig. 4).",
            )
        )
    if first["protocol"].get("scenario") != "task":
        return out
    if accuracies.is_sequence(first):
        out.append(
            drawn(
                folder,
                "task-bars",
                lambda: accuracies.task_bars(shown),
                f"Bar chart of the accuracy of each task after the last. Average over the tasks: {final}.",
                "Accuracy of each task after the last (Zenke et al. 2017, Fig. 6).",
            )
        )
    if n <= MOST_PANELS:
        out.append(
            drawn(
                folder,
                "task-panels",
                lambda: accuracies.task_panels(shown),
                f"Panels of the accuracy of each task while later ones are learned. Average at the end: {final}.",
                "Accuracy of each task after every task (Zenke et al. 2017, Fig. 3).",
            )
        )
    return out
