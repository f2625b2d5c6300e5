"""What a user can get wrong: one line, exit status 2, existing results untouched."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stripes import SMALL, contents

import engram
from calling import Call, Refused
from engram.cli.main import main
from engram.core.files import in_use
from engram.errors import EngramError
from engram.studies.building import prepare
from engram.studies.results import read_result
from engram.studies.settings import DataSettings, NetworkSettings


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (
            ["rn", "finetune"],
            [
                "run, compare, sweep, tradeoff, learn, predict, inspect, verify, undo, forget, export, reproduce,",
                "did you mean run?",
            ],
        ),
        (["run"], ["a method must be named first"]),
        (["run", "finetune", "joint"], ["use engram compare"]),
        (["run", "finetun"], ["'finetun'", "did you mean finetune?"]),
        (["compare", "finetune", "finetune"], ["named once"]),
        (["compare", "finetune:lr"], ["NAME:option=value"]),
        (["compare", "finetune:epoch=3"], ["did you mean epochs?"]),
        (["compare", "finetune:epochs=many"], ["--finetune.epochs must be an integer >= 1, got 'many'"]),
        (["list", "dgmv"], ["did you mean dgm"]),
        (["list", "si", "--bad"], ["--bad", "engram list --help"]),
        (["list", "mine", "--method-file", "nowhere.py"], ["nowhere.py"]),
        (["run", "finetune", "--network", "net.py"], ["give net.py:NAME"]),
        (["run", "finetune", "--features", "net.py"], ["give net.py:NAME"]),
        (["run", "finetune", "--data", "./nowhere"], ["must be a folder that there is, got ./nowhere"]),
        (["report", "nowhere"], ["nowhere is not a folder"]),
        (["run", "finetune", "--data", "digts"], ["data must be", "did you mean digits?"]),
        (["run", "finetune", "--data-dir", "nowhere", "--data", "mnist"], ["must be a folder, got nowhere"]),
        (["run", "finetune", "--dta", "x"], ["'--dta'", "did you mean --data?"]),
        (["run", "finetune", "--finetune.epoch", "3"], ["did you mean --finetune.epochs?"]),
        (
            ["run", "fetril", "--fetril.lr", "1e308"],
            ["--fetril.lr must lie within -1e+30 and 1e+30, got '1e308'"],
        ),
        (
            ["run", "finetune", "--finetune.epochs", "abc"],
            ["--finetune.epochs must be an integer >= 1, got 'abc'"],
        ),
        (["run", "finetune", "--finetune.epochs", "-1"], ["epochs must be", "-1"]),
        (["run", "finetune", "--finetune.optimiser", "adm"], ["adam | sgd", "did you mean adam?"]),
        (["run", "finetune", "--finetune.lr", "abc"], ["--finetune.lr must be a number > 0, got 'abc'"]),
        (["run", "finetune", "--tasks", "11"], ["--tasks must be", "1..10", "got 11"]),
        (["run", "finetune", "--valid-fraction", "2"], ["--valid-fraction must be a number in [0, 1)"]),
        (["run", "finetune", "--max-per-class", "0"], ["--max-per-class must be an integer"]),
        (
            ["run", "finetune", "--recipe", "none", "--tasks", "2", "--groups", "[5,5]"],
            ["only one of tasks and groups"],
        ),
        (["run", "finetune", "--groups", "[5,6]"], ["add up to the 10 classes"]),
        (["run", "finetune", "--class-order", "[1,2]"], ["--class-order must be", "each label 0..9 once"]),
        (["run", "finetune", "--seeds", "1", "1"], ["distinct integers"]),
        (["run", "finetune", "--jobs", "0"], ["jobs must be an integer >= 1"]),
        (["run", "finetune", "--resume", "--overwrite"], ["only one of resume and overwrite"]),
        (["run", "finetune", "--recipe", "digts"], ["did you mean digits?"]),
        (["run", "finetune", "--network", "mpl"], ["did you mean mlp?"]),
        (["run", "finetune", "--network", "mlp", "--dcgan.n_f", "3"], ["--dcgan.n_f", "--network dcgan"]),
        (["run", "finetune", "--network", "dcgan", "--image-size", "16"], ["32x32", "16x16"]),
        (["run", "finetune", "--config", "nowhere.yaml"], ["nowhere.yaml"]),
        (["run", "dgmw", "--scenario", "task"], ["scenario must be one of class"]),
        (["run", "dgmw", "--recipe", "none", "--network", "mlp"], ["must have a generator"]),
        (["run", "finetune", "--device", "tpu"], ["cpu or cuda"]),
        (
            ["run", "packnet", "--scenario", "task", "--tasks", "5", "--packnet.later_prune", "0.01"],
            ["of 5 tasks task", "finds none left in", "first_prune, later_prune, shares"],
        ),
        *[
            (
                ["run", name, "--scenario", "task", "--network", "preact-resnet"],
                [f"{name} needs", "such as mlp"],
            )
            for name in ("pnn", "den", "vcl", "pc")
        ],
        *[
            (["run", name.lower()], [f"one of task for {name}"])
            for name in ("PackNet", "Piggyback", "Pnn", "Den")
        ],
    ],
)
def test_one_line(argv: list[str], words: list[str], refused: Refused, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = refused(*argv)
    for word in words:
        assert word in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("all images must have one size: give image_size= to resize.", "give --image-size to resize."),
        ("groups must be integers", "--groups must be integers"),
        ("si.c must be a number", "--si.c must be a number"),
        ("new.png must be a usable image", "new.png must be a usable image"),
        ("it holds another (data.stream_seed: 0 there, 3 now)", "(data.stream_seed: 0 there, 3 now)"),
        ("/my/n_tasks/a.png: must be readable", "/my/n_tasks/a.png: must be readable"),
        ("must be known, got 'image_size'", "got 'image_size'"),
        ("give a larger --valid-fraction.", "a larger --valid-fraction."),
    ],
)
def test_messages_use_the_names_of_the_command_line(given: str, shown: str):
    from engram.cli.ending import in_our_words

    assert in_our_words(given).endswith(shown)
    assert in_our_words(given).startswith("--") == shown.startswith("--")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("finetune: {epoks: 3}", ["'finetune.epoks' in ", "bad.yaml", "did you mean finetune.epochs?"]),
        ("finetune: {epochs: abc}", ["bad.yaml: --finetune.epochs must be an integer", "abc"]),
        ("mlp: {hidden: [8]}", ["--mlp.hidden in ", "bad.yaml", "give --network mlp."]),
        ("scattering: {J: 2}", ["--scattering.J in ", "bad.yaml", "give --features scattering."]),
        ("seeds: 0,x", ["bad.yaml: --seeds must be a list of integers"]),
        ("tasks: [1", ["readable YAML"]),
        ("- 3", ["options by name"]),
    ],
)
def test_bad_files(text: str, words: list[str], refused: Refused, tmp_path: Path):
    (tmp_path / "bad.yaml").write_text(text)
    said = refused("run", "finetune", "--config", tmp_path / "bad.yaml", "--out", tmp_path / "out")
    for word in words:
        assert word in said
    assert not (tmp_path / "out").exists()


def test_a_precision_that_the_processor_has_not(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    said = refused("run", "finetune", *SMALL, "--precision", "bf16", "--out", tmp_path / "out")
    assert "bf16 needs a processor with AVX-512 BF16, which device cpu is not" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without an accelerator")
def test_no_accelerator(refused: Refused, tmp_path: Path):
    assert "give --device cpu" in refused("run", "finetune", "--device", "cuda", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def image(path: Path, size: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size, size), 7, np.uint8)).save(path)


def test_images_that_cannot_be_used(refused: Refused, finished: Path, tmp_path: Path):
    before = contents(finished)

    def said(folder: Path) -> str:
        text = refused("run", "finetune", *SMALL, "--data", folder, "--out", finished, "--overwrite")
        assert contents(finished) == before
        return text

    missing = tmp_path / "missing"
    for name in ("train/a/1", "train/b/1", "train/c/1", "test/a/1", "test/b/1"):
        image(missing / f"{name}.png")
    assert '"c"' in said(missing)
    corrupted = tmp_path / "corrupted"
    shutil.copytree(missing, corrupted)
    image(corrupted / "test/c/1.png")
    (corrupted / "train/b/2.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    assert "2.png" in said(corrupted)
    mixed = tmp_path / "mixed"
    shutil.copytree(missing, mixed)
    image(mixed / "test/c/1.png", size=9)
    assert "give --image-size to resize" in said(mixed)
    stream, _ = prepare(DataSettings(data=str(mixed)), NetworkSettings("dcgan"))  # which says what it needs
    assert stream.image_shape == (1, 32, 32)
    assert "images of several sizes resized to 32x32" in str(stream.images.notes)


def test_a_folder_that_holds_something_else(refused: Refused, finished: Path):
    before = contents(finished)
    small = [*SMALL, "--seeds", 1, "--out", finished]
    assert "stream_seed: 0 there, 3 now" in refused("run", "finetune", *small, "--stream-seed", 3)
    assert "epochs: 3 there, 4 now" in refused("run", "finetune", *small, "--finetune.epochs", 4)
    assert "joint" in refused(
        "run", "joint", *[a for a in small if a not in ("--finetune.epochs", "3")], "--tasks", 3
    )
    assert "it holds a run" in refused("compare", "finetune", *small)
    assert "a run of other seeds: give --resume" in refused("run", "finetune", *small, "--seeds", 1, 2)
    assert contents(finished) == before
    (finished / "study.json").write_text("{")
    assert "not JSON" in refused("run", "finetune", *small)
    shutil.rmtree(finished / "seed-1")
    (finished / "config.yaml").unlink()
    (finished / "study.json").write_text("[" * 10_000)
    assert "nested too deeply" in refused("run", "finetune", *small)
    assert "holds other files" in refused("run", "finetune", *small, "--overwrite")


def test_checkpoints_of_another_stream(refused: Refused, killed: Path):
    (killed / "study.json").unlink()
    before = contents(killed)
    small = [*SMALL, "--seeds", 0, 1, "--out", killed, "--resume"]
    text = refused("run", "finetune", *small, "--stream-seed", 3)
    assert "resumed only by the run that wrote it" in text
    assert "stream" in text
    assert contents(killed) == before


@pytest.mark.usefixtures("every_epoch")
def test_training_that_diverges(call: Call, tmp_path: Path):
    out = tmp_path / "wild"
    # Weights grow twentyfold a step: finite after the first epochs, not for long.
    wild = ["--finetune.optimiser", "sgd", "--finetune.lr", 1, "--finetune.weight_decay", 21]
    wild += ["--finetune.batch_size", 1000, "--finetune.epochs", 60]
    done = call("run", "finetune", *SMALL, *wild, "--out", out)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "of task 1" in done.err
    assert "learning rate" in done.err
    (entry,) = read_result(out)["seeds"]
    assert entry["status"] == "failed"
    assert "finite" in entry["error"]
    newest = max((out / "seed-0" / "checkpoints").glob("*.json"))
    assert json.loads(newest.read_text())["cursor"]["epochs"] >= 1


def test_two_at_once(refused: Refused, finished: Path):
    before = contents(finished)
    with in_use(finished):
        text = refused("run", "finetune", *SMALL, "--seeds", 1, "--out", finished, "--overwrite")
    assert "another engram process" in text
    assert contents(finished) == before


def test_places_that_the_system_refuses(refused: Refused, tmp_path: Path):
    (tmp_path / "file").touch()
    for out, why in (
        (tmp_path / "file" / "x", "Not a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        text = refused("run", "finetune", *SMALL, "--out", out)
        assert str(out) in text
        assert why in text
        with pytest.raises(EngramError, match=why):
            engram.compare(["finetune"], "stripes", recipe="none", out=out)


def test_a_place_that_only_a_worker_finds_refused(call: Call, finished: Path):
    (finished / "seed-2").mkdir()
    (finished / "seed-2" / "checkpoints").touch()
    done = call("run", "finetune", *SMALL, "--seeds", 1, 2, "--out", finished, "--resume")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "seed-2/checkpoints" in done.err
    assert "unexpected" not in done.err


@pytest.mark.parametrize("words", ["--help", "list", "list si", "run si --help"])
@pytest.mark.parametrize(
    ("where", "code", "said"),
    [(">&-", 0, ""), ("", 0, ""), (">/dev/full", 2, "engram: standard output must be writable")],
)
def test_standard_output_that_is_closed_left_or_full(words: str, where: str, code: int, said: str):
    read, write = os.pipe()
    os.close(read)
    line = f"{sys.executable} -m engram {words} {where}"
    done = subprocess.run(["bash", "-c", line], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == (1 if said else 0)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_standard_output_of_any_encoding(encoding: str, finished: Path, monkeypatch):
    odd = finished.rename(
        finished.with_name("caf\udce9 \x1b[31m…")
    )  # bytes that are no text, and control characters
    written = io.BytesIO()
    with io.TextIOWrapper(written, encoding=encoding) as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert main(["report", str(odd)]) == 0
        output.flush()
        text = written.getvalue().decode(encoding)
    assert "\x1b" not in text
    dots = "…" if encoding == "utf-8" else "..."
    assert text.splitlines()[-1] == f"Report: {odd.parent}/caf\\xe9 \\x1b[31m{dots}/report.html"


@pytest.mark.parametrize("why", ["Broken pipe", "No space left on device"])
def test_a_run_that_cannot_tell(why: str, call: Call, tmp_path: Path, monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with open(write if why == "Broken pipe" else "/dev/full", "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        done = call("run", "finetune", *SMALL, "--out", tmp_path / "out")
        monkeypatch.undo()
    assert done.code == 2
    assert done.err == f"engram: standard output must be writable to the end, it is not: {why}.\n"
