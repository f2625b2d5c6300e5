"""The report of made-up results: page, figures, tables, what is said of missing or incomparable numbers."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import synthetic
from engram.cli.main import main
from engram.core.files import with_checksum
from engram.errors import EngramError
from engram.report import figures as fig
from engram.report import is_current, style, write_report
from engram.report.drawing import Drawing
from engram.report.exports import FORMATS
from engram.report.gallery import load_samples, mistakes
from engram.report.picture import slug
from engram.report.table import (
    GENERATED,
    above_joint,
    accuracy_table,
    class_table,
    headline_table,
    matrix_table,
    seed_table,
    terminal,
)
from engram.report.words import by_accuracy, sentence
from engram.studies.jobs import Event, Job
from engram.studies.results import FoundResult, read, read_result, seed_result, summarise
from engram.studies.settings import DataSettings, NetworkSettings

VOID = {"meta", "img", "br", "hr", "link", "input", "source"}


class Page(HTMLParser):
    """Collects tags with their attributes, and refuses tags that do not nest."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = synthetic.write_comparison(tmp_path_factory.mktemp("comparison"))
    assert write_report(root, every_format=False) == root / "report.html"
    return root


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    parsed = Page()
    parsed.feed(html)
    parsed.close()
    assert parsed.open == []
    return parsed


def test_page_needs_nothing_else(html: str, page: Page) -> None:
    assert not re.search(r"https?://|//cdn|url\(|@import", html)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object"}
    for tag, attrs in page.tags:
        for name in ("src", "href", "srcset"):
            value = attrs.get(name)
            if value is not None:
                assert value.startswith("#" if tag == "a" else "data:image/svg+xml;base64,")


def test_images_open_and_are_described(page: Page) -> None:
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    # 5 overview; matrix, confusion, losses of three methods; samples, masks, gates of the generative one
    assert len(images) == 5 + 3 * 3 + 3
    for attrs in images:
        svg = base64.b64decode((attrs["src"] or "").split(",", 1)[1]).decode()
        assert 'width="374' in svg, "as wide as the page shows it"
        assert "prefers-color-scheme: dark" in svg
        assert len(attrs["alt"] or "") > 30


def test_figures_are_kept_with_their_numbers(folder: Path) -> None:
    figures = folder / "figures"
    svg = {p.stem for p in figures.glob("*.svg")}
    assert {"accuracy-curves", "forgetting-curves", "storage", "network-growth", "dgmw-gates"} <= svg
    assert svg - {p.stem for p in figures.glob("*.csv")} == {"dgmw-samples"}  # images, no numbers
    captions = (figures / "captions.md").read_text(encoding="utf-8")
    assert all(f"**{name}**" in captions for name in svg)
    assert "mean over 3 seeds" in captions
    result = read_result(folder / "dgmw")["summary"]["average_accuracy"]
    rows = list(csv.DictReader((figures / "accuracy-curves.csv").read_text().splitlines()))
    own = [row for row in rows if row["series"] == "dgmw (n=3)"]
    assert [float(row["y"]) for row in own] == pytest.approx([100 * m for m in result["mean"]], rel=1e-5)
    assert [float(row["low"]) for row in own] == pytest.approx([100 * c[0] for c in result["ci95"]], rel=1e-5)


def test_a_style_file_of_ones_own_changes_the_files_and_not_the_page(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    synthetic.write(tmp_path, {".": synthetic.result("finetune", n_seeds=1, n_tasks=2)})
    page = write_report(tmp_path, every_format=False).read_bytes()
    (tmp_path / "paper.mplstyle").write_text("figure.figsize: 3.0, 2.0\nfont.size: 7\n")
    assert write_report(tmp_path, every_format=False, sheet=tmp_path / "paper.mplstyle").read_bytes() == page
    assert 'width="216pt"' in (tmp_path / "figures" / "accuracy-curves.svg").read_text()
    for wrong in ("missing.mplstyle", "study.json"):
        with pytest.raises(EngramError, match="must be a matplotlib style file"):
            write_report(tmp_path, sheet=tmp_path / wrong)
    (tmp_path / "wrong.mplstyle").write_text("no colon\nfont.size: 7\n")
    with pytest.raises(EngramError, match="it is not: Missing colon in file"):
        write_report(tmp_path, sheet=tmp_path / "wrong.mplstyle")
    assert caplog.records == [], "said once, by engram"
    with style.restyled(tmp_path / "paper.mplstyle"):
        assert fig.accuracy_curves([read_result(tmp_path)]).get_figwidth() == 3.0
    assert fig.accuracy_curves([read_result(tmp_path)]).get_figwidth() == 5.2


def test_the_page_begins_with_a_sentence(folder: Path, html: str) -> None:
    results = [f.result for f in read(folder).results]
    ordered = sorted(results, key=by_accuracy)
    assert sentence(ordered) in html
    assert re.fullmatch(
        r"After five tasks dgmw answers 9\d\.\d % of the test images rightly, "
        r"icarl \d\d\.\d % and finetune \d\d\.\d %\. "
        r"Of the images of earlier tasks, icarl kept 200 of them and no other kept any\.",
        sentence(ordered),
    )
    assert sentence(ordered[:1]).endswith("No image of earlier tasks was kept.")
    assert sentence([]) == "Nothing has finished yet."


def test_a_row_for_each_class(folder: Path) -> None:
    result = read_result(folder / "dgmw")
    table = class_table([result])
    assert table is not None
    counts = np.sum([s["confusion"] for s in result["seeds"]], axis=0)
    mean = np.mean([100 * s["confusion"][0][0] / sum(s["confusion"][0]) for s in result["seeds"]])
    assert table.rows[0][1].startswith(f"{mean:.1f} ±")
    wrong = counts[0] * (np.arange(10) != 0)
    assert table.rows[0][2] == f"digit {wrong.argmax()} ({100 * wrong.max() / counts[0].sum():.1f} %)"
    both = class_table([result, read_result(folder / "icarl")])
    assert both is not None
    assert [c.name for c in both.columns] == ["Class", "dgmw", "icarl"]
    other = {**result, "data": {**result["data"], "class_names": list("abcdefghij")}}
    assert class_table([result, other]) is None


def test_images_taken_for_another_class(tmp_path: Path) -> None:
    data = synthetic.result("finetune", n_seeds=1)
    data["seeds"][0]["mistakes"] = "seed-0/mistakes.safetensors"
    synthetic.write(tmp_path, {".": data})
    images = np.random.default_rng(0).integers(0, 255, (2, 3, 8, 8), dtype=np.uint8)
    labels, predicted = np.array([1, 2]), np.array([7, 0])
    tensors = {"images": images, "labels": labels, "predicted": predicted}
    save_file(tensors, tmp_path / "seed-0" / "mistakes.safetensors")
    found = mistakes(FoundResult(tmp_path, read_result(tmp_path)))
    assert found is not None
    assert [words for _, words in found[1]] == ["digit 1, taken for digit 7", "digit 2, taken for digit 0"]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(found[1][0][0].split(",")[1]))))
    np.testing.assert_array_equal(shown, images[0].transpose(1, 2, 0))
    save_file({**tensors, "predicted": np.array([7, 99])}, tmp_path / "seed-0" / "mistakes.safetensors")
    assert mistakes(FoundResult(tmp_path, read_result(tmp_path))) is None


def test_links_lead_somewhere(page: Page) -> None:
    ids = [attrs["id"] for _, attrs in page.tags if attrs.get("id")]
    assert len(ids) == len(set(ids))
    targets = [(attrs["href"] or "")[1:] for tag, attrs in page.tags if tag == "a"]
    assert set(targets) <= set(ids)


def test_tables_are_accessible(page: Page) -> None:
    tables = sum(tag == "table" for tag, _ in page.tags)
    assert tables == sum(tag == "caption" for tag, _ in page.tags) >= 9
    scopes = {attrs.get("scope") for tag, attrs in page.tags if tag == "th"}
    assert scopes == {"row", "col"}


def test_page_says_what_is_not_comparable(html: str) -> None:
    assert "finetune: seed 3 failed and is left out of every number" in html
    assert "number of stored real samples differs" in html
    assert "What a method may read (reads) differs" in html
    assert "mean over 3 seeds ± half width of its 95 % Student-t interval" in html


def test_same_results_give_the_same_page(tmp_path: Path) -> None:
    synthetic.write(tmp_path, {".": synthetic.result("finetune", n_seeds=1, n_tasks=2)})
    first = write_report(tmp_path).read_bytes()
    svg = {p.stem for p in tmp_path.glob("figures/*.svg")}
    assert (
        svg
        == {p.stem for p in tmp_path.glob("figures/*.pdf")}
        == {p.stem for p in tmp_path.glob("figures/*.png")}
    )
    pdf = (tmp_path / "figures" / "finetune-losses.pdf").read_bytes()
    assert write_report(tmp_path).read_bytes() == first
    assert (tmp_path / "figures" / "finetune-losses.pdf").read_bytes() == pdf
    assert not list(tmp_path.glob(".*"))
    # A command ends without PDFs, and leaves none that show other results; the page is the same.
    assert write_report(tmp_path, every_format=False).read_bytes() == first
    assert not [*tmp_path.glob("figures/*.p[dn][fg]"), *tmp_path.glob("figures/page")]


def test_a_page_is_current_until_results_change(tmp_path: Path) -> None:
    data = synthetic.result("finetune", n_seeds=0, failed=True)
    synthetic.write(tmp_path, {".": data})
    assert not is_current(tmp_path)
    write_report(tmp_path)
    assert is_current(tmp_path)
    data["seeds"][0]["error"] = "it failed in another way"
    synthetic.write(tmp_path, {".": data})
    assert not is_current(tmp_path)


def test_a_page_is_drawn_beside_the_last_run(tmp_path: Path) -> None:
    synthetic.write(tmp_path, {".": synthetic.result("finetune", n_seeds=0, failed=True)})
    settings = DataSettings(), NetworkSettings("mlp")
    jobs = [Job(*settings, "finetune", {}, seed, "cpu", f"seed-{seed}") for seed in (0, 1)]
    with Drawing() as drawing:
        heard = drawing.beside(None)
        for event in (*(Event(job, "queued") for job in jobs), Event(jobs[0], "spawn", {"pid": 1})):
            heard(event)
        assert drawing.process is None
        heard(Event(jobs[1], "spawn", {"pid": 2}))
        assert drawing.process is not None
        page = drawing.page(tmp_path)
        before = page.stat().st_mtime_ns
        assert drawing.page(tmp_path).stat().st_mtime_ns == before
        (tmp_path / "study.json").write_text("{")
        with pytest.raises(EngramError, match="not JSON"):
            drawing.page(tmp_path)
    assert is_current(synthetic.write(tmp_path, {".": synthetic.result("finetune", n_seeds=0, failed=True)}))


def test_headline_orders_by_accuracy_and_names_the_spread(folder: Path) -> None:
    results = [f.result for f in read(folder).results]
    table = headline_table(results)
    assert [row[0] for row in table.rows] == ["dgmw", "icarl", "finetune"]
    names = [c.name for c in table.columns]
    best = dict(zip(names, table.rows[0], strict=True))
    summary = results[0]["summary"]["final_average_accuracy"]
    half = (summary["ci95"][1] - summary["ci95"][0]) / 2
    assert best["Final average accuracy"] == f"{100 * summary['mean']:.1f} ± {100 * half:.1f}"
    assert best["Worst seed"] == f"{100 * summary['worst']:.1f}"
    assert best["solver"] == "separate (generated)"
    last = dict(zip(names, table.rows[2], strict=True))
    assert last["Seeds"] == "3 of 4"
    assert [last[name] for name in ("acc_gen", "acc_rev", "Diversity")] == ["–"] * 3
    assert best["acc_rev"] == "93.0 ± 2.5"
    assert best["Diversity"] == "0.70 ± 0.00"


def test_who_lies_above_joint_training_is_named() -> None:
    def of(label: str, *accuracies: float) -> dict[str, Any]:
        made = {**synthetic.result(label), "label": label}
        seeds = [seed_result(i, [[a]]) for i, a in enumerate(accuracies)]
        return {**made, "seeds": seeds, "summary": summarise(seeds)}

    joint, above = of("joint", 0.90, 0.91, 0.92), of("dgmw", 0.97, 0.98, 0.97)
    meets, one = of("ewc", 0.92, 0.93, 0.95), of("si", 0.99)
    assert above_joint([joint, meets, one, above]) == [
        "dgmw lies above joint by more than the intervals, so that joint is no upper bound here: "
        "train it longer, or with the network and augmentation of that row."
    ]
    assert above_joint([joint, meets, one]) == above_joint([above, meets]) == []


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    result = read_result(synthetic.write(tmp_path, {".": synthetic.result("dgmw", n_seeds=1)}))
    table = headline_table([result])
    assert "1 seed, hence no interval" in table.title
    assert table.footnotes == ("dgmw: n = 1, no interval.", GENERATED)
    assert "±" not in "".join(table.rows[0])
    figure = fig.accuracy_curves([result])
    assert not figure.axes[0].collections


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_table_keeps_numbers_whole(folder: Path, width: int) -> None:
    from rich.console import Console

    table = headline_table([f.result for f in read(folder).results])
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(terminal(table, width=width))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert table.rows[0][3] in text
    assert all(row[0] in text for row in table.rows)
    assert "separate (generated)" in text
    assert all(f"[{i}]" in text for i in range(1, len(table.footnotes) + 1))


def test_tables_hold_the_numbers(folder: Path) -> None:
    result = read_result(folder / "finetune")
    assert (
        accuracy_table([result])
        .rows[0][2]
        .startswith(f"{100 * result['summary']['average_accuracy']['mean'][0]:.1f} ±")
    )
    matrix = matrix_table(result)
    assert matrix.rows[0][2] == "–"
    mean = 100 * np.mean([s["accuracy_matrix"][4][0] for s in result["seeds"][:3]])
    assert matrix.rows[4][1].startswith(f"{mean:.1f} ±")
    failed = seed_table(result).rows[3]
    assert failed[1:3] == ("failed", "–")
    assert "not finite" in failed[-1]


def test_nothing_finished_still_gives_a_page(tmp_path: Path) -> None:
    data = synthetic.result("finetune", n_seeds=0, failed=True)
    synthetic.write(tmp_path, {".": data})
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "no finished seed" in text
    assert "<img" not in text


def test_text_from_results_is_escaped(tmp_path: Path) -> None:
    data = synthetic.result("finetune", n_seeds=0)
    data["label"] = "<b>x</b> & $y$"
    data["seeds"] = [seed_result(0, [], status="failed", error="<script>alert(1)</script>")]
    synthetic.write(tmp_path, {".": data})
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "<script>" not in text
    assert "<b>x</b>" not in text


def hostile(value: Any) -> Any:
    """A JSON value in which every text sends a terminal away; what the reader looks up stays."""
    if isinstance(value, dict):
        return {key: one if key in KEPT else hostile(one) for key, one in value.items()}
    if isinstance(value, list):
        return list(map(hostile, value))
    return f"{value}\x1b[2J\x9b\u202e\r\x00\udce9" if isinstance(value, str) else value


KEPT = ("kind", "status", "class", "folder", "method", "samples")


def test_no_control_character_of_a_file_reaches_terminal_page_or_export(tmp_path: Path, capsys) -> None:
    data = synthetic.result("finetune", n_seeds=0, n_tasks=1, failed=True)
    synthetic.write(tmp_path, {".": {**data, "seeds": [{**data["seeds"][0], "accuracy_matrix": [[0.5]]}]}})
    for path in (tmp_path / "study.json", *tmp_path.glob("seed-*/seed.json")):
        value = json.loads(path.read_text())
        del value["sha256"]
        kept = {k: value[k] for k in ("schema", "kind", "identity") if k in value}
        changed = hostile(value) | kept
        for new, old in zip(changed.get("variants", ()), value.get("variants", ()), strict=True):
            new |= {k: old[k] for k in ("identity", "engram")}
        path.write_text(json.dumps(with_checksum(changed)))
    assert main(["report", str(tmp_path), "--format", "html", *FORMATS]) == 0
    texts = [capsys.readouterr().out]
    texts += [p.read_text(encoding="utf-8") for p in tmp_path.glob("*.*") if p.name != "study.json"]
    assert len(texts) == 2 + len(FORMATS)
    for text in texts:
        assert "x1b" in text
        assert all(c.isprintable() or c == "\n" for c in text)


def test_one_task_and_equal_labels(tmp_path: Path) -> None:
    """One task has no forgetting, and a label with dollars and braces is drawn as it is."""
    data = {**synthetic.result("finetune", n_seeds=2, n_tasks=1), "label": "lr $10^{-3$"}
    for name in ("a", "b"):  # as two runs of before that were put side by side
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps({"schema": 1, **data}))
    text = write_report(tmp_path, every_format=False).read_text(encoding="utf-8")
    assert "lr $10^{-3$ (2)" in text
    assert "forgetting-curves" not in text


def test_many_tasks_and_classes(tmp_path: Path) -> None:
    result = read_result(synthetic.write(tmp_path, {".": synthetic.result("dgmw", n_seeds=2, n_tasks=25)}))
    for figure in (fig.accuracy_matrix(result), fig.confusion_matrix(result), fig.network_growth([result])):
        figure.canvas.draw()
        ticks = [t.get_text() for t in figure.axes[0].get_xticklabels()]
        assert 5 <= len(ticks) <= 20


def test_samples_outside_the_folder_are_not_read_and_damaged_ones_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    good = read_result(folder / "dgmw")
    found = load_samples(FoundResult(folder / "dgmw", good))
    assert found is not None
    assert found[0] == 0
    assert found[1].shape == (10, 8, 1, 8, 8)
    good["seeds"][0]["samples"] = "../dgmw/seed-0/samples.safetensors"
    assert load_samples(FoundResult(folder / "icarl", good)) is None
    (tmp_path / "broken.safetensors").write_bytes(b"broken")
    good["seeds"][0]["samples"] = "broken.safetensors"
    with pytest.raises(EngramError, match=r"broken\.safetensors must be a file of safetensors"):
        load_samples(FoundResult(tmp_path, good))


def test_what_is_kept_after_each_task_and_samples_after_each_task(folder: Path) -> None:
    result = read_result(folder / "dgmw")
    n = len(result["tasks"])
    assert fig.memory_account(result) == {}  # of a version that did not record it
    for seed in result["seeds"]:
        for t, task in enumerate(seed["tasks"], 1):
            task["storage_bytes"] = {"weights": 100 * t, "masks": 10}
    account = fig.memory_account(result)
    assert account["weights"].tolist() == [100 * t for t in range(1, n + 1)]
    figure = fig.memory_curves([result])
    lines = {str(line.get_label()): line.get_ydata() for line in figure.axes[0].lines}
    np.testing.assert_allclose(lines["dgmw"], [(100 * t + 10) / 1024 for t in range(1, n + 1)])
    assert lines["training images"][-1] * 1024 == fig.image_bytes(result)[-1]
    sheets = [np.full((t, 2, 1, 8, 8), t, dtype=np.uint8) for t in (1, 2)]
    shown = fig.samples_over_tasks(result, sheets, seed=0).axes[0].images[0].get_array()
    assert shown is not None
    assert [shown[0, 0], shown[10, 0], shown[10, 10], shown[0, 10]] == [1, 2, 2, 255]
    many = [np.zeros((50, 1, 1, 8, 8), dtype=np.uint8)]
    assert fig.samples_over_tasks(result, many, seed=0).axes[0].images[0].get_array().shape == (10, 200)  # type: ignore[union-attr]


def test_colour_samples(folder: Path) -> None:
    result = read_result(folder / "dgmw")
    images = np.random.default_rng(0).integers(0, 255, (2, 3, 3, 8, 8), dtype=np.uint8)
    figure = fig.sample_grid(result, images, np.array([0, 1]), seed=0)
    shown = figure.axes[0].images[0].get_array()
    assert shown is not None
    np.testing.assert_array_equal(shown[:8, :8], images[0, 0].transpose(1, 2, 0))


def test_curves_show_the_summary(folder: Path) -> None:
    results = [read_result(folder / m) for m in ("dgmw", "icarl")]
    lines = fig.accuracy_curves(results).axes[0].lines
    for line, result in zip(lines, results, strict=True):
        mean = result["summary"]["average_accuracy"]["mean"]
        np.testing.assert_allclose(line.get_ydata(), 100 * np.array(mean))
    assert lines[0].get_color() != lines[1].get_color()
    assert lines[0].get_marker() != lines[1].get_marker()


def test_growth_worst_case_is_linear(folder: Path) -> None:
    result = read_result(folder / "dgmw")
    size, worst, _ = fig.network_growth([result]).axes[0].lines
    first = np.asarray(size.get_ydata())[0]
    np.testing.assert_allclose(worst.get_ydata(), first * np.arange(1, 6))


def test_reserved_units_are_not_drawn_as_weights(folder: Path) -> None:
    result = read_result(folder / "dgmw")
    for task in result["seeds"][0]["tasks"]:
        for layer in task["mask_use"]:
            layer["size"] = 24
    assert len(fig.network_growth([result]).axes[0].lines) == 2


def test_only_the_last_row_measured(tmp_path: Path) -> None:
    """Joint training once on all tasks: a final accuracy, but no curve and no forgetting."""
    data = synthetic.result("joint", n_seeds=2)
    for index, seed in enumerate(data["seeds"]):
        matrix = [[None] * 5] * 4 + [[0.9, 0.9, 0.8, 0.9, 0.9 - 0.1 * index]]
        data["seeds"][index] = seed_result(seed["seed"], matrix)
    synthetic.write(tmp_path, {".": data})
    text = write_report(tmp_path, every_format=False).read_text(encoding="utf-8")
    row = headline_table([read_result(tmp_path)]).rows[0]
    assert row[3].startswith("87.0 ±")
    assert row[5] == "–"
    assert "Fréchet" not in text.partition("</table>")[0], "no column of generative methods"
    assert "<img" in text


def test_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngramError, match=r"no study\.json"):
        write_report(tmp_path)


def test_slug() -> None:
    assert slug("DGMw, solver=joint") == "dgmw-solver-joint"
    assert slug("***") == "method"


def test_importing_the_report_imports_nothing_heavy() -> None:
    code = "import sys, engram.report, engram.studies.results; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in ("matplotlib", "scipy", "jinja2", "rich", "yaml", "safetensors"):
        assert f"'{name}'" not in done.stdout
