"""Commands in the documentation are run, page by page and in order, in small: the words of the page, on little.

What is cut down is the same for all: data sets are a few made-up images, of the sizes and classes of those
named; a phase of training is one epoch, of one step where it says how many; a stream has two tasks where
their number is free; networks are narrow, scattering has two angles; a generator draws a few samples of each
class, and is judged by a classifier of a few steps; one seed is run, in this process; a sweep tries the first
and the last of its values, a trade-off three. Options, recipes, methods and features are the page's own. A
reproduction trains nothing, and figures are kept as SVG alone.

DIR and MEMORY stand for results and a memory that are there.
"""

from __future__ import annotations

import io
import re
import shlex
import shutil
import subprocess
from glob import glob
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from calling import Call, no_figures
from engram.cli.main import main
from engram.core.contract import Phase
from engram.parts import solver
from engram.protocols import evaluation
from engram.recipes import chosen_recipe
from engram.report import style
from engram.studies import processes
from synthetic import write_comparison

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "reproductions" / "README.md"]
LEARN = ("run", "compare", "sweep", "tradeoff")
#: Stands for something of the reader's, or names a file that another test of the documentation writes and runs.
OPEN = re.compile(r"\.\.\.|[<;]|\w\.py\b|mymethod|\b(?!(DIR|MEMORY|CLASS)\b)[A-Z]{3,}\b|\b[A-Z] ")
#: What a learning command may have otherwise and still be the one that an earlier page asks for.
SAME = re.compile(
    r" --(seeds( \d+)+|out \S+|device \w+|compile cudagraphs|jobs \d+|widen \d+|no-run|budget quick)"
)
#: Side, channels and number of classes of data sets that are not bundled.
SETS = {
    "mnist": (28, 1, 10),
    "mnist_m": (32, 3, 10),
    "cifar10": (32, 3, 10),
    "tiny_imagenet_50": (64, 3, 50),
    "tiny_imagenet_100_32px": (32, 3, 100),
}

#: Options of networks and methods whose size takes time, or is more than there is.
SMALL = {
    "mlp": "--mlp.hidden [16]",
    "dcgan": "--dcgan.n_d 4 --dcgan.n_f 4",
    "resgan": "--resgan.n_d 4 --resgan.n_f 4",
    "preact-resnet": "--preact-resnet.widths [4,4,4] --preact-resnet.units [1,1,1]",
    "cifar-cnn": "--cifar-cnn.n_c 4 --cifar-cnn.n_h 16",
    "vcl": "--vcl.coreset_size 4",
    "ewc-gan": "--ewc-gan.fisher_samples 4",
    "joint": "--joint.at []",
    "dgmw": "--dgmw.solver_samples 4 --dgmw.bn_reestimate 2",
    "dgma": "--dgma.solver_samples 4 --dgma.bn_reestimate 2",
}


def commands(text: str) -> list[str]:
    """engram's command lines of a page, in order, and what leads up to them, but those that leave a word open."""
    text = re.sub(r"(?ms)^```(python|yaml).*?^```", "", text)
    code = re.finditer(r"(?ms)^```\w*\n(.*?)^```|^    (engram .*?)$|`(engram [^`]+)`", text)
    blocks = [m[1] or m[2] or " ".join(m[3].split()) for m in code]
    lines = [line.partition(" #")[0].strip() for b in blocks for line in b.replace("\\\n", " ").splitlines()]
    return [
        " ".join(s.split()) for s in lines if re.match(r"(engram \w+|rm -r|find) ", s) and not OPEN.search(s)
    ]


def asked(texts: dict[str, str]) -> dict[str, list[str]]:
    """What is run for each page: all but learning that an earlier page asks for, unless the page reads its folder."""
    seen: set[str] = set()
    out = {}
    for page, text in texts.items():
        lines = commands(text)
        read = {line.split()[2] for line in lines if line.startswith("engram report ")}
        kept = []
        for line in dict.fromkeys(lines):
            words, same = line.split(), SAME.sub("", re.sub(r"export \w+", "export", line))
            same = " ".join(sorted(same.split()))
            learns = words[1] in (*LEARN, "list", "reproduce", "export")
            if not (learns and same in seen) or option(words, "--out") in read:
                kept.append(line)
            seen.add(same)
        if kept:
            out[page] = kept
    return out


def option(words: list[str], flag: str) -> str | None:
    return words[words.index(flag) + 1] if flag in words else None


ASKED = asked({p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8") for p in PAGES})


def cut(words: list[str], n: int) -> list[str]:
    """The words of the nth command, cut down as told above."""
    if words[0] == "reproduce" and "--list" not in words:
        return [*words, "--no-run", "--out", f"out-{n}"]
    if words[0] == "export":
        return [re.sub("onnx$", "pt2", word) for word in words]
    if words[0] not in LEARN or "--print-config" in words:
        return words
    words = [word.replace("cudagraphs", "eager") for word in words]  # as --device cuda becomes cpu
    kept = 3 if words[0] == "tradeoff" else 2
    for i in (i + 1 for i, word in enumerate(words) if word == "--over"):
        values = words[i].split(",")
        words[i] = ",".join([*values[: kept - 1], values[-1]] if len(values) > kept else values)
    out = option(words, "--out")
    little = [
        "--max-per-class",
        "6",
        "--seeds",
        "0",
        "--device",
        "cpu",
        "--jobs",
        "1",
        "--quiet",
        "--overwrite",
    ]
    little += ["--out", out if out not in (None, "DIR") else f"out-{n}"]
    recipe = chosen_recipe(
        option(words, "--recipe"), option(words, "--data") or "digits", option(words, "--features")
    )
    network = option(words, "--network") or (recipe.network if recipe else None)
    network = "preact-resnet" if words[0] == "tradeoff" and network is None else network
    sized = (
        network,
        *dict.fromkeys(w.partition(":")[0] for w in takewhile(lambda w: w[0] != "-", words[1:])),
    )
    little += [word for name in sized for word in SMALL.get(name or "", "").split()]
    if "scattering" in " ".join(words) or (recipe and recipe.features):
        little += ["--scattering.L", "2"]
    if words[0] == "tradeoff":
        return [*words, *little, "--points", "3", "--widen", "0"]
    fields = {
        **(recipe.data if recipe else {}),
        **({"data": option(words, "--data")} if "--data" in words else {}),
    }
    if (
        "--config" not in words
        and "--groups" not in words
        and "groups" not in fields
        and "+" not in fields.get("data", "")
    ):
        little += ["--tasks", "2"]
    return [*words, *little]


def draw(folder: Path, n: int, side: int, channels: int = 3, kind: str = "png") -> None:
    """Noise with stripes that tell the folder's name."""
    rng = np.random.default_rng(sum(map(ord, folder.name)))
    stripes = 50 * (rng.random((side, 1)) < 0.5)
    folder.mkdir(parents=True)
    for i in range(n):
        planes = [rng.integers(0, 200, (side, side)) + stripes for _ in range(channels)]
        pixels = np.stack(planes, -1).squeeze(-1) if channels == 1 else np.stack(planes, -1)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.{kind}", compress_level=1)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data sets, a reader's photos, a memory, and results."""
    root = tmp_path_factory.mktemp("prepared")
    for name, (side, channels, n_classes) in SETS.items():
        for split, n in (("train", 6), ("test", 2)):
            for label in range(n_classes):
                draw(root / "data" / name / split / f"{label:02}", n, side, channels)
    place = root / "place"
    for month, classes in {"may": ("cup", "fork"), "june": ("spoon", "knife"), "july": ("cup",)}.items():
        for name in classes:
            draw(place / f"photos-{month}" / name, 30, 24, kind="jpg")
    for folder in ("photos", "new"):
        draw(place / folder, 2, 24, kind="jpg")
    for name in ("new.jpg", "a.jpg", "b.png"):
        Image.open(place / "new" / "0.jpg").save(place / name)
    for month, more in (("may", ["--method", "ncm"]), ("june", [])):
        photos = place / f"photos-{month}"
        assert main(["learn", str(photos), "--into", str(place / "MEMORY"), *more]) == 0
    for results in ("DIR", "runs/elsewhere"):
        write_comparison(place / results, n_seeds=2, n_tasks=2)
    (place / "paper.mplstyle").write_text("font.size: 8\n", encoding="utf-8")
    (place / "reproductions").symlink_to(ROOT / "reproductions")
    return root


@pytest.fixture
def small(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader's folder, and training in small, in this process: a fork would take as long as such a run."""
    here = shutil.copytree(prepared / "place", tmp_path / "here", symlinks=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("ENGRAM_DATA", str(prepared / "data"))
    monkeypatch.setenv("ENGRAM_CACHE", str(prepared / "cache"))
    no_figures(monkeypatch)
    monkeypatch.setattr(evaluation, "STEPS", 2)
    monkeypatch.setattr(evaluation, "PER_CLASS", 4)
    monkeypatch.setattr(solver, "CALIBRATION_BATCHES", 2)
    monkeypatch.setattr(style, "every_format", False)
    monkeypatch.setattr(processes.Processes, "_begin", lambda self, *given: processes._run_here(*given))
    made = Phase.__init__

    def short(self: Phase, *given: Any, **named: Any) -> None:
        made(self, *given, **named)
        object.__setattr__(self, "epochs", 1)
        object.__setattr__(self, "steps_per_epoch", self.steps_per_epoch and 1)

    monkeypatch.setattr(Phase, "__init__", short)


def follow(lines: list[str], call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run lines as a shell would, engram's commands in this process; standard input is a photo's path."""
    for n, line in enumerate(lines):
        line, _, file = line.partition(" > ")
        before, _, command = line.rpartition(" | ")
        given = "new.jpg\n"
        if before:
            of_here = before.replace("find /", "find .")
            given = subprocess.run(of_here, shell=True, capture_output=True, text=True, check=True).stdout
        monkeypatch.setattr("sys.stdin", io.StringIO(given))
        words = [w for word in shlex.split(command) for w in (sorted(glob(word)) or [word])]
        if words[0] == "rm":
            shutil.rmtree(words[2])
            continue
        done = call(*cut(["cup" if w == "CLASS" else w for w in words[1:]], n))
        assert done.code == 0, f"{line}: {done.err}"
        if file:
            Path(file).write_text(done.out, encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("page", ASKED)
def test_commands_do_what_the_page_says(page: str, small: None, call: Call, monkeypatch: pytest.MonkeyPatch):
    follow(ASKED[page], call, monkeypatch)


def test_there_are_commands_to_run():
    assert sum(line.split()[1] in LEARN for lines in ASKED.values() for line in lines) > 70


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("```\nengram run packnet --data mnist --tasks 5\n```", "scenario must be one of task"),
        ("Or `engram run dgmw\n--recipe si-splitmnist`.", "must be one of class for Dgm"),
        ("    engram report nowhere --format csv\n", "nowhere"),
    ],
)
def test_a_broken_example_is_found(
    text: str, words: str, small: None, call: Call, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(AssertionError, match=words):
        follow(asked({"page": text})["page"], call, monkeypatch)
