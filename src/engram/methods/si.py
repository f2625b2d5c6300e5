"""Synaptic Intelligence: what each weight contributed to lowering the loss decides how strongly it is held.

F. Zenke, B. Poole, S. Ganguli: "Continual Learning Through Synaptic Intelligence", ICML 2017, PMLR
70:3987-3995, arXiv 1703.04200 ("SI"). Here: the path integral (Eq. 1 to 3), the surrogate loss (Eq. 4), the
importance (Eq. 5).

Departures: Omega is clamped at 0 after each addition, as in the authors' code and not in the paper
(``clamp=none`` is the paper as printed). Rows of a growing output layer enter with omega = Omega = 0 and
their initial values as reference. Normalisation's scale and offset take part like other weights; its running
statistics are no parameters and are not held. For the authors' experiments see ``masked_head``,
``zero_head``, ``keep_optimiser`` and ``first_reference``. Cost: three tensors a parameter (omega, Omega,
reference), two work tensors; no second pass over data; with ``keep_omegas`` a tensor a weight and task more.

Shapes: * is a parameter's shape. omega in nats, Omega in nats per squared unit of the parameter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from engram.core.contract import Context, Samples, Step, TaskInfo, Tradeoff
from engram.core.options import NonNegative, Positive
from engram.methods.registry import Entry
from engram.parts import small
from engram.parts.correlation import pearson
from engram.parts.fitting import TrainOptions
from engram.parts.one_network import PlainTraining
from engram.parts.path_integral import PathIntegral
from engram.parts.penalty import QuadraticPenalty
from engram.parts.tables import Table, Tables

Clamp = Literal["accumulated", "increment", "none"]


@dataclass(frozen=True)
class SiConfig(TrainOptions):
    """Options of Synaptic Intelligence. Defaults are the paper's split MNIST, but for its head (see the
    page).

    Args:
        c: strength, c in Eq. 4; quote it together with xi.
        xi: damping, xi in Eq. 5, in units of a squared parameter.
        clamp: what is kept from falling below 0: Omega after each addition (the authors' code), each task's
            increment, or nothing (the paper as printed; the surrogate may then have no minimum).
        first_reference: where the first task's displacement is measured from: the initial weights, or zero as
            in the authors' permuted MNIST.
        keep_omegas: keep each task's omega of all weight matrices and kernels, and record their correlations
            between tasks (Fig. 5); a tensor a weight and task, counted in the storage. Training does not depend
            on it.
    """

    c: NonNegative = 1.0
    xi: Positive = 1e-3
    clamp: Clamp = "accumulated"
    first_reference: Literal["initial", "zero"] = "initial"
    keep_omegas: bool = False


def consolidated(importance: Tensor, omega: Tensor, displacement: Tensor, xi: float, clamp: Clamp) -> Tensor:
    """Omega after a task, all [*]:  Omega + omega / (Delta^2 + xi)  (Eq. 5), clamped."""
    increment = omega / (displacement.square() + xi)
    if clamp == "increment":
        increment = increment.clamp(min=0.0)
    total = importance + increment
    return total.clamp(min=0.0) if clamp == "accumulated" else total


class Si(PlainTraining):
    """Cross entropy plus c sum_k Omega_k (theta_k - theta~_k)^2."""

    Config = SiConfig
    config: SiConfig
    tradeoff = Tradeoff("c", centre=0.1)

    def __init__(self, config: SiConfig, context: Context) -> None:
        super().__init__(config, context)
        self.omega, self.importance, self.reference = Table(), Table(), Table()
        self.kept = Tables()  # omega of each task, where they are kept
        # Its gradient is 2 c Omega (theta - theta~), from Eq. 4's second term.
        self.penalties = [QuadraticPenalty(self.importance, self.reference, config.c, keep=True)]
        self.path = PathIntegral()

    def begin(self, task: TaskInfo) -> None:
        self.omega.pad(self.theta, 0.0)
        if task.index == 0 and self.config.first_reference == "zero":
            self.reference.pad(self.theta, 0.0)

    def observe(self, grads: Mapping[str, Tensor], step: Step) -> None:
        # g of Eq. 1 to 3: of the loss alone, at theta(t), from the same batch and dropout mask as the step.
        self.path.before_step(grads, self.theta)

    def after_step(self, player: str, step: Step) -> None:
        # omega <- omega - g (theta(t+1) - theta(t)): the running sum of Eq. 3.
        self.path.after_step(self.omega)

    def consolidate(self, task: TaskInfo, data: Samples) -> None:
        c = self.config
        for name, theta in self.theta.items():
            displacement = theta - self.reference[name]  # Delta, before theta~ moves
            total = consolidated(self.importance[name], self.omega[name], displacement, c.xi, c.clamp)
            self.importance.put(name, total)
        if c.keep_omegas:
            # Un-normalised, of all weights; biases are left out.
            self.kept.hold({n: self.omega[n] for n, theta in self.theta.items() if theta.dim() > 1})
        self.reference.copy_from(self.theta)
        self.omega.zero()

    def report(self) -> dict[str, Any]:
        """With ``keep_omegas``: Pearson correlation of the last task's omega with every task's so far, by weight.

        None stands where a weight had another shape then, as an output layer that has grown.
        """
        kept = list(self.kept)
        if not kept:
            return {}
        last = kept[-1]
        rows = {
            name.removeprefix("net."): [
                pearson(last[name], t[name]) if name in t and t[name].shape == last[name].shape else None
                for t in kept
            ]
            for name in last.names
        }
        return {"omega_correlations": rows}


ENTRIES = {
    "si": Entry(
        Si,
        SiConfig(),
        "Synaptic Intelligence: path-integral importances (Zenke et al., ICML 2017)",
        small={
            "adam": f"{small.TRAIN}, c=1, xi=1e-3, clamp=accumulated, first_reference=initial, keep_omegas=false",
            "omegas": f"{small.TRAIN}, c=0.5, xi=0.1, clamp=increment, first_reference=initial, keep_omegas=true",
            "stored": f"{small.STORED}, c=0.5, xi=0.1, clamp=none, first_reference=zero, keep_omegas=false",
        },
    )
}
