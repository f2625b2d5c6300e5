"""A step of the loop as one compiled graph: loss, gradient, what a method does at its moments, and the optimiser.

The code is the method's own; PyTorch's compiler traces `take_step` whole, over shapes that stay the same. A graph is
made for each update of a phase, and tried before it is used: one step is taken both ways from the same state, and the
compiled one counts only if it moves everything as the other does. This also finds releases of PyTorch that lose the
gradient of a gradient (the penalty of WGAN-GP) without a word. Where there is no graph, or it fails the trial, the
update goes on uncompiled; one line says why.

A batch that is smaller than the others, at the end of an epoch, is never compiled. Whether a step is compiled depends
on the phase and the batch alone, so that a resume in the same mode gives the same bits.
"""

from __future__ import annotations

import shutil
import sysconfig
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engram.core.contract import Batch, Method, Player, Step, Terms, Update
from engram.errors import reason

if TYPE_CHECKING:
    from engram.learning.optimisers import Stepper

TakeStep = Callable[[Method, Update, Player, "Stepper", Batch, Step], Terms]
# Of the trial: largest distance of two movements of a tensor, as a share of the movement. A lost term gives about 1,
# rounding 1e-3: the first step of Adam divides each gradient by itself, however small.
TOLERANCE = 0.05


def why_not() -> str:
    """Why no step can be compiled here; empty where it can."""
    # Loading the compiler takes seconds, which only those pay who ask for it.
    from torch._dynamo import config
    from torch._inductor import config as inductor

    if not hasattr(config, "trace_autograd_ops"):
        return f"PyTorch {torch.__version__} cannot take gradients within a compiled function"
    if not torch.cuda.is_available() and not any(
        shutil.which(name) for name in ("g++", "clang++", sysconfig.get_config_var("CXX") or "c++")
    ):
        return "there is no C++ compiler"
    config.trace_autograd_ops = True
    inductor.compile_threads = 1  # a run is one process
    inductor.fallback_random = True  # dropout draws what it draws uncompiled
    return ""


class Compiled:
    """Takes the steps of one phase, compiled where that can be.

    Args:
        take_step: what is compiled.
    """

    def __init__(self, take_step: TakeStep) -> None:
        self.plain = take_step
        self.graphs: dict[str, tuple[TakeStep, int]] = {}  # by update; a graph and its batch size
        self.why = why_not()
        if self.why:
            self._say(self.why)
        else:
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
        if key not in self.graphs:
            return self._first(key, *given)
        graph, size = self.graphs[key]
        return (graph if len(batch.y) == size else self.plain)(*given)

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
        before, random = _state(method, optimiser), torch.get_rng_state()
        plain_terms = self.plain(*given)
        plain = _state(method, optimiser)
        _restore(method, optimiser, before, random)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the compiler's own parts
                graph: TakeStep = torch.compile(self.plain, fullgraph=True, dynamic=False)
                terms = graph(*given)
            found = _state(method, optimiser)
            found |= {f"term {k}": v for k, v in terms.items()}
            plain |= {f"term {k}": v for k, v in plain_terms.items()}
            off = [k for k, v in plain.items() if not _close(v, found[k], before.get(k))]
            why = f"the compiled one moves {off[0]} otherwise" if off else ""
        except Exception as error:  # whatever the compiler cannot do
            inner = getattr(error, "inner_exception", error)
            why = f"update {update.name} cannot be ({type(inner).__name__}: {reason(inner)})"[:300]
        if why:
            self._say(why)
            self.graphs[key] = self.plain, len(batch.y)
            _restore(method, optimiser, before, random)
            return self.plain(*given)
        self.graphs[key] = graph, len(batch.y)
        return terms


def _tensors(method: Method, optimiser: Stepper) -> dict[str, Tensor]:
    state = {f"{name} {key}": v for name, held in optimiser.state.items() for key, v in held.items()}
    return {**method.state_dict(), **state}


def _state(method: Method, optimiser: Stepper) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in _tensors(method, optimiser).items()}


@torch.no_grad()
def _restore(method: Method, optimiser: Stepper, state: dict[str, Tensor], random: Tensor) -> None:
    """Everything as it was; an optimiser's state that was not there yet is zero."""
    for key, value in _tensors(method, optimiser).items():
        value.copy_(state[key]) if key in state else value.zero_()
    torch.set_rng_state(random)


def _close(plain: Tensor, found: Tensor, before: Any) -> bool:
    """Whether two tensors moved alike from where they were."""
    if not plain.is_floating_point():
        return torch.equal(plain, found)
    moved = plain if before is None else plain - before
    return bool((plain - found).norm() <= TOLERANCE * moved.norm() + 1e-6)
