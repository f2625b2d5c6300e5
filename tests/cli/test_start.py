"""What a command imports: a short run takes little longer than it learns only while that is little."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from engram.core.staying import staying

RUN = """
import sys
from engram.cli.main import main
assert main(["run", "finetune", *sys.argv[1:], "--quiet"]) == 0
print(*sys.modules, file=sys.stderr)
"""
PAGE = """
import importlib, sys
from engram.report import drawing
for name in (*drawing.LOADED, "engram.report.html"):
    importlib.import_module(name)
print(*sys.modules, file=sys.stderr)
"""
SLOW = {
    *("datasets", "jinja2", "matplotlib", "pandas", "pyarrow", "ray", "scipy", "sklearn"),
    *("sympy", "torch._dynamo", "torch._inductor", "torchvision", "triton"),
}


def loaded(code: str, *words: str) -> set[str]:
    """The modules of a process at its end, which it tells on standard error."""
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


def test_a_run_imports_nothing_slow_but_torch(tmp_path: Path) -> None:
    small = ["--data", "digits", "--tasks", "2", "--max-per-class", "4", "--finetune.epochs", "1"]
    found = loaded(RUN, *small, "--jobs", "1", "--out", str(tmp_path / "out"))
    assert "torch" in found
    assert found & SLOW == set()
    assert {
        "engram.report.figures",
        "engram.report.reproduction",
        "engram.memory.folder",
        "engram.recipes.targets",
    } & found == set()


def test_a_page_is_drawn_without_torch() -> None:
    found = loaded(PAGE)
    assert "scipy.special" in found
    assert {"torch", "pandas", "sklearn", "datasets"} & found == set()


def test_imports_that_stay_are_not_searched_for_rubbish() -> None:
    before = gc.get_freeze_count()
    try:
        with staying("a module that is not there"):
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() > before
        gc.unfreeze()
        with pytest.raises(ImportError), staying("a module that is not there"):
            raise ImportError
        assert gc.isenabled()
        gc.unfreeze()
        with staying("pytest"):  # it is there
            assert gc.isenabled()
        assert gc.get_freeze_count() == 0
    finally:
        gc.unfreeze()
