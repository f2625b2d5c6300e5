"""Figures that must not change unnoticed: exact on the reference platform, close elsewhere."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from engram.learning.compiling import why_not
from engram.methods.registry import METHODS

WHY = why_not("inductor", torch.device("cpu"))


def load() -> Any:
    spec = importlib.util.spec_from_file_location("engram_golden", Path(__file__).with_name("regenerate.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["engram_golden"] = module
    spec.loader.exec_module(module)
    return module


golden = load()
ADVICE = 'if this is meant: make golden REASON="...", and say so in the release notes'
#: Elsewhere: relative and absolute, for the first epoch of each task's first phase; later ones drift apart.
TOLERANCE = {"rel_tol": 2e-2, "abs_tol": 2e-3}
#: Of a loss with compiled steps from that with others, docs/benchmarks.md says it too.
COMPILED_TOLERANCE = {"rel_tol": 1e-4, "abs_tol": 1e-6}


@pytest.mark.parametrize("name", METHODS)
def test_figures_are_the_golden_ones(name: str) -> None:
    path = golden.path_of(name)
    assert path.is_file(), f"no golden figures for {name}: make golden"
    want, have = golden.read(path), golden.measured(name)
    assert want.id == f"golden-{name}"
    assert want.reason
    changed = sorted({*want.keys.items()} ^ {*have.keys.items()})
    assert not changed, f"checkpoint keys or shapes changed, first {changed[0]}; {ADVICE}"
    assert list(want.losses) == list(have.losses), ADVICE
    if want.platform == have.platform:
        wrong = [k for k in want.losses if want.losses[k] != have.losses[k]]
        assert not wrong, f"{wrong[0]}: {want.losses[wrong[0]]!r} was, {have.losses[wrong[0]]!r} is; {ADVICE}"
        assert want.digests == have.digests, f"final weights changed; {ADVICE}"
        return
    for key, value in want.losses.items():
        if "task 0 " in key and " epoch 0 " in key:
            assert math.isclose(value, have.losses[key], **TOLERANCE), (
                f"{key}: {value!r} was, {have.losses[key]!r} is"
            )


def test_a_file_survives_reading() -> None:
    g = golden.Golden(
        "golden-x", "here", "for a test", {"a b/c": 0.1, "n": 1e-30}, {"v": "00ff"}, {"v w": "float32 [2, 3]"}
    )
    path = golden.path_of("finetune").with_name(".written")
    try:
        path.write_text(g.text(), encoding="utf-8")
        assert golden.read(path) == g
    finally:
        path.unlink()


def test_every_file_belongs_to_a_method() -> None:
    compiled = {golden.path_of(name, True).stem for name in golden.COMPILED}
    assert {p.stem for p in golden.FOLDER.glob("*.txt")} == {*METHODS, *compiled}


@pytest.mark.slow
@pytest.mark.skipif(bool(WHY), reason=WHY)
@pytest.mark.parametrize("name", golden.COMPILED)
def test_compiled_figures_are_the_golden_ones_and_close_to_the_others(name: str) -> None:
    want, have = golden.read(golden.path_of(name, True)), golden.measured(name, compiled=True)
    plain = golden.measured(name, compiled=True, plain=True)
    assert want.id == f"golden-compiled-{name}"
    assert want.keys == have.keys
    assert list(want.losses) == list(have.losses) == list(plain.losses)
    assert have.digests != plain.digests  # it was compiled
    for key, value in have.losses.items():
        assert math.isclose(value, plain.losses[key], **COMPILED_TOLERANCE), key
        if want.platform == have.platform:  # but for the C++ compiler, which no header names
            assert math.isclose(value, want.losses[key], **COMPILED_TOLERANCE), f"{key}; {ADVICE}"
        elif "task 0 " in key and " epoch 0 " in key:
            assert math.isclose(value, want.losses[key], **TOLERANCE), key
