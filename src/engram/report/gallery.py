"""Which figures a set of results gets, with the words that describe each to a reader who cannot see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.protocols.entry import done_seeds
from engram.report import figures
from engram.report.figures_cost import cost_figure, strict, write_cost
from engram.report.figures_generative import has_gates, has_growth, has_mask_use
from engram.report.picture import Picture, slug
from engram.report.style import save
from engram.report.words import counts_words, mean_pm, number

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from engram.studies.results import FoundResult

__all__ = ["comparison_pictures", "load_samples", "method_pictures"]

Result = Mapping[str, Any]


def comparison_pictures(results: Sequence[Result], folder: Path) -> list[Picture]:
    """Figures that hold all results: accuracy, forgetting, storage, growth.

    Args:
        results: results of schema 1, in the order of their colours.
        folder: where files go.
    Returns:
        Pictures; empty when no seed has finished.
    """
    shown = [r for r in results if r["summary"]["n"]]
    if not shown:
        return []
    words = counts_words(shown)
    finals = _each(shown, "final_average_accuracy", 100, " %")
    out = [
        _picture(
            folder, "accuracy-curves", figures.accuracy_curves(shown),
            f"Line chart of the average accuracy after each task, {words}. After the last task: {finals}.",
            "Accuracy on real test data, averaged over the tasks learned so far.",
        )
    ]  # fmt: skip
    if max(len(r["tasks"]) for r in shown) > 1:
        lost = _each(shown, "final_forgetting", 100, " points")
        out.append(
            _picture(
                folder, "forgetting-curves", figures.forgetting_curves(shown),
                f"Line chart of the forgetting after each task, {words}. After the last task: {lost}.",
                "Best earlier accuracy of a task minus its accuracy now, averaged over the earlier tasks.",
            )
        )  # fmt: skip
    if any(r["summary"]["storage_total_bytes"] for r in shown):
        kib = _each(shown, "storage_total_bytes", 1 / 1024, " KiB")
        out.append(
            _picture(
                folder, "storage", figures.storage_bars(shown),
                f"Bar chart of the storage kept after the last task by kind. Totals: {kib}.",
                "What has to be kept to go on learning; exemplars are stored real samples.",
            )
        )  # fmt: skip
    if len(strict(shown)) > 1:
        write_cost(shown, folder / "cost.csv")
        costs = ", ".join(
            f"{r['label']} {number(r['summary']['final_average_accuracy']['mean'], scale=100)} % for "
            f"{number(r['summary']['storage_total_bytes']['mean'], scale=1 / 1024)} KiB and "
            f"{number(r['summary']['seconds']['mean'])} s"
            for r in strict(shown)
        )
        out.append(
            _picture(
                folder, "cost", cost_figure(shown),
                f"Scatter plots of the final accuracy against bytes kept and seconds taken, {words}: {costs}.",
                "Strict methods only. Up and to the left is better. The numbers are in figures/cost.csv.",
            )
        )  # fmt: skip
    growing = [r for r in shown if has_growth(r)]
    if growing:
        out.append(
            _picture(
                folder, "network-growth", figures.network_growth(growing),
                f"Line chart of the number of weights per task of {', '.join(r['label'] for r in growing)}, "
                "against a line that adds the first task's size at every task.",
                "Weights while learning a task; as many again at every task is the worst case.",
            )
        )  # fmt: skip
    return out


def method_pictures(found: FoundResult, folder: Path) -> list[Picture]:
    """Figures of one result: matrix, confusion, samples, masks, gates, losses; those that have data.

    Args:
        found: the result and its folder (for the samples).
        folder: where files go; names start with the label.
    Returns:
        Pictures; empty when no seed has finished.
    """
    result = found.result
    seeds = done_seeds(result)
    if not seeds:
        return []
    name, label = slug(str(result["label"])), str(result["label"])
    final = mean_pm(result["summary"]["final_average_accuracy"], scale=100)
    out = [
        _picture(
            folder, f"{name}-accuracy-matrix", figures.accuracy_matrix(result),
            f"Heat map of the accuracy of {label} on each task after each task, in numbers below. "
            f"Average of the last row: {final} %.",
            "A column keeps its colour downwards when its task is not forgotten.",
        )
    ]  # fmt: skip
    if any(s.get("confusion") for s in seeds):
        out.append(
            _picture(
                folder, f"{name}-confusion", figures.confusion_matrix(result),
                f"Heat map of predicted against true classes of {label} after the last task, rows in %.",
                "The diagonal holds the recall of each class.",
                )
        )  # fmt: skip
    sampled = load_samples(found)
    if sampled is not None:
        seed, images, labels = sampled
        out.append(
            _picture(
                folder, f"{name}-samples", figures.sample_grid(result, images, labels, seed=seed),
                f"Images generated by {label} after the last task, a row for each of {len(labels)} classes.",
                "Generated after the last task by the first finished seed.",
                )
        )  # fmt: skip
    if has_mask_use(result):
        out.append(
            _picture(
                folder, f"{name}-mask-use", figures.mask_use(result),
                f"Stacked bars per task: share of the units used by {label} that are new, and reused.",
                "Reuse grows when later tasks build on what earlier ones reserved.",
            )
        )  # fmt: skip
    if has_gates(result):
        out.append(
            _picture(
                folder, f"{name}-gates", figures.gate_values(result),
                f"Gate values of {label} over the epochs of the last task, for each masked layer.",
                "Gates start at 0.5 and have to become binary before the task ends.",
            )
        )  # fmt: skip
    if figures.loss_names(result):
        terms = ", ".join(f"{phase} {loss}" for phase, loss in figures.loss_names(result))
        out.append(
            _picture(
                folder, f"{name}-losses", figures.loss_curves(result),
                f"Line charts of the losses of {label} over all epochs: {terms}.",
                "Every loss term as it was recorded, once per epoch.",
            )
        )  # fmt: skip
    return out


def load_samples(found: FoundResult) -> tuple[int, np.ndarray, np.ndarray] | None:
    """The generated samples of the first finished seed whose file is there, as (seed, images, labels).

    Args:
        found: the result and its folder; a file outside that folder is not read.
    Returns:
        None where no seed names a readable file with uint8 images [C, n, channels, H, W] and labels [C].
    """
    # For generated samples alone.
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    for seed in done_seeds(found.result):
        path = found.samples(seed)
        if path is None:
            continue
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError):
            continue
        images, labels = tensors.get("images"), tensors.get("labels")
        if images is None or labels is None or images.ndim != 5 or images.dtype != "uint8" or not images.size:
            continue
        if labels.shape == images.shape[:1]:
            return int(seed["seed"]), images, labels
    return None


def _each(results: Sequence[Result], key: str, scale: float, unit: str) -> str:
    return ", ".join(
        f"{r['label']} {number((r['summary'][key] or {}).get('mean'), scale=scale)}{unit}" for r in results
    )


def _picture(
    folder: Path, name: str, figure: Figure, alt: str, caption: str, *, wide: bool = True
) -> Picture:
    return Picture(name, alt, caption, save(figure, folder / name))
