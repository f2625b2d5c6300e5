"""The analyses of the SI paper on made-up results, against numbers worked out by hand; the surrogate on a small run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engram.checks import tiny_domains
from engram.core.files import with_checksum
from engram.errors import EngramError
from engram.recipes.published import CIFAR, PERMUTED_MNIST
from engram.report.analyses import accuracies, omegas, paths, surrogate
from engram.report.analyses.sections import analysis_pictures
from engram.studies.results import seed_result, summarise


def made(
    label: str,
    matrices: list[Any],
    *,
    method: str = "si",
    scenario: str = "task",
    stream: str = "class-incremental mnist",
    name: str = "mnist",
    tasks: list[dict[str, Any]] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """A result with the given accuracy matrices, one a seed."""
    n = len(matrices[0])
    seeds = [seed_result(s, m, tasks=tasks or []) for s, m in enumerate(matrices)]
    return {
        "method": method,
        "label": label,
        "config": {"method": {"name": method, "options": options}},
        "protocol": {"scenario": scenario},
        "data": {"name": name, "stream": stream},
        "tasks": [{"index": i, "class_names": [str(i)]} for i in range(n)],
        "seeds": seeds,
        "summary": summarise(seeds),
    }


def lower(n: int, value: float = 0.9) -> list[list[float | None]]:
    return [[value if j <= i else None for j in range(n)] for i in range(n)]


def test_accuracy_of_each_task_and_their_average():
    result = made("si", [[[1.0, None], [0.5, 0.9]], [[0.8, None], [0.7, 0.7]]])
    first, second, average = accuracies.per_task(result)
    assert (first.x, second.x, average.x) == ((1, 2), (2,), (1, 2))
    assert first.mean == pytest.approx((90.0, 60.0))
    assert second.mean == pytest.approx((80.0,))
    assert average.mean == pytest.approx((90.0, 70.0))
    assert first.n == 2
    assert first.ci95[0] is not None
    last = accuracies.final_accuracies(result)
    assert last.mean == pytest.approx((60.0, 80.0, 70.0))
    unfinished = made("si", [lower(2)])
    unfinished["seeds"][0]["status"] = "failed"
    with pytest.raises(ValueError, match="no seed of si"):
        accuracies.per_task(unfinished)


def test_joint_training_counts_where_it_was_trained():
    values = lower(5)
    joint = made("joint", [values], method="joint", at=[1, 3])
    assert accuracies.against_tasks(joint).x == (1, 3, 5)
    assert accuracies.against_tasks(made("joint", [values], method="joint")).x == (1, 2, 3, 4, 5)
    assert accuracies.against_tasks(made("si", [values], at=[1])).x == (1, 2, 3, 4, 5)


def test_the_authors_curve_stands_beside_their_problem_only():
    there = made("si", [lower(10)], scenario="domain", stream="permuted mnist")
    curve = accuracies.authors_curve([there])
    assert curve is not None
    assert (curve.mean[0], curve.mean[-1]) == (98.30, 96.94)
    assert "n = 1" in curve.label
    assert accuracies.authors_curve([made("si", [lower(9)], stream="permuted mnist")]) is None
    assert (
        accuracies.authors_curve([made("si", [lower(10)], stream="permuted digits", name="digits")]) is None
    )
    for changed in ({"max_per_class": 30}, {"image_size": 14}):
        other = made("si", [lower(10)], stream="permuted mnist")
        other["config"]["data"] = changed
        assert accuracies.authors_curve([other]) is None


def test_stored_figures_agree_with_the_published_means():
    assert PERMUTED_MNIST[0.0][-1] == 57.41
    means = {name: round(sum(v) / 6, 1) for name, v in CIFAR.items()}
    assert means == {"c = 0.01": 73.5, "c = 0.1": 72.0, "c = 0": 62.5, "from scratch": 71.1}


def correlated(values: tuple[float, float, float]) -> list[dict[str, Any]]:
    a, b, c = values
    return [
        {omegas.KEY: {"trunk": [1.0], "head": [1.0]}},
        {omegas.KEY: {"trunk": [a, 1.0], "head": [None, 1.0]}},
        {omegas.KEY: {"trunk": [b, c, 1.0], "head": [None, None, 1.0]}},
    ]


def test_correlation_matrices():
    result = made("si", [lower(3)], tasks=correlated((0.3, 0.1, 0.2)))
    found = omegas.correlations(result)
    assert list(found) == ["trunk"]  # the head grew, so that it has no matrix
    assert np.allclose(found["trunk"], [[1, 0.3, 0.1], [0.3, 1, 0.2], [0.1, 0.2, 1]])
    assert omegas.mean_between_tasks(found["trunk"]) == pytest.approx(0.2)
    assert omegas.correlations(made("si", [lower(3)])) == {}


@pytest.mark.parametrize(
    ("stream", "scenario", "name", "expected"),
    [
        ("class-incremental mnist", "task", "mnist", {"task-panels"}),
        ("permuted mnist", "domain", "mnist", {"tasks"}),
        ("sequence cifar10, x", "task", "cifar10 and x", {"task-bars", "task-panels"}),
        ("class-incremental mnist", "class", "mnist", set()),
    ],
)
def test_sections_that_the_data_allow(
    tmp_path: Path, stream: str, scenario: str, name: str, expected: set[str]
):
    more = {"stream": stream, "scenario": scenario, "name": name}
    results = [
        made("si", [lower(3), lower(3, 0.8)], **more),
        made("finetune", [lower(3)], method="finetune", **more),
    ]
    assert {p.name for p in analysis_pictures(results, tmp_path, tmp_path / "figures")} == expected
    assert {p.stem for p in tmp_path.glob("figures/*.svg")} == expected
    only = [r for r in results if r["method"] != "si"]
    assert analysis_pictures(only, tmp_path, tmp_path / "none") == []


def test_marks_of_the_authors(tmp_path: Path):
    parts = [f"cifar100:{k}-{k + 9}" for k in range(0, 50, 10)]
    result = made("si", [lower(6)], stream="sequence", name=" and ".join(["cifar10", *parts]))
    labels = accuracies.task_bars([result]).axes[0].get_legend_handles_labels()[1]
    assert any("authors' stored runs, n = 5" in label for label in labels)
    permuted = made("si", [lower(10)], scenario="domain", stream="permuted mnist")
    joint = made("joint", [lower(10), lower(10, 0.8)], method="joint", at=[1, 10])
    never = made("joint 2", [lower(10)], method="joint", at=[11])
    figure = accuracies.tasks_figure([permuted, joint, never])
    assert any("authors' stored run, n = 1" in x for x in figure.axes[0].get_legend_handles_labels()[1])


def test_omegas_and_surrogate_get_pictures(tmp_path: Path):
    n = 3
    result = made("si", [lower(n)], scenario="class", tasks=correlated((0.3, 0.1, 0.2)))
    measured = paths.Paths(1.0, 1e-3, 0.1, 1, 0, "x", *([[1.0, 0.5]] * 7))
    (tmp_path / paths.FILE).write_text(json.dumps(with_checksum(asdict(measured))))
    pictures = analysis_pictures([result], tmp_path, tmp_path / "figures")
    assert [p.name for p in pictures] == ["omega-correlations", "surrogate"]
    assert "trunk 0.20" in pictures[0].alt
    edited = {**with_checksum(asdict(measured)), "c": 2.0}
    for wrong, why in ((json.dumps(edited), "does not match its checksum"), ("[]", "expected object")):
        (tmp_path / paths.FILE).write_text(wrong)
        with pytest.raises(EngramError, match=rf"is not a file of the surrogate analysis .*{why}"):
            analysis_pictures([result], tmp_path, tmp_path / "figures")


def test_surrogate_has_the_paths_drop_and_its_minimum_at_the_end():
    measured = surrogate.measure(tiny_domains(2), hidden=(8,), steps=60, c=0.0, xi=1e-9, lr=0.02)
    assert len(measured.first_true) == len(measured.second_true) == 61
    assert measured.first_surrogate[-1] == pytest.approx(measured.first_true[-1])
    assert measured.second_surrogate[0] == pytest.approx(measured.second_true[0])
    drop, claimed = (v[0] - v[-1] for v in (measured.first_true, measured.first_surrogate))
    assert drop > 0.05
    assert claimed == pytest.approx(drop, rel=0.1)
    assert min(measured.first_surrogate) == measured.first_surrogate[-1]
