"""Grids, widening, what is run and what is not, and the file; training is pretended."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from pretending import GIVEN, NETWORK, PLASTIC, Pretend, diverged, logistic

import engram
from engram.core.contract import Tradeoff
from engram.errors import ConfigError
from engram.methods.registry import entry
from engram.studies.results import read, read_result, read_study
from engram.studies.study import Outcome
from engram.studies.tradeoff import log_value


@pytest.fixture(autouse=True)
def _centre(monkeypatch: pytest.MonkeyPatch) -> None:
    """The formulas are even at strength 1."""
    for name in ("lwf", "ewc", "si"):
        cls: Any = entry(name).make
        monkeypatch.setattr(cls, "tradeoff", Tradeoff(cls.tradeoff.option))


def run(out: Path, *methods: str, **more: Any) -> Outcome:
    return engram.tradeoff(methods, **{**GIVEN, "seeds": (0,), "out": out, **more})


def of(outcome: Outcome, label: str) -> dict[str, Any]:
    return next(m for m in outcome.found["methods"] if m["label"] == label)


def values(outcome: Outcome, label: str) -> list[float]:
    return [p["value"] for p in of(outcome, label)["points"]]


# Grids ------------------------------------------------------------------------------------------------------
def test_a_logarithmic_grid_of_nine_values_over_four_decades():
    grid = [log_value(0.3, 9, i) for i in range(9)]
    assert grid == [0.003, 0.00949, 0.03, 0.0949, 0.3, 0.949, 3.0, 9.49, 30.0]
    assert grid[4] == 0.3
    assert log_value(0.3, 9, -2) == 3e-4
    assert log_value(0.3, 9, 10) == 300.0


def test_saturated_ends_are_left_alone(pretend: Pretend, tmp_path: Path):
    outcome = run(tmp_path, "lwf", "averaging", "finetune")
    assert outcome.exit_code == 0
    assert values(outcome, "lwf") == [log_value(1.0, 9, i) for i in range(9)]
    assert of(outcome, "lwf")["saturated"] == {"plastic": True, "stable": True}
    assert values(outcome, "averaging") == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert of(outcome, "finetune")["option"] is None
    assert len(pretend.queues) == 1  # one queue for all methods
    assert pretend.queues[0] == 9 + 11 + 1


def test_an_end_that_is_not_saturated_is_widened_by_decades_until_it_is(pretend: Pretend, tmp_path: Path):
    # Even at 1e-4: the plastic end at 0.01 is far, one decade beyond is 1e-3, two are 1e-4, three are 1e-5.
    pretend.answer = lambda m, v, s: logistic(m, None if v is None else v * 1e4, s)
    outcome = run(tmp_path, "lwf")
    # At 1e-5 a hundredth of 0.4 is left, 0.4 points: saturated.
    want = [log_value(1.0, 9, i) for i in range(-6, 9)]
    assert values(outcome, "lwf") == want
    assert want[0] == 1e-5
    assert of(outcome, "lwf")["saturated"] == {"plastic": True, "stable": True}
    assert pretend.queues == [10, 2, 2, 2]
    again = Pretend()
    again.answer = lambda m, v, s: logistic(m, None if v is None else v * 1e6, s)
    pretend.__dict__.update(again.__dict__)
    outcome = run(tmp_path / "far", "lwf")
    assert min(values(outcome, "lwf")) == 1e-5  # three decades, no more
    assert of(outcome, "lwf")["saturated"] == {"plastic": False, "stable": True}
    assert "the plastic end is not saturated" in words(outcome)
    assert min(values(run(tmp_path / "none", "lwf", widen=0), "lwf")) == 0.01


@pytest.mark.parametrize(
    ("points", "least"), [(3, 1e-4), (4, 2.15e-5), (5, 1e-5), (10, 2.15e-5), (12, 1.23e-5)]
)
def test_a_grid_of_any_density_is_widened_by_no_more_than_asked(
    pretend: Pretend, tmp_path: Path, points: int, least: float
):
    pretend.answer = lambda m, v, s: logistic(m, None if v is None else v * 1e8, s)
    outcome = run(tmp_path, "lwf", points=points, widen=3)
    assert min(values(outcome, "lwf")) == pytest.approx(least, rel=1e-2)
    assert of(outcome, "lwf")["saturated"]["plastic"] is False


def test_ends_are_judged_only_where_the_order_of_values_means_something(pretend: Pretend, tmp_path: Path):
    """A curve over another option than the trade-off has no plastic and no stable end."""
    pretend.options["lwf"] = "temperature"
    outcome = run(tmp_path, "lwf", over={"lwf": {"temperature": [1.0, 2.0, 3.0]}})
    assert of(outcome, "lwf")["saturated"] is None
    assert "saturated" not in words(outcome)


def test_an_open_end_of_a_mixing_ratio_is_not_said_to_go_on(pretend: Pretend, tmp_path: Path):
    pretend.answer = lambda m, v, s: (0.5, 0.5) if m == "averaging" else logistic(m, v, s)
    outcome = run(tmp_path, "averaging")
    assert of(outcome, "averaging")["saturated"] == {"plastic": False, "stable": False}
    assert "a mixing ratio goes no further" in words(outcome)
    assert "values beyond" not in words(outcome)


def test_fine_tuning_is_one_point(pretend: Pretend, tmp_path: Path):
    """Of a curve the smallest value would silently set what is required."""
    with pytest.raises(ConfigError, match="finetune must be one point"):
        run(tmp_path, "lwf", over={"finetune": {"lr": [0.001, 0.01, 0.1]}})
    assert pretend.ran == []


def test_methods_of_an_earlier_call_with_other_seeds_are_named(pretend: Pretend, tmp_path: Path):
    run(tmp_path, "lwf", seeds=(0, 1))
    outcome = run(tmp_path, "ewc", seeds=(0,), resume=True)
    assert "lwf is of an earlier call with other seeds (0, 1 instead of 0)" in words(outcome)
    assert "ewc is of an earlier call" not in words(outcome)


def words(outcome: Outcome) -> str:
    from engram.report.figures_tradeoff import tradeoff_words

    return " ".join(tradeoff_words(outcome.found))


def test_an_end_that_diverged_is_not_widened_and_the_point_is_named(pretend: Pretend, tmp_path: Path):
    pretend.answer = lambda m, v, s: (diverged if v and v > 3 else logistic)(m, v, s)
    outcome = run(tmp_path, "lwf")
    assert outcome.exit_code == 0
    assert outcome.problems == []
    assert max(values(outcome, "lwf")) == 100
    states = {p["value"]: p["status"] for p in of(outcome, "lwf")["points"]}
    assert [v for v, s in states.items() if s == "diverged"] == [3.16, 10, 31.6, 100]
    assert of(outcome, "lwf")["saturated"]["stable"] is False
    assert "lwf: strength=3.16, strength=10, strength=31.6, strength=100 diverged and is left out" in words(
        outcome
    )
    # Deterministic, hence not tried again, and no --resume is needed.
    pretend.ran.clear()
    assert run(tmp_path, "lwf").exit_code == 0
    assert pretend.ran == []


def test_a_method_without_any_point_is_a_failure(pretend: Pretend, tmp_path: Path):
    pretend.answer = lambda m, v, s: (diverged if m == "lwf" else logistic)(m, v, s)
    outcome = run(tmp_path, "lwf", "ewc")
    assert outcome.exit_code == 2
    assert of(outcome, "lwf")["m1"] is None
    assert of(outcome, "ewc")["m1"] is not None


def test_without_fine_tuning_nothing_is_required(pretend: Pretend, tmp_path: Path):
    pretend.answer = lambda m, v, s: (diverged if m == "finetune" else logistic)(m, v, s)
    outcome = run(tmp_path, "lwf", required=[80])
    assert outcome.exit_code == 2
    assert [t["below"] for t in outcome.found["taus"]] == [None]
    assert len(values(outcome, "lwf")) == 9
    assert of(outcome, "lwf")["m2"][0]["measure"]["mean"] > 0.5
    assert "Fine-tuning has no finished point" in words(outcome)


# What is run ------------------------------------------------------------------------------------------------
def test_nothing_finished_is_run_again(pretend: Pretend, tmp_path: Path):
    run(tmp_path, "lwf", seeds=(0, 1))
    before = (tmp_path / "study.json").read_bytes()
    assert len(pretend.ran) == len(set(pretend.ran)) == 2 * 10
    pretend.ran.clear()
    outcome = run(tmp_path, "lwf", seeds=(0, 1))
    assert pretend.ran == []
    assert len(outcome.kept) == 10
    assert (tmp_path / "study.json").read_bytes() == before
    # Another method beside, more seeds, more values: only what is missing.
    both = run(tmp_path, "lwf", "ewc", seeds=(0, 1))
    assert {m for m, _, _ in pretend.ran} == {"ewc"}
    pretend.ran.clear()
    run(tmp_path, "ewc", seeds=(0, 1), over={"ewc": {"strength": [1, 2, 3]}})
    assert sorted({v for _, v, _ in pretend.ran}) == [2, 3]
    stored = read_study(tmp_path)["found"]
    # What was not named stays; the given values join those that are there.
    assert {m["label"] for m in stored["methods"]} == {"ewc", "lwf", "finetune"}
    assert [p["value"] for p in stored["methods"][0]["points"]] == sorted({*values(both, "ewc"), 2, 3})
    pretend.ran.clear()
    run(tmp_path, "lwf", seeds=(0, 1, 2), resume=True)
    assert {s for _, _, s in pretend.ran} == {2}


@pytest.mark.slow
def test_an_interruption_loses_nothing(pretend: Pretend, tmp_path: Path):
    pretend.answer = lambda m, v, s: logistic(m, None if v is None else v * 1e4, s)  # widened
    whole = run(tmp_path / "whole", "lwf", "averaging")
    everything = sorted(map(str, pretend.ran))
    for stop in (0, 4, 21, 24):
        pretend.ran.clear()
        out = tmp_path / str(stop)
        pretend.stop_after = stop
        stopped = run(out, "lwf", "averaging")
        assert stopped.interrupted
        assert stopped.exit_code == 130
        assert len(pretend.ran) == stop
        pretend.stop_after = math.inf
        again = run(out, "lwf", "averaging", resume=True)
        assert sorted(map(str, pretend.ran)) == everything
        assert again.found == whole.found
        assert (out / "study.json").read_bytes() == (tmp_path / "whole" / "study.json").read_bytes()


def test_a_folder_a_point_and_no_other_study_beside(pretend: Pretend, tmp_path: Path):
    outcome = run(tmp_path, "lwf", "lwf:temperature=1.0")
    points = {p["name"]: p for p in of(outcome, "lwf")["points"]}
    # The setting of M1 by validation is the one that is best on validation images of both tasks.
    best = max(points.values(), key=lambda p: p["valid_source"][0] + p["valid_target"][0])
    assert of(outcome, "lwf")["m1_valid"]["at"][0]["name"] == best["name"]
    assert read_result(tmp_path / "finetune")["summary"]["n"] == 1
    for folder, temperature in (("lwf", 2.0), ("lwf-temperature-1.0", 1.0)):
        result = read_result(tmp_path / folder / "strength=1")
        assert result["config"]["method"]["options"]["temperature"] == temperature
    pretend.ran.clear()
    with pytest.raises(ConfigError, match="it holds a trade-off"):
        engram.compare(["finetune"], GIVEN_DATA, GIVEN["network"], recipe="none", out=tmp_path)
    with pytest.raises(ConfigError, match="it holds a trade-off"):
        engram.sweep("lwf", {"strength": [1.0]}, **sweep_data(), out=tmp_path)
    assert pretend.ran == []


GIVEN_DATA = engram.DataSettings(
    data="digits:0-4+digits:5-9", scenario="task", max_per_class=20, valid_fraction=0.1
)


def sweep_data() -> dict[str, Any]:
    return {"data": GIVEN_DATA, "network": GIVEN["network"], "recipe": "none", "device": "cpu"}


def test_overwrite_starts_again(pretend: Pretend, tmp_path: Path):
    run(tmp_path, "lwf")
    pretend.ran.clear()
    outcome = run(tmp_path, "lwf", overwrite=True, over={"lwf": {"strength": [1, 2, 3]}})
    assert values(outcome, "lwf") == [1, 2, 3]
    assert len(pretend.ran) == 4
    (tmp_path / "mine" / "lwf").mkdir(parents=True)
    (tmp_path / "mine" / "lwf" / "notes.txt").write_text("kept")
    with pytest.raises(ConfigError, match="other files"):
        run(tmp_path / "mine", "lwf", overwrite=True)


def test_another_pair_or_network_is_refused_and_nothing_touched(pretend: Pretend, tmp_path: Path):
    run(tmp_path, "lwf")
    before = sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="digits:4-9"):
        run(tmp_path, "ewc", target="digits:4-9")
    with pytest.raises(ConfigError, match="hidden"):
        run(tmp_path, "ewc", network=engram.NetworkSettings("mlp", {"hidden": [9]}))
    with pytest.raises(ConfigError, match="epochs: 10 there, 3 now"):
        run(tmp_path, "lwf", options={"lwf": {"epochs": 3}})
    assert sorted((p, p.stat().st_mtime_ns) for p in tmp_path.rglob("*")) == before


def test_the_listener_tells_methods_apart(pretend: Pretend, tmp_path: Path):
    heard: set[tuple[str, int]] = set()
    grid = {"lwf": {"strength": [1, 2, 3]}, "ewc": {"strength": [1, 2, 3]}}
    run(
        tmp_path, "lwf", "ewc", over=grid, listener=lambda e: heard.add((e.job.label, e.job.seed))
    )  # fmt: skip
    assert heard == {("finetune", 0), *((f"{m} strength={v}", 0) for m in ("lwf", "ewc") for v in (1, 2, 3))}


def test_the_longest_method_begins_first(pretend: Pretend, tmp_path: Path):
    options = {"ewc": {"epochs": 30}, "si": {"epochs": 3, "later_epochs": 90}, "finetune": {"epochs": 1}}
    grid = {"lwf": {"strength": [1, 2, 3]}, "ewc": {"strength": [1, 2, 3]}, "si": {"c": [1, 2, 3]}}
    run(tmp_path, "lwf", "ewc", "si", "joint", over=grid, options=options)
    assert list(dict.fromkeys(m for m, _, _ in pretend.ran)) == ["joint", "si", "ewc", "lwf", "finetune"]


# The file ---------------------------------------------------------------------------------------------------
def test_the_numbers_are_those_of_the_runs(pretend: Pretend, tmp_path: Path):
    def answer(method: str, value: float | None, seed: int) -> tuple[float, float]:
        s, t = logistic(method, value, seed)
        return s + 0.01 * seed, t - 0.02 * seed

    pretend.answer = answer
    grid = {"lwf": {"strength": [0.5, 1, 2]}}
    outcome = run(tmp_path, "lwf", seeds=(0, 1), over=grid, required=[70, 99])
    stored = outcome.found
    assert (
        stored == read(tmp_path).found == {**read_study(tmp_path)["found"], "edited": [], "no_checksum": []}
    )
    assert stored["finetune_beside"] is True
    assert stored["source_network"]["mean"] == pytest.approx(NETWORK)
    assert stored["other_source_network"] == {}
    tuned = PLASTIC - 0.01
    assert stored["finetuned_target"]["mean"] == pytest.approx(tuned)
    assert [t["tau"] for t in stored["taus"]] == pytest.approx(
        [tuned - 0.005, tuned - 0.01, tuned - 0.02, tuned - 0.05, 0.7, 0.99]
    )
    lwf = of(outcome, "lwf")
    points = {p["value"]: p for p in lwf["points"]}
    s, t = logistic("lwf", 2.0, 0)
    assert points[2.0]["source"] == pytest.approx([s, s + 0.01])
    assert points[2.0]["target"] == pytest.approx([t, t - 0.02])
    result = read_result(tmp_path / "lwf/strength=2")
    assert [e["accuracy_matrix"][1] for e in result["seeds"]] == [
        list(pair) for pair in zip(points[2.0]["source"], points[2.0]["target"], strict=True)
    ]
    means = {v: (sum(p["source"]) / 2, sum(p["target"]) / 2) for v, p in points.items()}
    assert lwf["m1"]["mean"] == pytest.approx(max(sum(m) / 2 for m in means.values()))
    assert lwf["m1"]["at"] == [{"name": "strength=2", "value": 2.0, "weight": 1.0}]
    (s1, t1), (s0, t0) = means[1.0], means[0.5]
    at_70 = next(r for r in lwf["m2"] if r["tau"] == 0.7)["measure"]
    assert t1 > 0.7 > means[2.0][1]
    share = (t1 - 0.7) / (t1 - means[2.0][1])
    assert at_70["mean"] == pytest.approx(share * means[2.0][0] + (1 - share) * s1)
    assert at_70["ci95"][0] < at_70["mean"] < at_70["ci95"][1]
    assert lwf["m2"][0]["measure"] is None
    assert lwf["best_target"] == {"name": "strength=0.5", "target": pytest.approx(t0)}
    assert lwf["options"]["temperature"] == 2.0
    assert "strength" not in lwf["options"]
    assert "lwf reaches no target accuracy of 93.5 or 93.0 or 92.0 or 89.0 or 99.0 %: its best is" in words(
        outcome
    )
    assert s0 < s1


def test_another_source_network_is_said(pretend: Pretend, tmp_path: Path, monkeypatch):
    import pretending

    outcome = run(tmp_path, "averaging")
    assert outcome.found["other_source_network"] == {}
    monkeypatch.setattr(pretending, "NETWORK", 0.9)
    outcome = run(tmp_path, "lwf", options={"lwf": {"epochs": 2}}, over={"lwf": {"strength": [1, 2, 3]}})
    assert outcome.found["other_source_network"] == {"lwf": pytest.approx(0.08)}
    assert "lwf starts from another source network than finetune" in words(outcome)


@pytest.mark.slow
def test_the_page(pretend: Pretend, real_report: None, tmp_path: Path):
    pretend.answer = lambda m, v, s: (diverged if v and v > 30 else logistic)(m, v, s)
    outcome = run(tmp_path, "lwf", "averaging", seeds=(0, 1), required=[99])
    assert outcome.report is not None
    page = outcome.report.read_text(encoding="utf-8")
    for text in (
        "Trade-off between digits:0-4 and digits:5-9",
        "same test images that are reported",
        "held-out training images of both tasks, source",
        "not reached",
        "strength=100 diverged and is left out",
        "finetune was run beside",
        "Every point",
        "lwf:strength=",
    ):
        assert text in page, text
    for name in ("tradeoff", "tradeoff-near"):
        assert (tmp_path / "figures" / f"{name}.svg").exists()
    again = engram.write_report(tmp_path, every_format=False).read_text(encoding="utf-8")
    assert again == page
