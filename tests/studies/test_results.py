"""Result files: schema round trip, NaN as null, summaries against scipy, what makes results incomparable."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import synthetic
from engram.core.files import with_checksum
from engram.errors import DataError, EngramError
from engram.report.analyses.omegas import correlations
from engram.report.comparable import comparable
from engram.report.figures_sweep import sweep_table
from engram.report.figures_tradeoff import measures_table
from engram.report.html import render
from engram.report.plasticity import has_gates, has_growth, has_mask_use
from engram.studies.results import (
    read,
    read_entry,
    read_result,
    read_study,
    seed_result,
    summarise,
    write_entry,
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
    assert back["edited"] == back["no_checksum"] == []
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


def old_sweep(root: Path) -> Path:
    """A sweep of schema 1 over lr, of which the second trial is the better one on validation data."""
    trials = []
    for lr, better in ((1.0, 0.9), (2.0, 0.95)):
        made = synthetic.result("finetune", n_seeds=2)
        for seed in made["seeds"]:
            seed["valid_matrix"] = [[better] * 5] * 5
        old(root / "trials" / f"lr={lr:g}" / "results.json", made)
        trials.append({"name": f"lr={lr:g}", "folder": f"trials/lr={lr:g}", "options": {"lr": lr}})
    said = {"method": "finetune", "over": {"lr": {"values": [1.0, 2.0]}}, "engine": {"name": "grid"}}
    said |= {"seeds": [0, 1], "rule": {"name": "valid_all"}, "trials": trials, "chosen": {"name": "lr=1"}}
    (root / "sweep.json").write_text(json.dumps({"schema": 1, **said}))
    return root


def old_tradeoff(root: Path) -> Path:
    """A trade-off of schema 1: fine-tuning, and two points of a curve over lwf's strength."""
    curves = []
    for method, points in (("finetune", {"": (0.5, 0.9)}), ("lwf", {"1": (0.6, 0.8), "10": (0.9, 0.5)})):
        curve = {"label": method, "method": method, "folder": method, "facts": {}, "options": {"lr": 0.1}}
        curve |= {
            "option": "strength" if "1" in points else None,
            "scale": None,
            "centre": None,
            "points": [],
        }
        for value, (source, target) in points.items():
            made = synthetic.result(method, n_seeds=1, n_tasks=2)
            made["seeds"] = [seed_result(0, [[0.95, None], [source, target]])]
            folder = f"trials/strength={value}" if value else "."
            old(root / method / folder / "results.json", made)
            point = {"name": f"strength={value}", "folder": folder, "value": float(value) if value else None}
            curve["points"].append(point)
        curves.append(curve)
    said = {"source": "a", "target": "b", "seeds": [0], "points": 9, "widen": 0, "required": [75.0]}
    said |= {"finetune_beside": False, "recipe": None, "methods": curves}
    (root / "tradeoff.json").write_text(json.dumps({"schema": 1, **said}))
    return root


def test_what_a_study_of_the_schema_before_found_is_computed_anew(tmp_path: Path) -> None:
    sweep = read(old_sweep(tmp_path / "sweep"))
    assert (sweep.kind, len(sweep.results)) == ("sweep", 2)
    assert sweep.found["chosen"]["name"] == "lr=2"
    assert [t["status"] for t in sweep.found["trials"]] == ["done", "done"]
    assert sweep.found["no_checksum"] == ["results.json", "sweep.json"]
    tradeoff = read(old_tradeoff(tmp_path / "tradeoff"))
    assert tradeoff.kind == "tradeoff"
    tuned, lwf = tradeoff.found["methods"]
    assert tradeoff.found["finetuned_target"]["mean"] == pytest.approx(0.9)
    assert (tuned["m1"]["mean"], lwf["m1"]["mean"]) == (pytest.approx(0.7), pytest.approx(0.7))
    assert lwf["m2"][-1]["measure"]["mean"] == pytest.approx(0.6 + 0.3 * (0.8 - 0.75) / 0.3)
    for table in (sweep_table(sweep.found), measures_table(tradeoff.found)):
        assert any("results.json" in note and "without a checksum" in note for note in table.footnotes)
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
    write_entry(
        root / "seed-1", "another", {k: v for k, v in other.items() if k not in ("identity", "sha256")}
    )
    assert read_entry(root / "seed-1", other["identity"], 5) is None
    result = read_result(root)
    assert [s["status"] for s in result["seeds"]] == ["unfinished", "unfinished", "done"]
    assert result["summary"]["seeds"] == [2]


def test_nan_becomes_null(tmp_path: Path) -> None:
    phase = {"phase": "fit", "epochs": [{"losses": {"net/x": np.float32("inf")}}]}
    data = synthetic.result("finetune", n_seeds=1)
    data["seeds"] = [seed_result(0, data["seeds"][0]["accuracy_matrix"], tasks=[{"phases": [phase]}])]
    data["config"] |= {"nan": math.nan, "huge": 1e305}  # which no reader takes

    def refuse(name: str) -> None:
        raise AssertionError(name)

    root = synthetic.write(tmp_path, {".": data})
    for path in (root / "study.json", root / "seed-0" / "seed.json"):
        json.loads(path.read_text(), parse_constant=refuse)
    back = read_result(root)
    assert back["seeds"][0]["accuracy_matrix"][0][1:] == [None] * 4
    assert back["seeds"][0]["forgetting"][0] is None
    assert back["seeds"][0]["tasks"][0]["phases"][0]["epochs"][0]["losses"]["net/x"] is None
    assert back["config"]["nan"] is back["config"]["huge"] is None


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
        ('{"schema": 1}', "missing required field method"),
        ("[" * 10_000 + "]" * 10_000, "nested too deeply"),
        ('{"schema": ' + "[" * 100 + "]" * 100 + "}", "nested too deeply"),
        ('{"schema": NaN}', "not finite"),
        ('{"schema": 1e999}', "not finite"),
        ('{"schema": 1' + "0" * 400 + "}", "not finite"),
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
    os.mkfifo(tmp_path / "results.json")
    root = synthetic.write(tmp_path / "b", {".": synthetic.result("finetune", n_seeds=1)})
    (root / "seed-0" / "seed.json").unlink()
    os.mkfifo(root / "seed-0" / "seed.json")
    for path in (tmp_path / "results.json", root):  # which would keep us waiting
        with pytest.raises(EngramError, match="no regular file"):
            read_result(path)
    data = synthetic.result("icarl", n_seeds=1)
    data["tasks"].pop()
    with pytest.raises(EngramError, match="5x5 accuracy matrix, not 4x4"):
        read(synthetic.write(tmp_path / "a", {".": data}))
    data = synthetic.result("icarl", n_seeds=1)
    data["seeds"][0]["status"] = "great"
    with pytest.raises(EngramError, match="status"):
        read(synthetic.write(tmp_path / "b", {".": data}))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"schema": 1}, "reads schema 2"),
        ({"kind": None}, "expected str, got null at kind"),
        ({"kind": "race"}, "invalid enum value 'race' at kind"),
        ({"variants": [{"label": "x"}]}, "missing required field folder at variants"),
        ({"variants": []}, "length >= 1 at variants"),
        ({"found": []}, "expected object, got array at found"),
        ({"last": []}, "expected object, got array at last"),
        ({"last": {"asked": "x", "complete": True}}, "missing required field labels at last"),
        ({"last": {"asked": "x", "complete": True, "labels": [5]}}, "expected str, got int at last.labels"),
        ({"tasks": {}}, "expected array, got object at tasks"),
        ({"data": {"name": "x", "image_shape": "1x8x8"}}, "expected array, got str at data.image_shape"),
        ({"engram": None}, "expected str, got null at variants.*engram"),
        ({"seeds": ["a"]}, "expected int, got str at variants.*seeds"),
        ({"seeds": [0, 0]}, "the seeds of icarl must be distinct"),
        ({"folder": "../elsewhere"}, "its folders must lie within it"),
        ({"folder": "/etc"}, "its folders must lie within it"),
        ({"facts": 3}, "expected object, got int at variants.*facts"),
        ({"method": "finetune", "kind": "sweep"}, "missing required field method at variants|found"),
        ({"kind": "tradeoff"}, "missing required field source"),
    ],
)
def test_a_study_that_is_none(tmp_path: Path, change: Mapping[str, Any], match: str) -> None:
    root = synthetic.write(tmp_path, {".": synthetic.result("icarl", n_seeds=1)})
    study = json.loads((root / "study.json").read_text())
    study["variants"][0] |= {k: v for k, v in change.items() if k in study["variants"][0]}
    (root / "study.json").write_text(json.dumps(with_checksum({**without(study), **change})))
    with pytest.raises(EngramError, match=match) as caught:
        read(root)
    assert "\n" not in str(caught.value)


def without(value: Mapping[str, Any]) -> dict[str, Any]:
    """What a file holds beside its checksum."""
    return {k: v for k, v in value.items() if k != "sha256"}


def changed(path: Path, change: Callable[[Any], None], *, sealed: bool | None = None) -> None:
    """Change the content of a file; its checksum stays, is written anew (True), or taken off (False)."""
    value = json.loads(path.read_text())
    change(value)
    if sealed is not None:
        value = without(value)
    path.write_text(json.dumps(with_checksum(value) if sealed else value))


def better(entry: Any) -> None:
    entry["final_average_accuracy"] = 0.999


def better_matrix(entry: Any) -> None:
    entry["accuracy_matrix"][-1] = [0.5] * 5


def other_rate(study: Any) -> None:
    study["variants"][0]["config"]["method"]["lr"] = 5.0


@pytest.mark.parametrize(
    ("name", "change"),
    [("seed-0/seed.json", better), ("seed-0/seed.json", better_matrix), ("study.json", other_rate)],
)
def test_an_edited_file_is_refused_or_taken_and_said(tmp_path: Path, name: str, change: Any) -> None:
    root = synthetic.write(tmp_path, {".": synthetic.result("icarl", n_seeds=2)})
    before = read_result(root)["summary"]["final_average_accuracy"]["mean"]
    changed(root / name, change)
    with pytest.raises(EngramError, match=f"{name} must be as engram wrote it.*--accept-edited") as caught:
        read(root)
    assert "\n" not in str(caught.value)
    result = read_result(root, accept_edited=True)
    assert (result["edited"], result["no_checksum"]) == ([name], [])
    for seed in result["seeds"]:
        assert seed["final_average_accuracy"] == pytest.approx(np.mean(seed["accuracy_matrix"][-1]))
    after = result["summary"]["final_average_accuracy"]["mean"]
    assert (after != before) == (change is better_matrix)
    page = render([result], (), [((), ())], [None])
    assert "icarl (edited)" in page
    assert f"{name}: changed after engram wrote it" in page


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("seed-0/seed.json", better, "final_average_accuracy of seed 0 is 0.999 there and 0.8"),
        ("study.json", other_rate, "the settings of icarl"),
    ],
)
def test_a_file_without_checksum_must_agree_with_itself(
    tmp_path: Path, name: str, change: Any, match: str
) -> None:
    root = synthetic.write(tmp_path, {".": synthetic.result("icarl", n_seeds=2)})
    whole = read_result(root)
    changed(root / name, lambda value: None, sealed=False)
    marked = read_result(root)
    assert (marked["edited"], marked["no_checksum"]) == ([], [name])
    assert marked["summary"] == whole["summary"]
    assert f"icarl: {name}: without a checksum" in render([marked], (), [((), ())], [None])
    changed(root / name, change, sealed=False)
    with pytest.raises(EngramError, match=match):
        read(root)
    accepted = read_result(root, accept_edited=True)
    assert accepted["no_checksum"] == [name]
    assert accepted["summary"] == whole["summary"]


def test_a_result_that_was_put_aside_keeps_its_marks(tmp_path: Path) -> None:
    root = synthetic.write(tmp_path, {".": synthetic.result("icarl", n_seeds=2)})
    changed(root / "seed-0" / "seed.json", better)
    result = read_result(root, accept_edited=True)
    (tmp_path / "icarl.json").write_text(json.dumps(with_checksum(result)))
    again = read_result(tmp_path / "icarl.json")
    assert (again["edited"], again["no_checksum"]) == (["seed-0/seed.json"], [])
    assert again["summary"] == result["summary"]
    changed(tmp_path / "icarl.json", lambda value: value["seeds"].pop())
    with pytest.raises(EngramError, match=r"icarl\.json must be as engram wrote it"):
        read_result(tmp_path / "icarl.json")


def test_a_summary_that_contradicts_its_seeds_is_refused(tmp_path: Path) -> None:
    data = synthetic.result("icarl", n_seeds=2)
    good = summarise(data["seeds"])
    path = old(tmp_path / "results.json", {**data, "summary": good})
    assert read_result(path)["no_checksum"] == ["results.json"]
    good["final_average_accuracy"]["mean"] = 0.999
    old(path, {**data, "summary": good})
    with pytest.raises(EngramError, match="its summary"):
        read_result(path)
    assert read_result(path, accept_edited=True)["summary"] == summarise(data["seeds"])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda e: e.update(accuracy_matrix=3), "expected array, got int at accuracy_matrix"),
        (lambda e: e.update(accuracy_matrix=[[9.0] * 5] * 5), "<= 1.0 at accuracy_matrix"),
        (lambda e: e.update(accuracy_matrix=[[0.5] * 6] * 5), "5x6 accuracy matrix, not 5x5"),
        (lambda e: e.update(accuracy_matrix=[[0.5] * 5] * 4 + [[None] * 5]), "lacks the last row"),
        (lambda e: e.update(valid_matrix=[[0.5]]), "1x1 valid matrix"),
        (lambda e: e.update(acc_gen=[0.5]), "1 entries of acc_gen"),
        (lambda e: e.update(confusion=[[1, 2], [3]]), "squares of as many classes"),
        (lambda e: e.update(storage_bytes=[1]), "expected object, got array at storage_bytes"),
        (lambda e: e.update(seconds="long"), "expected float.*got str at seconds"),
        (lambda e: e.update(tasks=[{"phases": {}}] * 5), "expected array, got object at tasks"),
        (lambda e: e.pop("status"), "missing required field status"),
        (lambda e: e.update(samples="a\0b"), "at samples"),
    ],
)
def test_a_seed_of_another_form_is_one_line(tmp_path: Path, change: Any, match: str) -> None:
    root = synthetic.write(tmp_path, {".": synthetic.result("dgmw", n_seeds=2)})
    changed(root / "seed-0" / "seed.json", change, sealed=True)
    with pytest.raises(EngramError, match=match) as caught:
        read(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["growth", "mask_use", "omega_correlations", "gates"])
@pytest.mark.parametrize("value", [3, {"a": 1}, [[]], {"layer0": [None, "x"]}])
def test_logs_of_another_form_are_not_drawn(tmp_path: Path, key: str, value: Any) -> None:
    """A method of one's own reports what it likes."""
    root = synthetic.write(tmp_path, {".": synthetic.result("dgmw", n_seeds=1)})

    def change(entry: Any) -> None:
        for task in entry["tasks"]:
            task[key] = value
            task["phases"][0]["epochs"][0]["measures"]["gates"] = value if key == "gates" else None

    changed(root / "seed-0" / "seed.json", change, sealed=True)
    result = read_result(root)
    drawn = {
        "growth": has_growth,
        "mask_use": has_mask_use,
        "omega_correlations": correlations,
        "gates": has_gates,
    }
    assert not drawn[key](result)
    assert all(drawn[other](result) for other in {"growth", "mask_use", "gates"} - {key})


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
