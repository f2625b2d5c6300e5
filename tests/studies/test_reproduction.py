"""A reproduction asks for what is missing, reads results wherever they lie, and computes its verdicts from them."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from pretending import Pretend

from engram import api
from engram.cli.main import main
from engram.core.files import with_checksum
from engram.recipes import RECIPES, Recipe
from engram.recipes.published import TABLES, Published
from engram.recipes.targets import BUDGETS, TARGETS, Column, Part, Plan, Row, Statement, Target
from engram.report.reproduction import FIGURES
from engram.report.verdicts import MARGINS, judge, judge_statement
from engram.studies.jobs import Event
from engram.studies.reproduction import Gathered, PartFound, data_of, found, gather, variant_of

ROWS = (Row("plain", "finetune"), Row("held", "si:c=0.5"), Row("other", "l2sp", "it is another thing"))
RECORD = Path(__file__).resolve().parents[2] / "reproductions"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    """A target that takes seconds: two tasks of digits."""
    fit = {"epochs": 1, "steps_per_epoch": 2}
    recipe = Recipe(
        "tiny",
        "",
        "",
        data={"data": "digits:0-3", "tasks": 2},
        network="mlp",
        network_options={"hidden": (8,)},
        methods=dict.fromkeys(("finetune", "si", "l2sp"), fit),
    )
    monkeypatch.setitem(RECIPES, "tiny", lambda: recipe)
    values = {"plain": {"average": 50.0}, "held": {"average": 99.9}, "other": {"average": 1.0}}
    monkeypatch.setitem(TABLES, "tiny", Published("A paper", "Table 9", "n = 1", values))
    part = Part("digits", "tiny", ROWS, (Column("average"), Column("first", task=1)), (0, 1), "tiny")
    said = (Statement("plain is above held", "above", ("plain", "held", "average")),)
    target = Target(
        "tiny", "A paper", "a test", {"quick": Plan((part,), "seconds", "digits")}, said, ("accuracies",)
    )
    monkeypatch.setitem(TARGETS, "tiny", target)
    return "tiny"


def verdicts(made: api.Reproduced) -> dict[str, str]:
    (part,) = made.conclusion.json["parts"]
    return {r["row"]: r["verdict"] for r in part["rows"] if r["column"] == "average"}


def test_from_nothing_to_verdicts_and_nothing_is_run_twice(tiny: str, pretend: Pretend, tmp_path: Path):
    out = tmp_path / "out"
    before = api.reproduce(tiny, out=out, run=False)
    assert set(verdicts(before).values()) == {"not run"}
    made = api.reproduce(tiny, out=out, jobs=1)
    assert verdicts(made) == {"plain": "reached", "held": "short", "other": "not comparable"}
    assert (len(made.outcomes), made.exit_code, len(pretend.ran)) == (1, 0, 6)
    assert [p.name for p in made.figures if p.is_file()] == ["digits-accuracies.svg"]
    text = (out / "table.md").read_text()
    for words in ("short by", "not comparable, because it is another thing", "A paper, Table 9"):
        assert words in text

    # What an earlier call drew goes where it is not drawn again; what is somebody else's stays.
    for name in ("digits-gone.svg", "mine.svg"):
        (out / "figures" / name).write_text("")

    # The same again, and one more seed.
    assert api.reproduce(tiny, out=out).outcomes == []
    assert {p.name for p in (out / "figures").glob("*.svg")} == {"digits-accuracies.svg", "mine.svg"}
    more = api.reproduce(tiny, out=out, seeds=(0, 1, 2), jobs=1)
    assert [o.results[0]["summary"]["seeds"] for o in more.outcomes] == [[0, 1, 2]]
    assert {seed for _, _, seed in pretend.ran[6:]} == {2}

    # Results that were made elsewhere count as run here: a folder of a study, and files alone.
    for results in (out / "digits", out / "results"):
        elsewhere = api.reproduce(tiny, out=tmp_path / f"from-{results.name}", results=[results])
        assert elsewhere.outcomes == []
        assert verdicts(elsewhere) == verdicts(made)

    # Another setting does not.
    other = Recipe(**{**vars(RECIPES["tiny"]()), "network_options": {"hidden": (9,)}})
    RECIPES["tiny"] = lambda: other
    assert set(
        verdicts(api.reproduce(tiny, out=tmp_path / "o", results=[out / "digits"], run=False)).values()
    ) == {"not run"}

    # A result is edited and its verdict changes, as the paper's figure does not.
    RECIPES["tiny"] = lambda: Recipe(**{**vars(other), "network_options": {"hidden": (8,)}})
    for seed in (0, 1):
        path = out / "digits" / "si-c-0.5" / f"seed-{seed}" / "seed.json"
        entry = json.loads(path.read_text())
        entry["accuracy_matrix"][-1] = [1.0, 0.999]
        path.write_text(json.dumps(entry))
    # Of two results of a seed the one that is found first counts, and the table says so.
    both = [out / "results", tmp_path / "from-digits" / "results"]
    (both[1] / "loop").symlink_to(".", target_is_directory=True)
    first = both[0] / "digits" / "held.json"
    entry = json.loads(first.read_text())
    del entry["sha256"]
    for seed in entry["seeds"]:
        seed["accuracy_matrix"][-1] = [0.5, 0.5]
    first.write_text(json.dumps(entry))
    twice = api.reproduce(tiny, out=tmp_path / "twice", results=both, run=False, accept_edited=True)
    held = [r for r in twice.conclusion.json["parts"][0]["rows"] if r["row"] == "held"]
    assert {tuple(r["read_from"]) for r in held} == {(str(first.parent),)}
    assert all(r["edited"] for r in held)
    assert (
        f"held: results of the same seeds in {both[1] / 'digits'} were not used"
        in (tmp_path / "twice" / "table.md").read_text()
    )

    edited = api.reproduce(tiny, out=out, accept_edited=True, run=False)
    assert verdicts(edited)["held"] == "reached"
    with pytest.raises(api.EngramError, match="does not match its checksum"):
        api.reproduce(tiny, out=out, run=False)


def test_parts_of_a_target_share_their_runs(
    tiny: str, pretend: Pretend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (part,) = TARGETS[tiny].plans["quick"].parts
    again = replace(part, name="again", rows=(*ROWS[:2], Row("new", "si:c=0.25")), published=None)
    of = replace(TARGETS[tiny], plans={"quick": Plan((part, again), "seconds", "digits")})
    monkeypatch.setitem(TARGETS, tiny, of)
    made = api.reproduce(tiny, out=tmp_path / "out", jobs=1)
    assert len(pretend.ran) == 2 * (3 + 1)
    means = [{(r["row"], r["column"]): r["mean"] for r in p["rows"]} for p in made.conclusion.json["parts"]]
    assert {k: v for k, v in means[1].items() if k in means[0]}.items() <= means[0].items()
    assert means[1]["new", "average"] is not None


def test_after_a_stop_what_is_on_record_is_still_shown(
    tiny: str, pretend: Pretend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = api.reproduce(tiny, out=tmp_path / "record", jobs=1)
    (part,) = TARGETS[tiny].plans["quick"].parts
    first = replace(part, name="first", rows=(Row("new", "si:c=0.25"),), published=None)
    plans = {"quick": Plan((first, part), "seconds", "digits")}
    of = replace(TARGETS[tiny], plans=plans, statements=(), figures=("accuracies", "samples"))
    monkeypatch.setitem(TARGETS, tiny, of)

    def stop(event: Event) -> None:
        raise KeyboardInterrupt

    (tmp_path / "nothing").mkdir()
    record = [tmp_path / "record", tmp_path / "nothing"]
    stopped = api.reproduce(tiny, out=tmp_path / "out", results=record, jobs=1, listener=stop)
    assert [o.interrupted for o in stopped.outcomes] == [True]
    shown, there = stopped.conclusion.json["parts"][1]["rows"], whole.conclusion.json["parts"][0]["rows"]
    assert stopped.undrawn == ["samples"]
    assert stopped.empty == [tmp_path / "nothing"]
    assert [(r["values"], r["words"]) for r in shown] == [(r["values"], r["words"]) for r in there]


PART = Part("p", "si-splitmnist", (Row("a", "si"),), (Column("average"),))


@pytest.mark.parametrize(
    ("values", "published", "words"),
    [
        ({}, 50.0, "not run"),
        ({0: 50.1}, 50.0, "reached; one seed, no interval"),
        ({0: 48.0}, 50.0, "short by 2.0; one seed, no interval"),
        ({0: 40.0, 1: 48.0, 2: 55.0}, 50.0, "reached"),  # the interval holds it
        ({0: 47.9, 1: 48.0, 2: 48.1}, 50.0, "short by 2.0"),
        ({0: 48.0}, None, ""),
    ],
)
def test_a_verdict_follows_from_the_values(values: dict[int, float], published: float | None, words: str):
    row, column = PART.rows[0], PART.columns[0]
    assert judge(PART, row, column, values, published).words == words
    if values and published is not None:
        assert judge(PART, replace(row, why_not="no"), column, values, published).kind == "not comparable"
        small = judge(replace(PART, smaller="less"), row, column, values, published)
        assert "in a smaller setting" in small.words
        sizes = judge(PART, row, replace(column, measure="weights"), values, published)
        assert sizes.kind != ("short" if min(values.values()) < published else "reached")


@pytest.mark.parametrize(
    ("margins", "kind", "not_below"),
    [
        ([], "not run", "not run"),
        ([1.0], "holds", "holds"),
        ([-1.0], "does not hold", "does not hold"),
        ([1.0, 1.1], "holds", "holds"),
        ([-1.0, -1.1], "does not hold", "does not hold"),
        ([-1.0, 2.0], "not decided", "not contradicted"),
    ],
)
def test_a_statement_is_judged_by_its_margins(
    margins: list[float], kind: str, not_below: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(MARGINS, "given", lambda found: margins)
    nothing = PartFound(PART, {}, {}, {})
    assert judge_statement(Statement("so", "given"), nothing)[0].kind == kind
    assert judge_statement(Statement("so", "given", not_below=True), nothing)[0].kind == not_below


def test_every_target_is_whole():
    for name, target in TARGETS.items():
        assert name == target.name
        assert set(target.plans) <= set(BUDGETS)
        assert set(target.figures) <= set(FIGURES)
        for plan in target.plans.values():
            for part in plan.parts:
                assert part.recipe in RECIPES
                for row in part.rows:
                    variant_of(part, row)
                columns = {c.name for c in part.columns}
                if part.published:
                    values = TABLES[part.published].values
                    assert {r.name for r in part.rows} & values.keys(), f"{name} {part.name}"
                    assert any({*v} & columns for v in values.values())
            for said in target.statements:
                assert said.margin in MARGINS
                of = [p for p in plan.parts if p.name == (said.part or plan.parts[0].name)]
                assert of or said.part
                for part in of:
                    known = {r.name for r in part.rows} | {c.name for c in part.columns}
                    assert {a for a in said.of if isinstance(a, str)} <= known, f"{name}: {said.said}"


@pytest.mark.skipif(not RECORD.is_dir(), reason="the record is not part of an installed package")
def test_what_is_on_record_is_read():
    there = gather([RECORD])
    (part,) = TARGETS["si-fig3"].plans["quick"].parts
    assert found(part, part.seeds, there).results["SI, c = 1"]["summary"]["n"] == 5
    pair = TARGETS["rescl-m1"].plans["quick"].parts[-1]
    curves = found(pair, pair.seeds, there).curves
    stored = json.loads((RECORD / "tradeoff-small" / "tradeoff.json").read_text())
    for mine, theirs in zip(curves["methods"], stored["methods"], strict=True):
        assert mine["label"] == theirs["label"]
        assert mine["m1"]["mean"] == pytest.approx(theirs["m1"]["mean"])


@pytest.mark.skipif(not RECORD.is_dir(), reason="the record is not part of an installed package")
def test_a_tradeoff_in_another_setting_does_not_count():
    part = TARGETS["rescl-m1"].plans["quick"].parts[-1]
    stored = json.loads((RECORD / "tradeoff-small" / "tradeoff.json").read_text())
    network = {"name": "preact-resnet", "options": {"units": [1, 1, 1], "widths": [8, 16, 32]}}
    for changed, counts in (({}, True), ({"max_per_class": 20}, False)):
        setting = {"data": {**data_of(part).what(), **changed}, "network": network}
        made = {**stored, "methods": [{**m, "setting": setting} for m in stored["methods"]]}
        assert bool(found(part, part.seeds, Gathered([], [made])).curves) is counts


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dgm-tabel1"], "did you mean dgm-table1"),
        ([], "a target must be named"),
        (["dgm-table1", "--budget", "fast"], "budget of dgm-table1 must be quick or full, got 'fast'"),
        (["rescl-m1", "--budget", "full"], "budget of rescl-m1 must be quick"),
        (["si-fig3", "--results", "nowhere"], "results must lie in folders, nowhere is none"),
        (
            ["si-fig3", "--out", "held"],
            "held must hold si-fig3 with budget quick or nothing, it holds si-fig4",
        ),
        (["si-fig3", "--out", "old"], "is of another version, this one reads schema 1"),
        (["si-fig3", "--results", "bad"], "does not match its checksum"),
        (["si-fig3", "--results", "part"], "is not a result of engram: its schema is None"),
        (["si-fig3", "--results", "pipe"], "x.json must be JSON that can be read"),
        (["si-fig3", "--out", "mine"], "mine must be empty or hold si-fig3, it holds table.md"),
        (["si-fig3", "--out", ""], "out must be the path of a folder, got ''"),
        (["si-fig1", "--jobs", "0"], "jobs must be an integer >= 1, got 0"),
        (["si-fig", "--list"], "did you mean"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for name, schema in (("held", 1), ("old", 7)):
        Path(name).mkdir()
        held = with_checksum({"schema": schema, "target": "si-fig4", "budget": "quick"})
        (Path(name) / "reproduction.json").write_text(json.dumps(held))
    Path("bad").mkdir()
    damaged = {"sha256": "0", "schema": 1, "method": "si", "seeds": [], "config": {}, "tasks": []}
    (Path("bad") / "si.json").write_text(json.dumps(damaged))
    for name in ("part", "pipe", "mine"):
        Path(name).mkdir()
    (Path("part") / "si.json").write_text(json.dumps({k: damaged[k] for k in ("method", "seeds", "config")}))
    os.mkfifo("pipe/x.json")
    (Path("mine") / "table.md").write_text("my own")
    assert main(["reproduce", *words, *([] if "--no-run" in words or not words else ["--no-run"])]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]
