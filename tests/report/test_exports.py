"""Results as files: a spreadsheet, LaTeX, Markdown, JSON, a pandas frame, and paired differences."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import pandas
import pytest

import synthetic
from engram.cli.main import main
from engram.errors import ConfigError, EngramError
from engram.report.exports import BESIDE, _latex, export
from engram.report.table import headline_table
from engram.studies.results import read
from engram.studies.study import Outcome, Problem
from engram.studies.tidy import COLUMNS, paired, tidy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.write_comparison(tmp_path_factory.mktemp("comparison"))


def test_every_measured_pair_is_a_row(folder: Path) -> None:
    results = [f.result for f in read(folder).results]
    with export(folder, "csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    measured = {
        (r["label"], s["seed"], i + 1, j + 1): value
        for r in results
        for s in r["seeds"]
        for i, row in enumerate(s["accuracy_matrix"])
        for j, value in enumerate(row)
        if value is not None
    }
    found = {
        (r["method"], int(r["seed"]), int(r["after_task"]), int(r["task"])): float(r["accuracy"])
        for r in rows
    }
    assert found == measured
    assert len(rows) == len(measured)
    assert {r["status"] for r in rows if r["method"] == "finetune"} == {"done", "failed"}


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)&", line.removesuffix(r"\\"))]


def test_latex_holds_the_table_and_nothing_that_latex_trips_over(folder: Path) -> None:
    text = export(folder, "latex").read_text(encoding="utf-8")
    table = headline_table([f.result for f in read(folder).results])
    specs = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", text)
    assert len(specs) == 2, "more columns than are read beside each other"
    assert max(map(len, specs)) <= BESIDE
    bodies = re.findall(r"\\midrule\n(.*?)\\bottomrule", text, re.S)
    parts = [
        [
            [c.replace(r"$\pm$", "±").replace(r"\_", "_").replace("--", "–") for c in _cells(line)]
            for line in lines
        ]
        for lines in map(str.splitlines, bodies)
    ]
    assert all(len(row) == len(spec) for spec, rows in zip(specs, parts, strict=True) for row in rows)
    assert [row[0] for row in parts[1]] == [row[0] for row in parts[0]], "each part says of which method"
    plain = [[*row, *more[1:]] for row, more in zip(*parts, strict=True)]
    assert plain == [list(row) for row in table.rows]
    fit = r"{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%"
    assert fit in text
    unescaped = re.sub(r"\\[&%$#_{}]", "", text.split("\n", 1)[1].replace(fit, "{"))
    assert not re.search(r"[%#_^~<>]", unescaped)
    assert unescaped.count("{") == unescaped.count("}")
    assert text.isascii()


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex to compile the table with")
def test_latex_compiles(folder: Path, tmp_path: Path) -> None:
    shutil.copy(export(folder, "latex"), tmp_path / "table.tex")
    packages = r"\usepackage{booktabs,graphicx}"
    page = rf"\documentclass{{article}}{packages}\begin{{document}}\input{{table}}\end{{document}}"
    (tmp_path / "page.tex").write_text(page)
    command = ["pdflatex", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert "Overfull" not in done.stdout


def test_markdown_has_a_cell_a_column(folder: Path) -> None:
    lines = export(folder, "markdown").read_text(encoding="utf-8").splitlines()
    table = headline_table([f.result for f in read(folder).results])
    rows = [line for line in lines if line.startswith("|")]
    assert {line.count("|") for line in rows} == {len(table.columns) + 1}
    assert len(rows) == len(table.rows) + 2
    assert f"1. {table.footnotes[0]}" in lines


def test_json_holds_the_summaries(folder: Path) -> None:
    whole = json.loads(export(folder, "json").read_text(encoding="utf-8"))
    found = read(folder)
    assert [r["summary"] for r in whole["results"]] == [f.result["summary"] for f in found.results]


@pytest.mark.parametrize("format", ["csv", "latex", "markdown", "json"])
def test_names_of_a_users_own_break_no_format(format: str, tmp_path: Path) -> None:
    made = synthetic.result("finetune", n_seeds=1, n_tasks=2)
    made["label"] = 'a&b|c_d%{"e",\\f}'
    text = export(synthetic.write(tmp_path, {".": made}), format).read_text(encoding="utf-8")
    wanted = {
        "csv": '"a&b|c_d%{""e"",\\f}",0',
        "latex": r"a\&b|c\_d\%\{" + '"e",' + r"\textbackslash{}f\}",
        "markdown": r'a&b\|c_d%{"e",\f}',
        "json": json.dumps(made["label"]),
    }
    assert wanted[format] in text


def test_a_class_is_no_formula_and_two_are_not_one(tmp_path: Path) -> None:
    made = synthetic.result("finetune", n_seeds=1, n_tasks=2)
    made["tasks"][0]["class_names"] = ["=1+1", "b"]
    made["tasks"][1]["class_names"] = ["a, b", 'say "c"']
    made["label"] = "-x"
    root = synthetic.write(tmp_path, {".": made})
    with export(root, "csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {r["classes"] for r in rows} == {"'=1+1, b", '"a, b", "say ""c"""'}
    assert {r["method"] for r in rows} == {"'-x"}
    assert {r["classes"] for r in tidy([f.result for f in read(root).results])} == {
        "=1+1, b",
        '"a, b", "say ""c"""',
    }


def test_latex_has_a_minus_where_a_number_is_below_0() -> None:
    assert (
        _latex("-3.2 ± 0.1, fine-tuning, 0-4, 1e-05, lr=-1")
        == r"$-$3.2 $\pm$ 0.1, fine-tuning, 0-4, 1e-05, lr=$-$1"
    )


def test_the_command_writes_what_is_asked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder), "--format", "csv", "latex", "--paired", "dgmw", "finetune"]) == 0
    said = capsys.readouterr().out
    assert f"Written: {folder / 'results.csv'}" in said
    assert f"Written: {folder / 'table.tex'}" in said
    assert "dgmw less finetune: +" in said
    assert main(["report", str(folder), "--format", "pdf"]) == 2
    assert "invalid choice: 'pdf'" in capsys.readouterr().err
    assert main(["report", str(folder), "--paired", "dgmw", "joint"]) == 2
    assert "among dgmw, finetune, icarl, once each, got 'joint'" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="format must be one of csv, latex, markdown, json, got 'word'"):
        export(folder, "word")
    assert main(["report", str(folder), "--format", "csv", "--style", "own.mplstyle"]) == 2
    assert "add html" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["0, 0", "-3, 2", "300, 2"])
def test_a_figure_that_cannot_be_drawn_is_one_line(
    size: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    style = tmp_path / "own.mplstyle"
    style.write_text(f"figure.figsize: {size}\n", encoding="utf-8")
    assert main(["report", str(folder), "--style", str(style)]) == 2
    assert f"must be 1 to 50 inches, {style} has figure.figsize {size}" in capsys.readouterr().err


def _made(label: str, final: list[float], seeds: list[int]) -> dict:
    """A result of one task whose seeds have these accuracies."""
    return {
        "label": label,
        "data": {"name": "digits", "fingerprint": "f"},
        "protocol": {"scenario": "class"},
        "tasks": [{"classes": [0]}],
        "seeds": [
            {"seed": s, "status": "done", "final_average_accuracy": a, "accuracy_matrix": [[a]]}
            for s, a in zip(seeds, final, strict=True)
        ],
    }


def test_paired_differences_by_hand() -> None:
    one, two = _made("a", [0.9, 0.8, 0.7], [0, 1, 2]), _made("b", [0.85, 0.79, 0.5], [0, 1, 3])
    found = paired([one, two], "a", "b")
    assert found.seeds == (0, 1)
    assert found.difference.mean == pytest.approx(3.0)  # of 5 and 1 points
    half = (
        12.706204736432095 * 2.8284271247461903 / 2**0.5
    )  # t of 97.5 % with one degree of freedom, sd of 5 and 1
    assert found.difference.half_width == pytest.approx(half)
    assert str(found).startswith("a less b: +3.0 ± 25.4 percentage points")
    assert str(found).endswith("over 2 seeds that both have, seeds 0 1.")


def test_a_difference_over_one_seed_has_no_interval() -> None:
    found = paired([_made("a", [0.9], [3]), _made("b", [0.8], [3])], "a", "b")
    assert str(found) == (
        "a less b: +10.0 percentage points of final average accuracy, seed 3; 1 seed, hence no interval."
    )


def test_what_cannot_be_paired_is_refused() -> None:
    with pytest.raises(EngramError, match="got a twice"):
        paired([_made("a", [0.9], [0])], "a", "a")
    one, other = _made("a", [0.9], [0]), _made("b", [0.8], [1])
    with pytest.raises(EngramError, match="a has 0 and b 1: run the same seeds"):
        paired([one, other], "a", "b")
    elsewhere = _made("c", [0.8], [0]) | {"data": {"fingerprint": "g"}}
    with pytest.raises(EngramError, match="must share data, a and c do not"):
        paired([one, elsewhere], "a", "c")
    with pytest.raises(EngramError, match="once each, got 'a'"):
        paired([one, one], "a", "a")


def test_an_outcome_reads_as_a_table(folder: Path) -> None:
    results = [f.result for f in read(folder).results]
    outcome = Outcome(folder, results, problems=[Problem("finetune", 3, "diverged <here>", True)])
    lines = repr(outcome).splitlines()
    assert len(lines) == 2 + len(results) + 1
    assert max(map(len, lines)) < 200
    assert lines[-1] == "finetune, seed 3: diverged <here>"
    html = outcome._repr_html_()
    assert html.count("<tr>") == 1 + len(results)
    assert "diverged &lt;here&gt;" in html
    frame = outcome.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == list(COLUMNS)
    assert frame.to_dict("records") == tidy(results)
