"""A step of the loop as one graph: loss, gradient, what a method does at its moments, and the optimiser.

The code is the method's own, over shapes that stay the same. With ``inductor`` PyTorch's compiler traces `take_step`
whole and makes kernels of its own; with ``cudagraphs`` an accelerator's own kernels are recorded as they are
(:mod:`engram.learning.capturing`). A graph is made for each update of a phase, and tried before it is used: one step
is taken both ways from the same state, and the graph counts only if it moves everything as the other does. This also
finds releases of PyTorch that lose the gradient of a gradient (the penalty of WGAN-GP) without a word. Where there is
no graph, or it fails the trial, the update goes on as it is; one line says why.

A batch that is smaller than the others, at the end of an epoch, is never compiled. Whether a step is compiled depends
on the phase and the batch alone, so that a resume in the same mode gives the same bits.
"""

from __future__ import annotations

import shutil
import sysconfig
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from engram.core.contract import Batch, Method, Phase, Player, Step, Terms, Update
from engram.core.options import Compile
from engram.errors import ConfigError, reason
from engram.learning.capturing import Captured, State, TakeStep, addresses

if TYPE_CHECKING:
    from engram.learning.optimisers import Stepper

# Of the trial: largest distance of two movements of a tensor, as a share of the movement. A lost term gives about 1,
# rounding 1e-3: the first step of Adam divides each gradient by itself, however small.
TOLERANCE = 0.05
ROUNDING = 1e-6  # of the largest movement of a first moment: smaller ones are not told from rounding
WAYS = 16  # most graphs of an update; further ones take the place of the oldest


def why_not(compile: Compile, device: torch.device) -> str:
    """Why no step can be compiled so here; empty where it can."""
    if compile == "cudagraphs":
        return "" if device.type == "cuda" else f"CUDA graphs need an accelerator, {device} is none"
    # Loading the compiler takes seconds, which only those pay who ask for it.
    from torch._dynamo import config
    from torch._inductor import config as kernels

    if not hasattr(config, "trace_autograd_ops"):
        return f"PyTorch {torch.__version__} cannot take gradients within a compiled function"
    if device.type == "cpu" and not any(
        shutil.which(name) for name in ("g++", "clang++", sysconfig.get_config_var("CXX") or "c++")
    ):
        return "there is no C++ compiler"
    config.trace_autograd_ops = True
    kernels.compile_threads = 1  # a run is one process
    kernels.size_asserts = False  # in every step, of what the guards have seen already
    kernels.fallback_random = True  # dropout draws what it draws uncompiled
    return ""


def inductor(take_step: TakeStep, device: torch.device) -> TakeStep:
    """A compiled step. ``epoch`` and ``step`` are tensors [] to it: each number would make a graph of its own."""
    compiled = torch.compile(take_step, fullgraph=True, dynamic=False)
    epoch, place = (torch.zeros((), dtype=torch.float64, device=device) for _ in range(2))

    def taken(
        method: Method, update: Update, player: Player, optimiser: Stepper, batch: Batch, step: Step
    ) -> Terms:
        if optimiser.spec.kind == "adam" and not optimiser.laid_out:
            optimiser.lay_out()
            optimiser.laid_out = True
        at = replace(step, epoch=cast(int, epoch.fill_(step.epoch)), step=cast(int, place.fill_(step.step)))
        return compiled(method, update, player, optimiser, batch, at)

    return taken


class Compiled:
    """Takes the steps of one phase, compiled where that can be.

    Args:
        take_step: what is compiled.
        how: ``inductor`` or ``cudagraphs``.
        phase: whose steps they are.
        device: of its data.
    """

    def __init__(self, take_step: TakeStep, how: Compile, phase: Phase, device: torch.device) -> None:
        self.plain, self.how = take_step, how
        self.graphs: dict[str, list[tuple[TakeStep, int]]] = {}  # by update; graphs and their batch size
        self.why = why_not(how, device)
        # Between the steps of such a phase a memory may grow, which lays its tensors elsewhere.
        self.grows = how == "cudagraphs" and any(u.player is None for u in phase.updates)
        # Of such a phase, by update: where tensors lay in the step before.
        self.held: dict[str, dict[str, Any]] = {}
        if self.why:
            self._say(self.why)
        elif how == "inductor":
            torch.compiler.reset()  # graphs of the phase before

    def _say(self, why: str) -> None:
        warnings.warn(f"steps are not compiled: {why}.", stacklevel=2)

    def __call__(
        self,
        method: Method,
        update: Update,
        player: Player,
        optimiser: Stepper,
        batch: Batch,
        step: Step,
    ) -> Terms:
        """As `take_step`."""
        given = (method, update, player, optimiser, batch, step)
        key = f"{update.name} {update.chunk}"
        if self.why:
            return self.plain(*given)
        graphs = self.graphs.setdefault(key, [])
        if self.grows:
            before, self.held[key] = self.held.get(key), addresses(method, optimiser)
            if before != self.held[key]:
                return self.plain(*given)
        if step.step == 0 or self.grows:
            graphs[:] = [
                (g, n) for g, n in graphs if not isinstance(g, Captured) or g.stands(method, optimiser)
            ]
        for graph, size in graphs:
            if len(batch.y) != size:
                return self.plain(*given)
            if not isinstance(graph, Captured) or graph.numbers.fit(step):
                return graph(*given)
        return self._first(key, *given)

    def _first(
        self,
        key: str,
        method: Method,
        update: Update,
        player: Player,
        optimiser: Stepper,
        batch: Batch,
        step: Step,
    ) -> Terms:
        """A step both ways; the one that counts is compiled, if it moves all tensors as the other does."""
        given = (method, update, player, optimiser, batch, step)
        before = State(method, optimiser)
        plain_terms = self.plain(*given)
        plain = State(method, optimiser).tensors
        before.put_back()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the compiler's own parts
                graph = (
                    inductor(self.plain, batch.x.device)
                    if self.how == "inductor"
                    else Captured(self.plain, *given)
                )
                terms = graph(*given)
            found = State(method, optimiser).tensors
            found |= {f"term {k}": v for k, v in terms.items()}
            plain |= {f"term {k}": v for k, v in plain_terms.items()}
            quiet = _rounding(plain, before.tensors)
            off = [
                k
                for k, v in plain.items()
                if k not in quiet and not _close(v, found[k], before.tensors.get(k))
            ]
            why = f"the compiled one moves {off[0]} otherwise" if off else ""
        except ConfigError:
            raise
        except Exception as error:  # whatever the compiler cannot do
            inner = getattr(error, "inner_exception", error)
            why = f"update {update.name} cannot be ({type(inner).__name__}: {reason(inner)})"[:300]
        if why:
            self._say(why)
            self.graphs[key] = [(self.plain, len(batch.y))]
            before.put_back()
            return self.plain(*given)
        self.graphs[key] = [*self.graphs[key][1 - WAYS :], (graph, len(batch.y))]
        return terms


def _rounding(plain: dict[str, Tensor], before: dict[str, Tensor]) -> set[str]:
    """Parameters whose gradient is rounding alone, as of an old head that equals its teacher in the first step.

    Adam divides it by itself, so that the parameter moves as far as others do, in any direction; the moments tell.
    """
    moments = {k.removesuffix(" exp_avg"): k for k in plain if k.endswith(" exp_avg")}
    moved = {k: float((plain[m] - before.get(m, 0.0)).norm()) for k, m in moments.items()}
    return {k for k, size in moved.items() if size <= ROUNDING * max(moved.values())}


def _close(plain: Tensor, found: Tensor, before: Any) -> bool:
    """Whether two tensors moved alike from where they were."""
    if torch.equal(plain, found) or not plain.is_floating_point():
        return torch.equal(plain, found)
    moved = plain if before is None else plain - before
    return bool((plain - found).norm() <= TOLERANCE * moved.norm() + 1e-6)
