"""Nothing is read from the device within a step: an accelerator is waited for once an epoch, not in every step."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from engram.checks import SMALL, Bench, tiny_stream
from engram.learning import loop
from engram.methods.registry import method
from engram.networks import Dcgan8, Mlp

READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::masked_select")
ALLOWED = {
    "F.one_hot(": "checks its labels on a processor only",
    "bool(m.any())": "once a phase, what is held",
    "[known]": "answers stored before a class was known are left out",
    "F.mse_loss(logits": "as above",
    "autograd.grad(": "the gradient of that",
}
METHODS = [
    "averaging",
    "der++",
    "dgmw",
    "er",
    "ewc",
    "ewc-online",
    "fetril",
    "finetune",
    "hat",
    "icarl",
    "imm-mean",
    "joint",
    "l2sp",
    "lwf",
    "mas",
    "packnet",
    "pc",
    "piggyback",
    "pnn",
    "rwalk",
    "si",
    "vcl",
]


class Reads(TorchDispatchMode):
    """Collects the lines of engram's that read from the device."""

    def __init__(self, found: set[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        picks = args[1] if name.startswith("aten::index") and isinstance(args[1], (list, tuple)) else ()
        if name in READS or any(isinstance(i, Tensor) and i.dtype == torch.bool for i in picks):
            frames = [f for f in traceback.extract_stack() if "/src/engram/" in f.filename]
            self.found.add(f"{frames[-1].filename.split('/src/engram/')[1]}: {frames[-1].line}")
        return func(*args, **(kwargs or {}))


def reads_of(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    found: set[str] = set()
    step = loop.take_step

    def watched(*given: Any) -> Any:
        with Reads(found):
            return step(*given)

    monkeypatch.setattr(loop, "take_step", watched)
    bench.train(bench.session())
    return found


def bench_of(name: str, options: str) -> Bench:
    networks, spec = (Dcgan8(n_f=4, n_d=4, n_z=16), Mlp((16,))), method(name, options)
    benches = (Bench(spec, tiny_stream((1, 2)), n, s) for n in networks for s in ("class", "task"))
    return next(b for b in benches if b.usable)


@pytest.mark.parametrize(
    ("name", "variant"), [*((name, next(iter(SMALL[name]))) for name in METHODS), ("dgmw", "separate")]
)
def test_no_step_reads_from_the_device(name: str, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = reads_of(bench_of(name, SMALL[name][variant]), monkeypatch)
    left = {line for line in found if not any(part in line for part in ALLOWED)}
    assert not left, f"read in every step: {left}"


def test_a_read_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = bench_of("finetune", SMALL["finetune"]["adam"])
    gradients = loop.gradients

    def reading(*given: Any) -> Any:
        terms, grads = gradients(*given)
        assert all(bool(g.isfinite().all()) for g in grads.values())
        return terms, grads

    monkeypatch.setattr(loop, "gradients", reading)
    assert len(reads_of(bench, monkeypatch)) == 1
