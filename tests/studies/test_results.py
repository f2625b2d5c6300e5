"""Result files: schema round trip, NaN as null, summaries against scipy, what makes results incomparable."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import synthetic
from engram.errors import DataError, EngramError
from engram.studies.results import (
    comparable,
    find_results,
    read_result,
    seed_result,
    summarise,
    write_result,
)


def test_round_trip(tmp_path: Path) -> None:
    data = synthetic.result("dgmw")
    path = write_result(tmp_path / "run" / "results.json", data)
    back = read_result(path)
    assert back == read_result(path.parent)
    assert back["seeds"] == json.loads(json.dumps(data["seeds"]))
    assert back["schema"] == 1
    keys = list(json.loads(path.read_text()))
    assert keys[0] == "schema"
    assert keys[-1] == "summary"
    again = write_result(tmp_path / "again.json", back)
    assert again.read_bytes() == path.read_bytes()
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


def test_nan_becomes_null(tmp_path: Path) -> None:
    data = synthetic.result("finetune", n_seeds=1)
    data["seeds"][0]["tasks"][0]["phases"][0]["epochs"][0]["losses"]["net/x"] = np.float32("inf")
    data["config"]["nan"] = math.nan
    path = write_result(tmp_path, data)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    back = json.loads(path.read_text(), parse_constant=refuse)
    assert back["seeds"][0]["accuracy_matrix"][0][1:] == [None] * 4
    assert back["seeds"][0]["forgetting"][0] is None
    assert back["seeds"][0]["tasks"][0]["phases"][0]["epochs"][0]["losses"]["net/x"] is None
    assert back["config"]["nan"] is None


def test_summary_matches_scipy() -> None:
    seeds = synthetic.result("icarl", n_seeds=4)["seeds"]
    summary = summarise(seeds)
    finals = [s["final_average_accuracy"] for s in seeds]
    final = summary["final_average_accuracy"]
    assert final["mean"] == pytest.approx(np.mean(finals))
    assert final["sd"] == pytest.approx(np.std(finals, ddof=1))
    assert final["ci95"] == pytest.approx(stats.t.interval(0.95, 3, np.mean(finals), stats.sem(finals)))
    assert final["worst"] == min(finals)
    assert summary["n"] == final["n"] == 4
    assert summary["forgetting"]["mean"][0] is None
    column = [s["average_accuracy"][2] for s in seeds]
    assert summary["average_accuracy"]["mean"][2] == pytest.approx(np.mean(column))


def test_failed_seed_is_excluded_and_named() -> None:
    seeds = synthetic.result("finetune", n_seeds=2, failed=True)["seeds"]
    summary = summarise(seeds)
    assert summary == {**summarise(seeds[:2]), "excluded": summary["excluded"]}
    assert summary["seeds"] == [0, 1]
    assert summary["excluded"][0]["seed"] == 2
    assert "not finite" in summary["excluded"][0]["error"]


def test_one_seed_has_no_interval_and_none_has_no_mean() -> None:
    one = summarise(synthetic.result("icarl", n_seeds=1)["seeds"])
    assert one["final_average_accuracy"]["ci95"] is None
    assert one["final_average_accuracy"]["sd"] is None
    none = summarise([seed_result(0, [], status="failed", error="diverged.")])
    assert none["n"] == 0
    assert none["final_average_accuracy"] is None


def test_the_summary_is_never_stale(tmp_path: Path) -> None:
    data = synthetic.result("icarl", n_seeds=2)
    data["summary"] = {"n": 99}
    assert read_result(write_result(tmp_path, data))["summary"]["n"] == 2


def test_seed_result_derives_and_refuses() -> None:
    entry = seed_result(3, [[0.9, None], [0.6, 0.8]])
    assert entry["final_average_accuracy"] == pytest.approx(0.7)
    assert entry["final_forgetting"] == pytest.approx(0.3)
    with pytest.raises(DataError, match="one row per task"):
        seed_result(0, [[0.9, None]])
    with pytest.raises(DataError, match="status"):
        seed_result(0, [[0.9]], status="ok")
    unfinished = seed_result(0, [[0.9, None]], status="unfinished")
    assert unfinished["final_average_accuracy"] is None
    assert unfinished["average_accuracy"] == [0.9]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("no json", "not JSON"),
        ("[]", "schema"),
        ('{"schema": 2}', "reads schema 1"),
        ('{"schema": 1}', '"method"'),
    ],
)
def test_not_a_result(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(EngramError, match=match) as caught:
        read_result(path)
    assert "\n" not in str(caught.value)


def test_missing_or_malformed(tmp_path: Path) -> None:
    with pytest.raises(EngramError, match="cannot read"):
        read_result(tmp_path / "nothing.json")
    with pytest.raises(EngramError, match=r"no results\.json"):
        find_results(tmp_path)
    with pytest.raises(EngramError, match="not a folder"):
        find_results(tmp_path / "nothing")
    data = synthetic.result("icarl", n_seeds=1)
    data["tasks"].pop()
    with pytest.raises(EngramError, match="5x5 matrix"):
        write_result(tmp_path, data)
    data = synthetic.result("icarl", n_seeds=1)
    data["seeds"][0]["status"] = "great"
    with pytest.raises(EngramError, match="status"):
        write_result(tmp_path, data)
    assert not list(tmp_path.iterdir())


def test_find_results(tmp_path: Path) -> None:
    write_result(tmp_path / "b" / "results.json", synthetic.result("icarl", n_seeds=1))
    write_result(tmp_path / "a" / "results.json", synthetic.result("dgmw", n_seeds=1))
    assert [f.result["method"] for f in find_results(tmp_path)] == ["dgmw", "icarl"]
    assert [f.directory for f in find_results(tmp_path / "a")] == [tmp_path / "a"]


def test_comparable() -> None:
    a, b = synthetic.result("dgmw"), synthetic.result("dgmw")
    b["label"] = "other"
    assert comparable([a]) == []
    assert comparable([a, b]) == []
    b["data"]["fingerprint"] = "sha256:other"
    b["tasks"][0]["classes"] = [7]
    b["protocol"]["scenario"] = "task"
    b["protocol"]["reads"] = "all"
    b["seeds"] = b["seeds"][:2]
    b["device"]["class"] = "cuda"
    for seed in b["seeds"]:
        for task in seed["tasks"]:
            task["phases"] = task["phases"][:1]
        seed["stored_real_samples"] = 10
        seed["acc_gen"] = None
    text = "\n".join(comparable([a, b]))
    words = [
        "fingerprint",
        "task split",
        "scenario",
        "reads",
        "seeds",
        "device",
        "stored real",
        "budget",
        "acc_gen",
    ]
    for word in words:
        assert word in text
    assert len(comparable([a, b])) == 9


def budgets(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    return [reason for reason in comparable([a, b]) if "budget" in reason]


def trained(
    label: str, epochs: int, phase: str = "fit", reads: str = "task", **options: Any
) -> dict[str, Any]:
    """A result whose every task has one phase of that many epochs; 280 samples a task."""
    made = synthetic.result("finetune")
    made["label"], made["protocol"]["reads"] = label, reads
    made["config"]["method"] = {"name": label, "options": {"epochs": epochs, "batch_size": 64, **options}}
    for seed in made["seeds"]:
        for task in seed["tasks"]:
            task["phases"] = [{"phase": phase, "epochs": task["phases"][0]["epochs"][:1] * epochs}]
    return made


def test_a_training_budget_differs_where_passes_do_not_where_options_are_called_otherwise() -> None:
    plain = trained("plain", 20, later_epochs=None)
    assert budgets(plain, trained("other", 20, solver_epochs=4, warmup_epochs=1)) == []
    assert budgets(plain, trained("other", 22, later_epochs=None)) == []
    (reason,) = budgets(plain, trained("other", 23))
    assert "(plain: 20; other: 23)" in reason
    # Blocks: 35 steps of 64 are 8 passes over 280 samples.
    assert budgets(trained("a", 8), trained("b", 1, steps_per_epoch=35)) == []
    assert len(budgets(trained("a", 1), trained("b", 1, steps_per_epoch=35))) == 1
    solver = trained("b", 1, "solver", solver_steps=35, solver_batch=128)
    assert "b: 16)" in budgets(trained("a", 1), solver)[0]
    # A method that reads all data has more to pass over at each task.
    (reason,) = budgets(trained("a", 8), trained("b", 1, reads="all", steps_per_epoch=35))
    assert f"b: {8 * (1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 5:.3g})" in reason


def test_a_budget_without_recorded_phases_is_the_configured_one() -> None:
    a, b = trained("a", 20), trained("b", 30)
    for result in (a, b):
        for seed in result["seeds"]:
            for task in seed["tasks"]:
                del task["phases"]
    assert "(a: 20; b: 30)" in budgets(a, b)[0]
    del a["config"]["method"], b["config"]["method"]
    assert budgets(a, b) == []
