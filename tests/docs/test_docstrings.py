"""Public docstrings: a summary, every argument, shapes where there are tensors, errors, and of methods the source."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

import engram
from engram.core import contract
from engram.methods.registry import METHODS, docstring
from engram.report import figures, figures_sweep, figures_tradeoff, style

PUBLIC = {name: getattr(engram, name) for name in engram.__all__ if name != "__version__"}
for module in (figures, figures_sweep, figures_tradeoff):
    for name in module.__all__:
        if "Figure" in str(inspect.signature(getattr(module, name)).return_annotation):
            PUBLIC[f"{module.__name__}.{name}"] = getattr(module, name)
PUBLIC["engram.report.style.restyled"] = style.restyled
for name in ("Method", "Context", "Phase", "Update", "Player"):
    PUBLIC[f"engram.core.contract.{name}"] = getattr(contract, name)
FUNCTIONS = {
    f"{name}.{own}": function
    for name, thing in PUBLIC.items()
    if inspect.isclass(thing) and not issubclass(thing, Exception)
    for own, function in vars(thing).items()
    if inspect.isfunction(function) and not own.startswith("_")
}
TENSORS = ("Tensor", "ndarray", "Samples", "ArrayLike")


@pytest.mark.parametrize("name", [*PUBLIC, *FUNCTIONS])
def test_a_summary(name: str):
    told = inspect.getdoc({**PUBLIC, **FUNCTIONS}[name]) or ""
    first = told.partition("\n\n")[0]
    assert len(first.split()) > 2, name
    assert first.rstrip().endswith((".", ":", '"')), name


@pytest.mark.parametrize("name", [name for name, thing in PUBLIC.items() if inspect.isfunction(thing)])
def test_every_argument_and_error(name: str):
    thing: Any = PUBLIC[name]
    told = inspect.getdoc(thing) or ""
    for argument in inspect.signature(thing).parameters:
        assert re.search(rf"\b{argument}\b", told), f"{name} does not tell of {argument}"
    if "Error(" in inspect.getsource(thing):
        assert "Raises:" in told or "Error``" in told, f"{name} does not tell of its errors"


@pytest.mark.parametrize("name", [n for n, f in {**PUBLIC, **FUNCTIONS}.items() if inspect.isfunction(f)])
def test_shapes_where_there_are_tensors(name: str):
    thing: Any = {**PUBLIC, **FUNCTIONS}[name]
    signature = inspect.signature(thing)
    hints = " ".join(
        map(str, [*(p.annotation for p in signature.parameters.values()), signature.return_annotation])
    )
    if any(word in hints for word in TENSORS):
        owner = PUBLIC.get(name.rpartition(".")[0])
        told = " ".join(filter(None, [inspect.getdoc(thing), inspect.getdoc(owner) if owner else ""]))
        assert re.search(r"\[[A-Z*][^\]]*\]|\([A-Z], |Samples|scalar|sample", told), f"{name} gives no shape"


@pytest.mark.parametrize("name", METHODS)
def test_a_method_names_its_source(name: str):
    if name not in ("finetune", "joint", "scratch", "frozen", "averaging"):  # no paper
        assert re.search(r"(19|20)\d\d", docstring(name)), name
    assert "Cost" in docstring(name), name
