"""Accuracy against bytes and seconds: of strict methods alone, as figure, table and file."""

from __future__ import annotations

import csv
from typing import Any

import pytest

from engram.report.figures_cost import cost_figure, cost_table, strict
from engram.report.style import data_of
from engram.studies.results import summarise
from synthetic import result


def made(
    label: str, n_bytes: int, seconds: float, method: str = "finetune", **protocol: str
) -> dict[str, Any]:
    found = result(method, n_seeds=2)
    found |= {"label": label, "protocol": {**found["protocol"], "reads": "task", **protocol}}
    for seed in found["seeds"]:
        seed |= {"storage_bytes": {"weights": n_bytes}, "seconds": seconds}
    return {**found, "summary": summarise(found["seeds"])}


@pytest.fixture
def results() -> list[dict[str, Any]]:
    large, small, slow = made("large", 2000, 9.0, "dgmw"), made("small", 100, 5.0), made("slow", 3000, 99.0)
    stores = made("stores", 1, 1.0, "icarl")
    reads = made("reads", 1, 1.0, "dgmw", reads="all")
    looks = made("looks", 1, 1.0, "dgmw", selection="best epoch, not strict")
    return [large, small, slow, stores, reads, looks]


def test_strict_methods_alone_the_smallest_first(results: list[dict[str, Any]]):
    assert [r["label"] for r in strict(results)] == ["small", "large", "slow"]
    table = cost_table(results)
    assert table is not None
    assert [row[-1] for row in table.rows] == ["for less bytes, or less time"] * 2 + [""]
    assert cost_table(results[:1]) is None


def test_the_file_holds_the_same_numbers(results: list[dict[str, Any]]):
    rows = list(csv.DictReader(data_of(cost_figure(results)).splitlines()))
    seconds = [(row["series"], float(row["x"])) for row in rows if row["panel"] == "seconds a seed"]
    assert seconds == [("small", 5), ("large", 9), ("slow", 99)]
    assert 0 < float(rows[0]["low"]) < float(rows[0]["y"]) < float(rows[0]["high"])
