"""The documentation's Python is run, page by page, in small where a page would take long."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import engram
from calling import no_figures
from engram.protocols import evaluation

ROOT = Path(__file__).parents[2]
#: Pages whose examples are run by tests of their own.
ELSEWHERE = {
    "docs/your-method.md": "tests/checks/test_documented_example.py",
    "docs/your-own.md": "tests/studies/test_objects.py",
    "docs/export.md": "tests/memory/test_export.py",
}


def examples(page: str) -> str:
    """All Python of a page."""
    return "\n".join(re.findall(r"(?ms)^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8")))


def given(page: str) -> dict[str, Any]:
    """The names that a page takes for granted, and the files that it reads."""
    rng = np.random.default_rng(0)
    if page == "docs/memory.md":
        cups, forks, spoons, knives = (
            rng.integers(0, 60, (6, 28, 28, 3)).astype(np.uint8) + 40 * k for k in range(4)
        )
        Image.fromarray(cups[0]).save("new.jpg")
        images, labels = np.concatenate([spoons, knives]), ["spoon"] * 6 + ["knife"] * 6
        return {"cups": list(cups), "forks": list(forks), "images": list(images), "labels": labels}
    if page == "docs/methods/rescl.md":
        source, target = (nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU()) for _ in range(2))
        return {"source": source.eval(), "target": target.eval(), "x": torch.rand(2, 1, 8, 8)}
    if page == "docs/analyses.md":
        data = engram.DataSettings("digits", scenario="domain", tasks=2, max_per_class=5)
        options = {"si": {"epochs": 1, "keep_omegas": True}}
        engram.compare(["si"], data, "mlp", out="runs/permuted", options=options, recipe="none", jobs=1)
    if page == "docs/results.md":
        Path("paper.mplstyle").write_text("figure.figsize: 3.3, 2.2\n")
    return {}


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of one epoch on few images, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    images = engram.DataSettings("digits", tasks=2, max_per_class=5)
    usual: dict[str, Any] = {"recipe": "none", "jobs": 1}
    compare, method = engram.compare, engram.method

    def few(methods: Any, data: Any, network: Any = "mlp", **more: Any) -> Any:
        options = {name: {"epochs": 1} for name in ("si", "finetune")}
        return compare(
            methods, images if data == "digits" else data, network, **{"options": options, **usual, **more}
        )

    monkeypatch.setattr(engram, "compare", few, raising=False)
    no_figures(monkeypatch)
    monkeypatch.setattr(evaluation, "STEPS", 10)
    monkeypatch.setattr(evaluation, "PER_CLASS", 10)
    build = engram.class_incremental
    two_tasks = functools.partial(build, n_tasks=2, max_per_class=20)
    monkeypatch.setattr(engram, "class_incremental", lambda data, n_tasks: two_tasks(data), raising=False)
    short = {"epochs": 1, "steps_per_epoch": 2, "solver_epochs": 1, "solver_steps": 2, "solver_samples": 20}

    def shorter(name: str, **options: Any) -> Any:
        return method(
            name, **{**options, **{k: v for k, v in short.items() if k in options or name == "dgmw"}}
        )

    monkeypatch.setattr(engram, "method", shorter, raising=False)


PAGES = sorted(p.relative_to(ROOT).as_posix() for p in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")))
WITH_PYTHON = [page for page in PAGES if examples(page)]


def test_pages_of_tests_of_their_own_are_run_there():
    for page, test in ELSEWHERE.items():
        assert page in WITH_PYTHON
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [page for page in WITH_PYTHON if page not in ELSEWHERE])
def test_the_examples_run(page: str, small: None):
    names = {"__name__": "example", **given(page)}
    exec(compile(examples(page), page, "exec"), names)
    made = {"docs/results.md": "curves.pdf", "docs/memory.md": "memory", "docs/learner.md": "memory"}
    if page in made:
        assert Path(made[page]).exists()
