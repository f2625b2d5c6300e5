"""What is swept, and what chooses: no training."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from sweeping import GIVEN, SMALL

import engram
from calling import Refused
from engram.errors import ConfigError
from engram.studies.axes import grid, parse_over, shown, trial_name
from engram.studies.folders import folder_name
from engram.studies.rules import parts, rule
from engram.studies.sweep import SIGNS

V = [[0.9, None, None], [0.6, 0.8, None], [0.3, 0.5, 1.0]]


def test_a_grid_is_the_product():
    axes = parse_over("si", ["c=0,0.1,1e-5", "si.clamp=none,increment"])
    trials = grid(axes)
    assert [trial_name(t) for t in trials][:3] == [
        "c=0,clamp=none",
        "c=0,clamp=increment",
        "c=0.1,clamp=none",
    ]
    assert len(trials) == 6
    assert trials[0]["c"] == 0.0
    assert isinstance(trials[0]["c"], float)


def test_names_tell_values_apart():
    values = [1e20, 1e-20, -1.0, 1.0, 0.1, 0.1 + 1e-16, True, None]
    folders = {folder_name(trial_name({"c": v}), SIGNS) for v in values}
    assert len(folders) == len({shown(v) for v in values}) == len(values)
    assert all("/" not in f for f in folders)


def test_ranges():
    (c,) = parse_over("si", ["c=0.001..10:log"])
    assert (c.low, c.high, c.log, c.whole, c.values) == (0.001, 10.0, True, False, ())
    (epochs,) = parse_over("si", ["epochs=1..9"])
    assert epochs.whole


@pytest.mark.parametrize(
    ("over", "words"),
    [
        (["cc=1,2"], "did you mean c?"),
        (["strength=1"], "must be options of si"),
        (["c=a,b"], "si.c must be a number >= 0, got 'a'"),
        (["epochs=1.5,2"], "si.epochs must be an integer"),
        (["c=1,1.0"], "got 1 twice"),
        (["c=1", "si.c=2"], "twice"),
        (["c"], "NAME=v1,v2"),
        (["c="], "NAME=v1,v2"),
        (["c=1,,2"], "between commas"),
        (["c=1..1"], "low below high"),
        (["c=2..1"], "low below high"),
        (["c=0..1:log"], "above 0"),
        (["c=0..1:lg"], "did you mean log?"),
        (["c=..1"], "two ends"),
        (["epochs=1..2.5"], "si.epochs must be an integer"),
        (["clamp=a..b"], "a range needs a number"),
    ],
)
def test_what_cannot_be_swept(over: list[str], words: str):
    with pytest.raises(ConfigError, match=r".*") as caught:
        parse_over("si", over)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_scores_of_a_known_matrix():
    assert rule("valid_current", 3).score(V) == pytest.approx(0.9)
    assert rule("valid_all", 3).score(V) == pytest.approx(0.6)
    assert rule("first_tasks:2", 3).score(V) == pytest.approx(0.7)
    assert rule("first_tasks:2", 3).score(V[:1]) is None
    assert rule("valid_all", 3).score(V[:2]) is None
    assert rule("first_tasks:2", 3).so_far(V[:1]) == pytest.approx(0.9)
    assert rule("first_tasks:2", 3).so_far(V) is None
    assert rule("valid_current", 3).so_far(V[:2]) == pytest.approx(0.85)
    assert parts(V) == {"average": pytest.approx(0.6), "new": pytest.approx(0.9), "old": pytest.approx(0.4)}


@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 2), (3, 2), (4, 3), (10, 3)])
def test_the_default_rule_fits_the_stream(n: int, k: int):
    assert rule(None, n).name == f"first_tasks:{k}"


def test_a_rule_says_what_it_reads():
    assert rule("valid_current", 5).describe()["strict"]
    assert not rule("first_tasks:3", 5).describe()["strict"]
    for text in ("valid_all", "first_tasks:5"):
        assert "uses validation data of all tasks" in rule(text, 5).words


@pytest.mark.parametrize(
    "text", ["valid", "first_tasks", "first_tasks:0", "first_tasks:4", "valid_all:2", "test"]
)
def test_no_such_rule(text: str):
    with pytest.raises(ConfigError, match="first_tasks:"):
        rule(text, 3)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "a method must be named first"),
        (["si", "ewc"], "takes one method"),
        (["sii"], "did you mean si?"),
        (["si"], "over must name at least one parameter"),
        (["si", "--over", "c=-1,1"], "c must be"),
        (["si", "--over", "c=0.1..1"], "--engine optuna"),
        (["si", "--over", "c=1", "--engine", "optuna"], "trials must be given"),
        (["si", "--over", "c=1", "--trials", "3"], "trials must be given with engine optuna"),
        (["si", "--over", "c=1", "--engine", "optun"], "did you mean optuna?"),
        (["si", "--over", "c=1", "--address", "auto"], "--engine ray"),
        (["si", "--over", "c=1", "--choose-on", "test"], "choose-on must be"),
        (["si", "--over", "c=1", "--choose-on", "first_tasks:9"], "K in 1..3"),
        (["si", "--over", "c=1", "--valid-fraction", "0"], "above 0"),
        (["si", "--over", "c=1", "--resume", "--overwrite"], "only one of"),
        (["hat", "--over", "epochs=1"], "task"),
        (["si", "--over", "c=1,2", "--si.c", "3"], "swept or given a value, got c as both"),
        (["si", "--over", "keep_omegas=true,false", "--si.keep_omegas=true"], "got keep_omegas as both"),
    ],
)
def test_one_line(argv: list[str], words: str, refused: Refused, tmp_path: Path):
    if "optuna" in argv and words != "--engine optuna":
        pytest.importorskip("optuna")
    more = [*SMALL, "--out", tmp_path / "out"] if argv else []
    names = [a for a in argv if a in ("si", "sii", "ewc", "hat")]
    assert words in refused("sweep", *names, *more, *argv[len(names) :])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["optuna", "ray"])
def test_an_extra_that_is_not_installed(name: str, refused: Refused, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    more = ["--trials", "2"] if name == "optuna" else []
    said = refused("sweep", "si", "--over", "c=1", *SMALL, "--engine", name, *more, "--out", tmp_path / "out")
    assert f"pip install engram[{name}]" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("over", "more", "words"),
    [
        ({"c": 0.1}, {}, "over must give c a list of values or a range, got 0.1"),
        (["c"], {}, "over must map parameters to values"),
        ({"c": [0.1]}, {"seeds": 0}, "seeds must be a list of distinct integers"),
        ({"c": [0.1]}, {"options": {"c": 1.0}}, "got c as both"),
    ],
)
def test_slips_in_python_give_one_line(over: Any, more: dict[str, Any], words: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=words):
        engram.sweep("si", over, **GIVEN, **more, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
