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

import torch
from torch import Tensor, nn

from engram.core.contract import (
    Batch,
    Context,
    Method,
    Phase,
    Player,
    Samples,
    Step,
    TaskInfo,
    Terms,
    Tradeoff,
    named_parameters,
)
from engram.core.values import check_at_least, check_positive
from engram.methods.registry import Entry
from engram.parts import penalty, small, training
from engram.parts.correlation import pearson
from engram.parts.tables import Scratch, Table
from engram.parts.training import TrainOptions

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

    c: float = 1.0
    xi: float = 1e-3
    clamp: Clamp = "accumulated"
    first_reference: Literal["initial", "zero"] = "initial"
    keep_omegas: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 0, "c")
        check_positive(self, "xi")


def consolidated(importance: Tensor, omega: Tensor, displacement: Tensor, xi: float, clamp: Clamp) -> Tensor:
    """Omega after a task, all [*]:  Omega + omega / (Delta^2 + xi)  (Eq. 5), clamped."""
    increment = omega / (displacement.square() + xi)
    if clamp == "increment":
        increment = increment.clamp(min=0.0)
    total = importance + increment
    return total.clamp(min=0.0) if clamp == "accumulated" else total


class Si(Method):
    """Cross entropy plus c sum_k Omega_k (theta_k - theta~_k)^2."""

    Config = SiConfig
    config: SiConfig
    tradeoff = Tradeoff("c", centre=0.1)

    def __init__(self, config: SiConfig, context: Context) -> None:
        super().__init__(config, context)
        self.net = training.make_net(config, context)
        self.memory = training.make_memory(config, context)
        self.reads = "task" if self.memory is None else "memory"
        self.omega, self.importance, self.reference = Table(), Table(), Table()
        self.kept = nn.ModuleList()  # a Table of omega a task, where they are kept
        self.n_learned = 0
        self._scratch = Scratch()

    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        training.grow_head(self.net, task, self.context.seed, zero=self.config.zero_head)
        parameters = named_parameters(self)
        self.omega.pad(parameters, 0.0)
        self.importance.pad(parameters, 0.0)
        from_zero = self.n_learned == 0 and self.config.first_reference == "zero"
        self.reference.pad(parameters, 0.0 if from_zero else "value")

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        fit = training.for_task(self.config, task)
        return (training.fit_phase(fit, self.loss, self.memory),)

    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        self._theta = named_parameters(
            self
        )  # looked up once a phase: by name costs as much as some of the sums
        return {"net": training.player(training.for_task(self.config, task), self._theta)}

    def pools(self, task: TaskInfo, phase: str, epoch: int, data: Samples) -> dict[str, Samples]:
        return training.memory_pool(self.memory)

    def loss(self, batch: Batch, step: Step) -> Terms:
        labels = training.window(self.net, step.task, self.memory, self.config.memory_weight)
        return {"ce": training.cross_entropy(self.net(batch.x, labels.active), batch.y, labels)}

    # Moments ------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def after_backward(self, player: str, grads: dict[str, Tensor], step: Step) -> None:
        # g of Eq. 1 to 3: of the loss alone, at theta(t), from the same batch and dropout mask as the step.
        self._names, self._g = list(grads), list(grads.values())
        theta: list[Tensor] = [self._theta[n] for n in self._names]
        self._before = self._scratch.likes(self._names, theta)
        torch._foreach_copy_(self._before, theta)
        if self.n_learned:
            # The gradient of Eq. 4's second term, 2 c Omega (theta - theta~), in new tensors: g stays what it
            # is.
            penalty.add_gradient(
                grads,
                self._theta.__getitem__,
                self.importance,
                self.reference,
                self.config.c,
                self._scratch,
                keep=True,
            )

    @torch.no_grad()
    def after_step(self, player: str, step: Step) -> None:
        # omega <- omega - g (theta(t+1) - theta(t)): the running sum of Eq. 3, with the optimiser's real
        # displacement.
        torch._foreach_sub_(self._before, [self._theta[n] for n in self._names])
        torch._foreach_addcmul_(self.omega.pick(self._names), self._g, self._before)
        self._g = []

    @torch.no_grad()
    def end_task(self, task: TaskInfo, data: Samples) -> None:
        c, parameters = self.config, named_parameters(self)
        for name, theta in parameters.items():
            displacement = theta - self.reference[name]  # Delta, before theta~ moves
            total = consolidated(self.importance[name], self.omega[name], displacement, c.xi, c.clamp)
            self.importance.put(name, total)
        if c.keep_omegas:
            self._keep(parameters)
        self.reference.copy_from(parameters)
        self.omega.zero()
        self.n_learned += 1
        training.remember(self.memory, self.config, self.net, task, data, self.context)

    def _keep(self, parameters: Mapping[str, Tensor]) -> None:
        """Keep this task's omega, un-normalised, of all weights; biases are left out."""
        table = Table()
        for name, theta in parameters.items():
            if theta.dim() > 1:
                table.put(name, self.omega[name].clone())
        self.kept.append(table)

    # Answers and state --------------------------------------------------------------------------------------
    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        return training.predict(self.net, x, task)

    def structure(self) -> dict[str, Any]:
        tables = {name: getattr(self, name).structure() for name in ("omega", "importance", "reference")}
        kept = [table.structure() for table in self._tables]
        sizes = training.structure(self.net, self.memory)
        return {**sizes, **tables, "kept": kept, "n_learned": self.n_learned}

    @property
    def _tables(self) -> list[Table]:
        return [table for table in self.kept if isinstance(table, Table)]

    def rebuild(self, structure: dict[str, Any]) -> None:
        training.rebuild(self.net, self.memory, structure)
        for name in ("omega", "importance", "reference"):
            getattr(self, name).rebuild(structure[name])
        self.kept = nn.ModuleList()
        for shapes in structure.get("kept", []):
            table = Table()
            table.rebuild(shapes)
            self.kept.append(table)
        self.n_learned = int(structure["n_learned"])

    def storage_bytes(self) -> dict[str, int]:
        return training.storage_bytes(self, self.net, self.memory)

    def facts(self) -> dict[str, str]:
        return training.facts(self.config, self.net)

    @torch.no_grad()
    def measures(self, step: Step) -> dict[str, Any]:
        value = penalty.quadratic(self.get_parameter, self.importance, self.reference, self.config.c)
        return {"penalty": float(value)}

    def report(self) -> dict[str, Any]:
        """With ``keep_omegas``: Pearson correlation of the last task's omega with every task's so far, by weight.

        None stands where a weight had another shape then, as an output layer that has grown.
        """
        if not self._tables:
            return {}
        last = self._tables[-1]
        rows = {
            name.removeprefix("net."): [
                pearson(last[name], t[name]) if name in t and t[name].shape == last[name].shape else None
                for t in self._tables
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
