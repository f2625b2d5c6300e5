"""The report page: one self-contained HTML file that opens offline, reads in the dark, and prints."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from engram.core.yaml_files import as_yaml
from engram.report.figures_cost import cost_table
from engram.report.figures_sweep import chosen_words, sweep_table
from engram.report.figures_tradeoff import measures_table, points_table
from engram.report.picture import Picture, slug
from engram.report.table import accuracy_table, class_table, headline_table, matrix_table, seed_table
from engram.report.words import scenario_words, sentence, setting_words, spread_words, task_names

if TYPE_CHECKING:
    import jinja2

__all__ = ["render", "template"]

Result = Mapping[str, Any]
MOST_COLUMNS = 8  # results beside each other in the table of classes


@functools.cache
def template() -> jinja2.Template:
    """The page without its content."""
    import jinja2  # 0.1 s, for a page alone

    text = resources.files("engram.report").joinpath("template.html.j2").read_text(encoding="utf-8")
    return jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(text)


def render(
    results: Sequence[Result],
    overview: Sequence[Picture],
    details: Sequence[tuple[Sequence[Picture], Sequence[Picture]]],
    mistakes: Sequence[tuple[str, Sequence[tuple[str, str]]] | None],
    sweep: Mapping[str, Any] | None = None,
    sweep_pictures: Sequence[Picture] = (),
    analyses: Sequence[Picture] = (),
    tradeoff: Mapping[str, Any] | None = None,
    tradeoff_pictures: Sequence[Picture] = (),
    *,
    shown: str = "",
) -> str:
    """The page as a string, a pure function of its arguments.

    Args:
        results: results of schema 1 with distinct labels, in display order.
        overview: figures that hold all results.
        details: figures of each result, in the same order: those of its accuracy, and diagnostics.
        mistakes: images of each result that were taken for another class, in words and as data URIs with words.
        sweep: what a sweep found where the results are trials; the page shows the chosen one in full.
        sweep_pictures: figures of the sweep.
        analyses: figures of the analyses that the data allow.
        tradeoff: what a trade-off found where the results are points of its curves.
        tradeoff_pictures: figures of the trade-off.
        shown: a word for all of this, by which a later call sees whether anything has changed.
    Returns:
        HTML with images as data URIs, no script, and no reference to anything outside.
    """
    methods = [
        {
            "label": str(result["label"]),
            "anchor": f"method-{index + 1}-{slug(str(result['label']))}",
            "facts": {
                **(result.get("facts") or {}),
                "may read": result["protocol"].get("reads", "not recorded"),
            },
            "pictures": pictures[0],
            "diagnostics": pictures[1],
            "mistakes": wrong,
            "classes": class_table([result]),
            "matrix": matrix_table(result) if result["summary"]["n"] else None,
            "seeds": seed_table(result),
            "config": as_yaml(dict(result["config"])),
        }
        for index, (result, pictures, wrong) in enumerate(zip(results, details, mistakes, strict=True))
    ]
    return template().render(
        title=setting_words(results),
        shown=shown,
        kind=_kind(results, sweep, tradeoff),
        sweep=None if sweep is None else (sweep_table(sweep), chosen_words(sweep), sweep_pictures),
        tradeoff=None
        if tradeoff is None
        else (measures_table(tradeoff), points_table(tradeoff), tradeoff_pictures),
        tiles=_tiles(results),
        sentence=sentence(results),
        headline=headline_table(results),
        classes=class_table(results) if 1 < len(results) <= MOST_COLUMNS else None,
        spread=spread_words(results),
        accuracy=accuracy_table(results),
        cost=cost_table(results),
        overview=overview,
        analyses=analyses,
        methods=methods,
        setting=_setting(results),
        notes=list(dict.fromkeys(str(n) for r in results for n in r["data"].get("notes") or [])),
        tasks=_tasks(results[0]),
        version=_several([r.get("engram", "unknown") for r in results]),
    )


def _kind(
    results: Sequence[Result], sweep: Mapping[str, Any] | None, tradeoff: Mapping[str, Any] | None
) -> str:
    if tradeoff is not None:
        return f"Trade-off between {tradeoff['source']} and {tradeoff['target']}"
    if sweep is not None:
        return f"Sweep of {sweep['method']} over {', '.join(sweep['over'])}"
    return "Comparison" if len(results) > 1 else f"Run of {results[0]['label']}"


def _several(values: Sequence[Any]) -> str:
    return " / ".join(dict.fromkeys(str(v) for v in values))


def _tiles(results: Sequence[Result]) -> list[tuple[str, str]]:
    tiles = [
        ("Data", _several([r["data"].get("name", "not recorded") for r in results])),
        ("Scenario", _several([scenario_words(r) for r in results])),
        ("Tasks", _several([len(r["tasks"]) for r in results])),
        ("Classes", _several([r["data"].get("n_classes", "–") for r in results])),
        ("Finished seeds", _several([r["summary"]["n"] for r in results])),
        ("Device", _several([r["device"].get("class", "not recorded") for r in results])),
    ]
    return tiles


def _setting(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Protocol, data and device, each value once, and by method where methods differ."""
    rows = []
    for group, keys in (
        ("protocol", dict.fromkeys(k for r in results for k in r["protocol"])),
        ("data", ("name", "fingerprint", "n_classes", "image_shape")),
        ("device", dict.fromkeys(k for r in results for k in r["device"])),
    ):
        for key in keys:
            values = [_plain_words(r[group].get(key, "not recorded")) for r in results]
            if len(set(values)) == 1:
                text = values[0]
            else:
                text = "; ".join(f"{r['label']}: {v}" for r, v in zip(results, values, strict=True))
            rows.append((f"{group}: {str(key).replace('_', ' ')}", text))
    return rows


def _plain_words(value: Any) -> str:
    return " × ".join(map(str, value)) if isinstance(value, list) else str(value)


def _tasks(result: Result) -> list[tuple[str, str, str]]:
    names = task_names(result, limit=60)
    return [
        (name, str(task.get("n_train", "–")), str(task.get("n_test", "–")))
        for name, task in zip(names, result["tasks"], strict=True)
    ]
