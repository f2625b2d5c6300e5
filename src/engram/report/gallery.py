"""Which figures a set of results gets, with the words that describe each to a reader who cannot see it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.errors import EngramError, reason
from engram.protocols.entry import done_seeds
from engram.report import figures
from engram.report.figures_cost import cost_figure, strict
from engram.report.picture import Picture, drawn, slug
from engram.report.plasticity import has_gates, has_growth, has_mask_use
from engram.report.words import counts_words, mean_pm, number

if TYPE_CHECKING:
    import numpy as np

    from engram.studies.results import FoundResult

__all__ = ["comparison_pictures", "load_samples", "load_sheets", "method_pictures", "mistakes"]

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
        drawn(
            folder, "accuracy-curves", partial(figures.accuracy_curves, shown),
            f"Line chart of the average accuracy after each task, {words}. After the last task: {finals}.",
            "Accuracy on real test data, averaged over the tasks learned so far.",
        )
    ]  # fmt: skip
    if max(len(r["tasks"]) for r in shown) > 1:
        lost = _each(shown, "final_forgetting", 100, " points")
        out.append(
            drawn(
                folder, "forgetting-curves", partial(figures.forgetting_curves, shown),
                f"Line chart of the forgetting after each task, {words}. After the last task: {lost}.",
                "Best earlier accuracy of a task minus its accuracy now, averaged over the earlier tasks.",
            )
        )  # fmt: skip
    if any(r["summary"]["storage_total_bytes"] for r in shown):
        kib = _each(shown, "storage_total_bytes", 1 / 1024, " KiB")
        out.append(
            drawn(
                folder, "storage", partial(figures.storage_bars, shown),
                f"Bar chart of the storage kept after the last task by kind. Totals: {kib}.",
                "What has to be kept to go on learning; exemplars are stored real samples.",
            )
        )  # fmt: skip
    accounted = [r for r in shown if figures.memory_account(r)]
    if accounted and len(shown[0]["tasks"]) > 1:
        ends = ", ".join(
            f"{r['label']} {number(sum(v[-1] for v in figures.memory_account(r).values()), scale=1 / 1024)} KiB"
            for r in accounted
        )
        out.append(
            drawn(
                folder, "memory", partial(figures.memory_curves, accounted),
                f"Line chart of all bytes kept after each task, logarithmic. After the last: {ends}.",
                "Weights, masks, norms and heads, importance, exemplars, sums: all that going on needs.",
            )
        )  # fmt: skip
    if len(strict(shown)) > 1:
        costs = ", ".join(
            f"{r['label']} {number(r['summary']['final_average_accuracy']['mean'], scale=100)} % for "
            f"{number(r['summary']['storage_total_bytes']['mean'], scale=1 / 1024)} KiB and "
            f"{number(r['summary']['seconds']['mean'])} s"
            for r in strict(shown)
        )
        out.append(
            drawn(
                folder, "cost", partial(cost_figure, shown),
                f"Scatter plots of the final accuracy against bytes kept and seconds taken, {words}: {costs}.",
                "Strict methods only. Up and to the left is better. The numbers are in figures/cost.csv.",
            )
        )  # fmt: skip
    growing = [r for r in shown if has_growth(r)]
    if growing:
        out.append(
            drawn(
                folder, "network-growth", partial(figures.network_growth, growing),
                f"Line chart of the number of weights per task of {', '.join(r['label'] for r in growing)}, "
                "against a line that adds the first task's size at every task.",
                "Weights while learning a task; as many again at every task is the worst case.",
            )
        )  # fmt: skip
    return out


def method_pictures(found: FoundResult, folder: Path) -> tuple[list[Picture], list[Picture]]:
    """Figures of one result that have data: its accuracy (matrix, confusion), and diagnostics (samples, masks, losses).

    Args:
        found: the result and its folder (for the samples).
        folder: where files go; names start with the label.
    Returns:
        Both, empty when no seed has finished.
    """
    result = found.result
    seeds = done_seeds(result)
    if not seeds:
        return [], []
    name, label = slug(str(result["label"])), str(result["label"])
    final = mean_pm(result["summary"]["final_average_accuracy"], scale=100)
    out = [
        drawn(
            folder, f"{name}-accuracy-matrix", partial(figures.accuracy_matrix, result),
            f"Heat map of the accuracy of {label} on each task after each task, in numbers below. "
            f"Average of the last row: {final} %.",
            "A column keeps its colour downwards when its task is not forgotten.",
        )
    ]  # fmt: skip
    if any(s.get("confusion") for s in seeds):
        out.append(
            drawn(
                folder, f"{name}-confusion", partial(figures.confusion_matrix, result),
                f"Heat map of predicted against true classes of {label} after the last task, rows in %.",
                "The diagonal holds the recall of each class.",
                )
        )  # fmt: skip
    more = []
    sampled = load_samples(found)
    if sampled is not None:
        seed, images, labels = sampled
        more.append(
            drawn(
                folder, f"{name}-samples", partial(figures.sample_grid, result, images, labels, seed=seed),
                f"Images generated by {label} after the last task, a row for each of {len(labels)} classes.",
                "Generated after the last task by the first finished seed; the numbers are in its samples.safetensors.",
                )
        )  # fmt: skip
    sheets = load_sheets(found)
    if sheets is not None:
        more.append(
            drawn(
                folder, f"{name}-sheets", partial(figures.samples_over_tasks, result, sheets[1], seed=sheets[0]),
                f"The first image of each class of {label} after each of {len(sheets[1])} tasks.",
                "From the same noise after every task: a column that changes downwards is forgotten.",
            )
        )  # fmt: skip
    if has_mask_use(result):
        more.append(
            drawn(
                folder, f"{name}-mask-use", partial(figures.mask_use, result),
                f"Stacked bars per task: share of the units used by {label} that are new, and reused.",
                "Reuse grows when later tasks build on what earlier ones reserved.",
            )
        )  # fmt: skip
    if has_gates(result):
        more.append(
            drawn(
                folder, f"{name}-gates", partial(figures.gate_values, result),
                f"Gate values of {label} over the epochs of the last task, for each masked layer.",
                "Gates start at 0.5 and have to become binary before the task ends.",
            )
        )  # fmt: skip
    if figures.loss_names(result):
        terms = ", ".join(f"{phase} {loss}" for phase, loss in figures.loss_names(result))
        more.append(
            drawn(
                folder, f"{name}-losses", partial(figures.loss_curves, result),
                f"Line charts of the losses of {label} over all epochs: {terms}.",
                "Every loss term as it was recorded, once per epoch.",
            )
        )  # fmt: skip
    return out, more


def load_samples(found: FoundResult) -> tuple[int, np.ndarray, np.ndarray] | None:
    """The generated samples of the first finished seed whose file is there, as (seed, images, labels).

    Args:
        found: the result and its folder; a file outside that folder is not read.
    Returns:
        None where no seed names a readable file with uint8 images [C, n, channels, H, W] and labels [C].
    """
    for seed in done_seeds(found.result):
        images, labels = _sheet(_tensors(found.images(seed, "samples")))
        if images is not None and labels is not None:
            return int(seed["seed"]), images, labels
    return None


def load_sheets(found: FoundResult) -> tuple[int, list[np.ndarray]] | None:
    """The first seed with samples, and its images [C, n, channels, H, W] after each task; None where one lacks."""
    for seed in done_seeds(found.result):
        path = found.images(seed, "samples")
        if path is None:
            continue
        n = len(found.result["tasks"])
        sheets = [_sheet(_tensors(path.with_name(f"samples-{t}.safetensors")))[0] for t in range(1, n + 1)]
        whole = [s for s in sheets if s is not None]
        return (int(seed["seed"]), whole) if len(whole) == n else None
    return None


def _sheet(tensors: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """Images uint8 [C, n, channels, H, W] and labels [C] of a file of samples; None where it holds something else."""
    images, labels = tensors.get("images"), tensors.get("labels")
    if images is None or labels is None or images.ndim != 5 or images.dtype != "uint8" or not images.size:
        return None, None
    return (images, labels) if labels.shape == images.shape[:1] else (None, None)


def mistakes(found: FoundResult, most: int = 24) -> tuple[str, list[tuple[str, str]]] | None:
    """Test images that the first finished seed whose file is there took for another class.

    Returns:
        What they are, in words, and of each its PNG as a data URI and what it is and was taken for; None without any.
    """
    from PIL import Image  # for these alone

    names = [str(c) for c in found.result["data"].get("class_names") or []]
    for seed in done_seeds(found.result):
        tensors = _tensors(found.images(seed, "mistakes"))
        if not {"images", "labels", "predicted"} <= set(tensors):
            continue
        images, *pairs = (tensors[name] for name in ("images", "labels", "predicted"))
        if images.ndim != 4 or images.dtype != "uint8" or not images.size:
            continue
        if any(p.dtype.kind not in "iu" or p.shape != images.shape[:1] for p in pairs):
            continue
        if not all(((p >= 0) & (p < len(names))).all() for p in pairs):
            continue
        out = []
        for image, true, taken in list(zip(images, *pairs, strict=True))[:most]:
            file = io.BytesIO()
            Image.fromarray(image.transpose(1, 2, 0) if len(image) == 3 else image[0]).save(file, "PNG")
            uri = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
            out.append((uri, f"{names[true]}, taken for {names[taken]}"))
        words = (
            f"Of seed {seed['seed']}, at most two of a class, among the first 200 test images of each task."
        )
        return words, out
    return None


def _tensors(path: Path | None) -> dict[str, Any]:
    """The arrays by name of a seed's file, none where it is missing; ``EngramError`` where it is damaged."""
    # For images alone.
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if path is None or not path.exists():
        return {}
    try:
        return load_file(path)
    except SafetensorError as error:
        raise EngramError(
            f"{path} must be a file of safetensors, it is not ({reason(error)}): take it away, and the page does "
            "without its images."
        ) from error


def _each(results: Sequence[Result], key: str, scale: float, unit: str) -> str:
    return ", ".join(
        f"{r['label']} {number((r['summary'][key] or {}).get('mean'), scale=scale)}{unit}" for r in results
    )
