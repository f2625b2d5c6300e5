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
from engram.report.comparable import comparable
from engram.studies.results import (
    read,
    read_entry,
    read_result,
    read_study,
    seed_result,
    summarise,
    write_study,
)


def old(path: Path, data: Mapping[str, Any]) -> Path:
    """A result file of schema 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"schema": 1, **data}))
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    data = synthetic.result("dgmw")
    back = read_result(synthetic.write(tmp_path, {".": data}))
    assert back["seeds"] == json.loads(json.dumps(data["seeds"]))
    assert {k: back[k] for k in data if k != "config"} == {k: v for k, v in data.items() if k != "config"}
    assert back["config"]["data"] == data["config"]["data"]
    assert back["config"]["seeds"] == [0, 1, 2]
    assert back["summary"] == summarise(data["seeds"])
    study = read_study(tmp_path)
    write_study(tmp_path / "again", {k: v for k, v in study.items() if k != "schema"})
    assert (tmp_path / "again" / "study.json").read_bytes() == (tmp_path / "study.json").read_bytes()


def test_results_of_the_schema_before_are_read(tmp_path: Path) -> None:
    a, b = synthetic.result("dgmw"), synthetic.result("icarl", n_seeds=1)
    alone = old(tmp_path / "run" / "results.json", a)
    assert read_result(alone) == read_result(alone.parent)
    assert read(alone.parent).kind == "run"
    for name, data in (("b", b), ("a", a)):
        old(tmp_path / "two" / name / "results.json", data)
    both = read(tmp_path / "two")
    assert (both.kind, [f.result["method"] for f in both.results]) == ("comparison", ["dgmw", "icarl"])
    old(tmp_path / "sweep" / "trials" / "lr=1" / "results.json", a)
    (tmp_path / "sweep" / "sweep.json").write_text('{"schema": 1, "trials": []}')
    assert (read(tmp_path / "sweep").kind, len(read(tmp_path / "sweep").results)) == ("sweep", 1)
    (tmp_path / "sweep" / "sweep.json").write_text('{"schema": 3}')
    with pytest.raises(EngramError, match="another version"):
        read(tmp_path / "sweep")


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "reproductions").glob("*/*.json")))
def test_the_stored_reproductions_are_read(path: Path) -> None:
    if path.parent.name.endswith(("-sweeps", "-strength", "-c")) or path.stem == "tradeoff":
        pytest.skip("what a sweep or a trade-off concluded, without its runs")
    assert read_result(path)["summary"]["n"] > 0


def test_a_seed_that_has_not_ended_or_is_of_another_run_is_unfinished(tmp_path: Path) -> None:
    root = synthetic.write(tmp_path, {".": synthetic.result("finetune", n_seeds=3)})
    (root / "seed-0" / "seed.json").unlink()
    other = json.loads((root / "seed-1" / "seed.json").read_text())
    (root / "seed-1" / "seed.json").write_text(json.dumps({**other, "identity": "another"}))
    assert read_entry(root / "seed-1", ".") is None
    result = read_result(root)
    assert [s["status"] for s in result["seeds"]] == ["unfinished", "unfinished", "done"]
    assert result["summary"]["seeds"] == [2]


def test_nan_becomes_null(tmp_path: Path) -> None:
    phase = {"phase": "fit", "epochs": [{"losses": {"net/x": np.float32("inf")}}]}
    data = synthetic.result("finetune", n_seeds=1)
    data["seeds"] = [seed_result(0, data["seeds"][0]["accuracy_matrix"], tasks=[{"phases": [phase]}])]
    data["config"]["nan"] = math.nan

    def refuse(name: str) -> None:
        raise AssertionError(name)

    root = synthetic.write(tmp_path, {".": data})
    for path in (root / "study.json", root / "seed-0" / "seed.json"):
        json.loads(path.read_text(), parse_constant=refuse)
    back = read_result(root)
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
    assert read_result(synthetic.write(tmp_path, {".": data}))["summary"]["n"] == 2


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
    with pytest.raises(EngramError, match=r"no study\.json"):
        read(tmp_path)
    with pytest.raises(EngramError, match="not a folder"):
        read(tmp_path / "nothing")
    data = synthetic.result("icarl", n_seeds=1)
    data["tasks"].pop()
    with pytest.raises(EngramError, match="5x5 matrix"):
        read(synthetic.write(tmp_path / "a", {".": data}))
    data = synthetic.result("icarl", n_seeds=1)
    data["seeds"][0]["status"] = "great"
    with pytest.raises(EngramError, match="status"):
        read(synthetic.write(tmp_path / "b", {".": data}))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"schema": 1}, "reads schema 2"),
        ({"kind": None}, '"kind" must be a str'),
        ({"variants": [{"label": "x"}]}, "a variant in it is incomplete"),
        ({"found": []}, '"found" must be a dict'),
        ({"last": []}, "what was asked last is incomplete"),
        ({"last": {"asked": "x", "complete": True}}, '"labels" must be a list, got NoneType'),
        ({"last": {"asked": "x", "complete": True, "labels": [5]}}, "labels must be text"),
        ({"engram": None}, 'a variant in it is incomplete: "engram" must be a str'),
        ({"seeds": ["a"]}, "seeds must be integers"),
    ],
)
def test_a_study_that_is_none(tmp_path: Path, change: Mapping[str, Any], match: str) -> None:
    root = synthetic.write(tmp_path, {".": synthetic.result("icarl", n_seeds=1)})
    study = json.loads((root / "study.json").read_text())
    study["variants"][0] |= {k: v for k, v in change.items() if k in ("engram", "seeds")}
    (root / "study.json").write_text(json.dumps({**study, **change}))
    with pytest.raises(EngramError, match=match) as caught:
        read(root)
    assert "\n" not in str(caught.value)


def test_results_are_found_by_study_and_by_folder(tmp_path: Path) -> None:
    made = {name: synthetic.result(name, n_seeds=1) for name in ("dgmw", "icarl")}
    synthetic.write(tmp_path, {f"at/{name}": data for name, data in made.items()})
    assert [f.result["method"] for f in read(tmp_path).results] == ["dgmw", "icarl"]
    assert read_result(tmp_path / "at" / "icarl")["method"] == "icarl"
    with pytest.raises(EngramError, match="the folder of one variant"):
        read_result(tmp_path)


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
