"""Methods by name: the class, its options, and the defaults that a name changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from engram.core.contract import Context, Method
from engram.errors import ConfigError
from engram.methods.dgm import Dgm
from engram.methods.ewc import Ewc
from engram.methods.ewc_online import EwcOnline
from engram.methods.finetune import Finetune
from engram.methods.frozen import Frozen
from engram.methods.hat import Hat
from engram.methods.imm import Imm
from engram.methods.joint import Joint
from engram.methods.l2sp import L2sp
from engram.methods.lwf import Lwf
from engram.methods.mas import Mas
from engram.methods.rescl import Rescl
from engram.methods.rwalk import Rwalk
from engram.methods.scratch import FromScratch
from engram.methods.si import Si


@dataclass(frozen=True)
class Entry:
    """A registered method: how to make it, its default options, one line on it, and options that its name fixes."""

    make: Callable[[Any, Context], Method]
    config: Any
    summary: str
    fixed: tuple[str, ...] = ()


METHODS: dict[str, Entry] = {
    "dgmw": Entry(
        Dgm,
        Dgm.Config(mask="weight"),
        "Dynamic Generative Memory, a mask per weight (Ostapenko et al., CVPR 2019)",
        ("mask",),
    ),
    "dgma": Entry(
        Dgm,
        Dgm.Config(mask="unit", s_max=1e5, lambda_ru=0.01),
        "Dynamic Generative Memory, a mask per unit (Ostapenko et al., CVPR 2019)",
        ("mask",),
    ),
    "finetune": Entry(Finetune, Finetune.Config(), "plain training on each task: the lower bound"),
    "joint": Entry(Joint, Joint.Config(), "trained afresh on all data so far: the upper bound, reads all"),
    "scratch": Entry(
        FromScratch,
        FromScratch.Config(),
        "a network of its own for each task, from fresh weights: no transfer",
    ),
    "si": Entry(
        Si, Si.Config(), "Synaptic Intelligence: path-integral importances (Zenke et al., ICML 2017)"
    ),
    "ewc": Entry(
        Ewc, Ewc.Config(), "Elastic Weight Consolidation, a penalty per task (Kirkpatrick et al., PNAS 2017)"
    ),
    "ewc-online": Entry(
        EwcOnline, EwcOnline.Config(), "EWC with one running penalty (Schwarz et al., ICML 2018)"
    ),
    "rwalk": Entry(
        Rwalk, Rwalk.Config(), "Riemannian Walk: running Fisher and path score (Chaudhry et al., ECCV 2018)"
    ),
    "mas": Entry(
        Mas, Mas.Config(), "Memory Aware Synapses: sensitivity of the output (Aljundi et al., ECCV 2018)"
    ),
    "lwf": Entry(
        Lwf, Lwf.Config(), "Learning without Forgetting: distillation on new inputs (Li and Hoiem, ECCV 2016)"
    ),
    "rescl": Entry(
        Rescl,
        Rescl.Config(),
        "Residual Continual Learning: combine with the fine-tuned network, fold (Lee et al., AAAI 2020)",
    ),
    "l2sp": Entry(
        L2sp, L2sp.Config(), "L2-SP: weights held near those of the task before (Li et al., ICML 2018)"
    ),
    "imm-mean": Entry(
        Imm,
        Imm.Config(merge="mean"),
        "Incremental Moment Matching: old and new weights averaged (Lee et al., NIPS 2017)",
        ("merge", "fisher_samples"),
    ),
    "imm-mode": Entry(
        Imm,
        Imm.Config(merge="mode"),
        "Incremental Moment Matching: averaged by Fisher information (Lee et al., NIPS 2017)",
        ("merge",),
    ),
    "averaging": Entry(
        Imm,
        Imm.Config(merge="mean", l2=0.0),
        "plain average of the weights before and after a task: mean-IMM without L2 transfer",
        ("merge", "l2", "fisher_samples"),
    ),
    "frozen": Entry(
        Frozen, Frozen.Config(), "feature extraction: after the first task only new output rows learn"
    ),
    "hat": Entry(
        Hat,
        Hat.Config(),
        "Hard Attention to the Task: masks per unit, needs task labels (Serra et al., ICML 2018)",
    ),
}


@dataclass(frozen=True)
class MethodSpec:
    """A method to run: its name, how to make it from (config, context), and its options."""

    name: str
    make: Callable[[Any, Context], Method]
    config: Any

    def describe(self) -> dict[str, Any]:
        """Name and options as JSON."""
        return {"name": self.name, "options": asdict(self.config)}


def entry(name: str) -> Entry:
    """The entry registered under ``name``; ``ConfigError`` lists the known ones."""
    if name not in METHODS:
        raise ConfigError(
            f"method must be one of {', '.join(sorted(METHODS))}, got {name!r}: see engram list."
        )
    return METHODS[name]


def method(name: str, options: Mapping[str, Any] | None = None, **more: Any) -> MethodSpec:
    """A registered method with some options changed.

    Raises:
        ConfigError: unknown method, unknown option, or a value out of range.
    """
    found = entry(name)
    given = {**(options or {}), **more}
    known = {f.name for f in fields(found.config)} - set(found.fixed)
    unknown = sorted(set(given) - known)
    if unknown:
        raise ConfigError(
            f"options of {name} must be among {', '.join(sorted(known))}, got {unknown[0]!r}: see engram list {name}."
        )
    return MethodSpec(name, found.make, replace(found.config, **given))
