"""Dynamically expandable networks: retrain what a task touches, add units where it does not fit, split units that move.

J. Yoon, E. Yang, J. Lee, S. J. Hwang: "Lifelong Learning with Dynamically Expandable Networks", ICLR 2018, arXiv
1708.01547 ("DEN"). Here: its Algorithms 1 to 4, on a perceptron with one sigmoid a class. The first task trains all. A
later one has these phases, the last two where they are called for:

- ``head``: a new output layer alone. Its inputs with a weight other than 0, and all units from which such weights lead
  there, are affected;
- ``retrain``: the affected sub-network, nothing else (Algorithm 2);
- ``measure``: the task's loss. Above ``loss_threshold``:
- ``expand``: ``n_new`` units a layer are added; they and the output layer are trained, and units whose incoming weights
  the group lasso has brought to 0 are removed again (Algorithm 3);
- ``split``: old units whose incoming weights have moved by more than ``drift_threshold`` are duplicated: the old one
  gets back what it was and stands, the copy goes on; then all else is retrained (Algorithm 4).

Task t is answered with the units there were when it ended (its stamp). Loss: binary cross entropy, weight decay, and
(pull / 2) |w - w_before|^2 for weights that were there before; L1 and group lasso are proximal steps after each step of
the optimiser, not multiplied by its rate, as in the released code.

Departures from the released code (`jaehong31/DEN`), where it leaves the paper: the ``head`` phase is trained, there it
makes one step; all outputs say which units are affected, there the first; the loss is that of the whole task, there of
the last batch; a split does not need an expansion, and takes every unit that moved, there at most ``n_new`` of those
that moved least; units given back stand in the split. Choices where the paper is silent: a copy is read by the new
output layer and by units of this task, old units go on reading the old one. Fixed numbers of epochs, no early stopping.
Accuracy is accuracy; the released code reports the area under the ROC curve.
Cost: units that are added, a head a task; while a task is learned a copy of the weights. Needs the task label.

Shapes: layer i has O_i units and inputs from O_{i-1}; weights [O_i, O_{i-1}].
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engram import seeds
from engram.core.contract import (
    Batch,
    Context,
    Method,
    Phase,
    Player,
    Samples,
    Scenario,
    Step,
    TaskInfo,
    Terms,
    Tradeoff,
    Update,
    evaluating,
    n_bytes,
    named_parameters,
)
from engram.core.options import Count, NonNegative
from engram.errors import ConfigError
from engram.methods.registry import Entry
from engram.parts import small
from engram.parts.classifier import spread
from engram.parts.fitting import FreshFitOptions
from engram.parts.hold import Hold
from engram.parts.ordered import Ordered
from engram.parts.proximal import shrink_, shrink_rows_
from engram.parts.tables import Table

FIT, HEAD, RETRAIN, MEASURE, EXPAND, SPLIT = "fit", "head", "retrain", "measure", "expand", "split"  # phases


@dataclass(frozen=True)
class DenConfig(FreshFitOptions):
    """Options of dynamically expandable networks. ``epochs`` are those of each phase.

    Args:
        head_epochs: epochs of the phase that trains a new output layer alone; None for as many.
        l1: strength with which every weight is pulled towards 0 (L1, by proximal steps).
        group_lasso: strength with which the incoming weights of each new unit are together pulled towards 0 (proximal
            steps).
        pull: strength with which weights are held where the last task left them; the term has a factor 1/2.
        loss_threshold: the loss tau above which a task gets new units.
        drift_threshold: the distance sigma: Euclidean distance by which incoming weights of a unit may move before it
            is split.
        n_new: units that are added to each layer.
    """

    fresh: ClassVar[str] = "units come and go"
    weight_decay: NonNegative = 1e-4
    head_epochs: Count | None = None
    l1: NonNegative = 1e-5
    group_lasso: NonNegative = 1e-3
    pull: NonNegative = 0.5
    loss_threshold: NonNegative = 0.01
    drift_threshold: NonNegative = 0.05
    n_new: Count = 10


class Den(Method):
    """Selective retraining, expansion, split."""

    Config = DenConfig
    config: DenConfig
    scenarios: ClassVar[frozenset[Scenario]] = frozenset({"task"})
    tradeoff = Tradeoff("pull", centre=0.5, after=HEAD)

    def __init__(self, config: DenConfig, context: Context) -> None:
        super().__init__(config, context)
        with seeds.seeded(context.seed, "classifier"):
            trunk = context.network.trunk(context.image_shape, norm="none")
        self.order = Ordered(trunk, "den")
        layers = [self.order.layer(trunk, i) for i in range(len(self.order))]
        known = {id(p) for layer in layers for p in layer.parameters()}
        weights = [layer.weight.detach().clone() for layer in layers if isinstance(layer, nn.Linear)]
        biases = [layer.bias.detach().clone() for layer in layers if layer.bias is not None]
        if not len(weights) == len(biases) == len(layers) or any(
            id(p) not in known for p in trunk.parameters()
        ):
            raise ConfigError(
                f"den needs a network of linear layers with biases alone, {type(trunk).__name__} has others: use mlp."
            )
        self._between = (trunk.eval(),)  # for what is done between layers; its weights are not used
        self.weights, self.biases = nn.ParameterList(weights), nn.ParameterList(biases)
        self.heads = nn.ModuleList()  # each reads the units of its task's stamp
        self.stamps: list[list[int]] = []  # widths at the end of each task
        self.plan: list[str] = []  # phases of the task so far
        self.units: list[list[int]] = []  # of each layer: affected in retrain, split in split
        self.before = Table()  # trunk weights at the end of the task before
        self.loss_sum: Tensor
        self.register_buffer("loss_sum", torch.zeros(2))  # over the task's samples, and their number
        self._hold: Hold | None = None

    @property
    def widths(self) -> list[int]:
        """Units of each layer now."""
        return [len(b) for b in self.biases]

    @property
    def old(self) -> list[int]:
        """Units of each layer when the task began."""
        return self.stamps[-1]

    def head(self, index: int) -> nn.Linear:
        """The output layer of task ``index``."""
        return cast(nn.Linear, self.heads[index])

    def trunk(self) -> dict[str, nn.Parameter]:
        """Weights and biases of all layers by name."""
        return named_parameters(self, "weights.", "biases.")

    # Phases -------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        self.plan = [FIT] if task.index == 0 else [HEAD, RETRAIN, MEASURE]
        self.before.hold(self.trunk() if task.index else {})
        with seeds.seeded(self.context.seed, "head", task.index):
            self.heads.append(nn.Linear(self.widths[-1], task.n_classes))
        self.to(data.x.device)

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        plain = self.config.for_task(task).phase(self.loss)
        epochs = {HEAD: self.config.head_epochs or plain.epochs, MEASURE: 1}
        measure = (Update("task", None, self.measure_loss),)
        return tuple(
            replace(
                plain,
                name=name,
                epochs=epochs.get(name, plain.epochs),
                updates=measure if name == MEASURE else plain.updates,
                steps_per_epoch=None if name == MEASURE else plain.steps_per_epoch,
            )
            for name in self.plan
        )

    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        head = named_parameters(self, f"heads.{task.index}.")
        return {"net": self.config.for_task(task).player(head if phase == HEAD else {**self.trunk(), **head})}

    @torch.no_grad()
    def begin_phase(self, task: TaskInfo, phase: str) -> None:
        self._hold = None
        if phase == MEASURE:
            self.loss_sum.zero_()
        elif phase == EXPAND:
            self._expand(task.index)
        elif phase == SPLIT:
            self._split(task.index)

    @torch.no_grad()
    def end_phase(self, task: TaskInfo, phase: str) -> None:
        if phase == HEAD:
            self.units = self.affected(task.index)
        elif phase == EXPAND:
            self._remove_zeros(task.index)
        if phase == MEASURE and self.task_loss > self.config.loss_threshold:
            self.plan = [*self.plan, EXPAND]
        elif phase in (MEASURE, EXPAND):
            self.units = [
                (d > self.config.drift_threshold).nonzero().flatten().tolist() for d in self.drift()
            ]
            if any(self.units):
                self.plan = [*self.plan, SPLIT]

    @property
    def task_loss(self) -> float:
        """The task's mean loss, when it was measured."""
        return float(self.loss_sum[0] / self.loss_sum[1].clamp(min=1.0))

    @torch.no_grad()
    def end_task(self, task: TaskInfo, data: Samples) -> None:
        self.stamps = [*self.stamps, self.widths]
        self._hold = None

    # Losses -------------------------------------------------------------------------------------------------
    def logits(self, x: Tensor, index: int) -> Tensor:
        """Logits [B, C] of task ``index``, with the units of its stamp."""
        widths = self.stamps[index] if index < len(self.stamps) else self.widths
        (between,) = self._between
        h = self.order.lead(between, 0, x)
        for i, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            z = F.linear(h, w[: widths[i], : h.shape[1]], b[: widths[i]])
            h = self.order.lead(between, i + 1, z)
        return cast(Tensor, self.heads[index](h))

    def _cross_entropy(self, batch: Batch, task: TaskInfo) -> Tensor:
        """Mean binary cross entropy [] over batch and classes."""
        target = F.one_hot(batch.y - task.start, task.n_classes).to(batch.x.dtype)
        return F.binary_cross_entropy_with_logits(self.logits(batch.x, task.index), target)

    def loss(self, batch: Batch, step: Step) -> Terms:
        return {"bce": self._cross_entropy(batch, step.task)}

    def measure_loss(self, batch: Batch, step: Step) -> Terms:
        loss = self._cross_entropy(batch, step.task)
        self.loss_sum += torch.stack([loss, torch.ones_like(loss)]) * len(batch.y)
        return {"bce": loss}

    @torch.no_grad()
    def after_backward(self, player: str, grads: dict[str, Tensor], step: Step) -> None:
        for name, grad in grads.items():
            if name in self.before and self.config.pull:
                was = self.before[name]
                block = tuple(slice(0, n) for n in was.shape)
                grad[block] += self.config.pull * (self.get_parameter(name)[block] - was)
        if step.phase in (RETRAIN, EXPAND, SPLIT):
            if self._hold is None:
                self._hold = Hold(self.held(step.phase), dict(self.named_parameters()))
            self._hold.cut(grads)

    @torch.no_grad()
    def after_step(self, player: str, step: Step) -> None:
        for p in self.players(step.task, step.phase)[player].parameters.values():
            shrink_(p, self.config.l1)
        if step.phase == EXPAND:
            for w, n in zip(self.weights, self.old, strict=True):
                shrink_rows_(w[n:], self.config.group_lasso)
        if self._hold is not None:
            self._hold.put_back()

    def held(self, phase: str) -> dict[str, Tensor]:
        """Which weights a phase leaves alone, bool [*] by name."""
        masks: dict[str, Tensor] = {}
        below: Tensor | None = None
        for i, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            named = torch.zeros_like(b, dtype=torch.bool)
            named[self.units[i]] = True
            if phase == RETRAIN:  # all but what leads from an affected unit to one
                free = named[:, None].expand_as(w) if below is None else named[:, None] & below
                masks |= {f"weights.{i}": ~free, f"biases.{i}": ~named}
            elif phase == EXPAND:  # all that was there
                was = self.before[f"weights.{i}"]
                block = torch.zeros_like(w, dtype=torch.bool)
                block[: was.shape[0], : was.shape[1]] = True
                masks |= {
                    f"weights.{i}": block,
                    f"biases.{i}": torch.arange(len(b), device=b.device) < len(was),
                }
            else:  # what a split has given back
                masks |= {f"weights.{i}": named[:, None].expand_as(w).contiguous(), f"biases.{i}": named}
            below = named
        return masks

    # Units --------------------------------------------------------------------------------------------------
    def affected(self, index: int) -> list[list[int]]:
        """Units of each layer from which weights other than 0 lead to an output of task ``index``."""
        found: list[list[int]] = []
        above: Tensor = self.head(index).weight
        for w in reversed(list(self.weights)):
            units = above.ne(0).any(0).nonzero().flatten()
            found.append(units.tolist())
            above = w[units]
        return found[::-1]

    def drift(self) -> list[Tensor]:
        """How far the incoming weights of each old unit have moved in this task [O_i], of each layer."""
        pairs = ((w, self.before[f"weights.{i}"]) for i, w in enumerate(self.weights))
        return [(w.detach()[: len(was), : was.shape[1]] - was).norm(dim=1) for w, was in pairs]

    def _resize(self, i: int, rows: Tensor, biases: Tensor, columns: Tensor, index: int) -> None:
        """Append units to layer ``i``: their incoming weights [n, I], biases [n], and outgoing weights [O_{i+1}, n]."""
        self.weights[i] = nn.Parameter(torch.cat([self.weights[i].detach(), rows]))
        self.biases[i] = nn.Parameter(torch.cat([self.biases[i].detach(), biases]))
        self._set_columns(i, torch.cat([self._readers(i, index).detach(), columns], 1), index)

    def _readers(self, i: int, index: int) -> Tensor:
        """The weights that read layer ``i`` in task ``index``: those of the next layer, or of the newest head."""
        return self.weights[i + 1] if i + 1 < len(self.weights) else self.head(index).weight

    def _set_columns(self, i: int, weight: Tensor, index: int) -> None:
        if i + 1 < len(self.weights):
            self.weights[i + 1] = nn.Parameter(weight)
        else:
            head = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype)
            head.weight.copy_(weight)
            head.bias.copy_(self.head(index).bias)
            self.heads[index] = head

    def _expand(self, index: int) -> None:
        """Add ``n_new`` units to each layer, all weights drawn as those of a new linear layer."""
        n = self.config.n_new
        for i in range(len(self.weights)):
            w, readers = self.weights[i], self._readers(i, index)
            g = seeds.generator(self.context.seed, "new units", index, i)

            def drawn(shape: tuple[int, ...], n_in: int, g: torch.Generator = g) -> Tensor:
                bound = n_in**-0.5
                return ((2.0 * torch.rand(shape, generator=g) - 1.0) * bound).to(self.biases[0].device)

            rows, biases = drawn((n, w.shape[1]), w.shape[1]), drawn((n,), w.shape[1])
            self._resize(i, rows, biases, drawn((len(readers), n), readers.shape[1] + n), index)

    def _remove_zeros(self, index: int) -> None:
        """Remove new units whose incoming weights are all exactly 0."""
        for i, n in enumerate(self.old):
            w, b = self.weights[i].detach(), self.biases[i].detach()
            kept = (w != 0).any(1)
            kept[:n] = True
            self.weights[i], self.biases[i] = nn.Parameter(w[kept]), nn.Parameter(b[kept])
            self._set_columns(i, self._readers(i, index).detach()[:, kept], index)

    def _split(self, index: int) -> None:
        """Give the units in ``units`` their old weights back, and append copies with the present ones."""
        moved: list[int] = []  # split units of the layer below
        first_copy = 0
        for i, units in enumerate(self.units):
            w, b = self.weights[i].detach().clone(), self.biases[i].detach().clone()
            was = self.before[f"weights.{i}"]
            rows, biases = w[units].clone(), b[units].clone()
            # Copies read copies.
            rows[:, first_copy : first_copy + len(moved)] = rows[:, moved]
            rows[:, moved] = 0.0
            w[units, : was.shape[1]] = was[units]
            b[units] = self.before[f"biases.{i}"][units]
            self.weights[i], self.biases[i] = nn.Parameter(w), nn.Parameter(b)
            readers = self._readers(i, index).detach().clone()
            columns = readers[:, units].clone()
            own = self.old[i + 1] if i + 1 < len(self.old) else 0  # from here on readers are of this task
            columns[:own] = 0.0
            readers[own:, units] = 0.0
            self._set_columns(i, readers, index)
            moved, first_copy = units, len(b)
            self._resize(i, rows, biases, columns, index)

    # Answers and state --------------------------------------------------------------------------------------
    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        if task is None or task.index >= len(self.heads):
            raise ConfigError("a task must be named and learned before its head is asked: learn it first.")
        with evaluating(self):
            n = sum(self.head(t).out_features for t in range(len(self.heads)))
            return spread(self.logits(x, task.index), task.active, n)

    def structure(self) -> dict[str, Any]:
        return {
            **super().structure(),
            "widths": self.widths,
            "heads": [list(self.head(t).weight.shape) for t in range(len(self.heads))],
            "stamps": self.stamps,
            "plan": self.plan,
            "units": self.units,
        }

    def rebuild(self, structure: dict[str, Any]) -> None:
        super().rebuild(structure)
        inputs = self.weights[0].shape[1]
        for i, width in enumerate(structure["widths"]):
            self.weights[i], self.biases[i] = (
                nn.Parameter(torch.zeros(width, inputs)),
                nn.Parameter(torch.zeros(width)),
            )
            inputs = width
        self.heads = nn.ModuleList(nn.Linear(n_in, n_out) for n_out, n_in in structure["heads"])
        self.stamps = [list(s) for s in structure["stamps"]]
        self.plan, self.units = list(structure["plan"]), [list(u) for u in structure["units"]]
        self._hold = None

    def storage_bytes(self) -> dict[str, int]:
        # Between tasks the copy of the weights is the weights.
        heads = n_bytes(self.heads.parameters())
        kept = dict.fromkeys(super().storage_bytes(), 0)
        return {**kept, "weights": n_bytes(self.trunk().values()), "norms_and_heads": heads}

    def facts(self) -> dict[str, str]:
        return {"loss": "binary cross entropy"}

    @torch.no_grad()
    def report(self) -> dict[str, Any]:
        """The phases there were, widths, the loss that decided, units split, and how far old units have moved."""
        told: dict[str, Any] = {"stages": self.plan, "widths": self.widths}
        if len(self.stamps) > 1:
            drift = torch.cat(self.drift())
            told |= {
                "loss": self.task_loss,
                "split": [len(u) for u in self.units] if SPLIT in self.plan else [0] * len(self.widths),
                "drift": {"mean": float(drift.mean()), "max": float(drift.max())},
            }
        return told


_SMALL = f"{small.FIT}, momentum=0, keep_optimiser=false, weight_decay=1e-4, n_new=3, l1=1e-4, pull=0.5"

ENTRIES = {
    "den": Entry(
        Den,
        DenConfig(),
        "dynamically expandable networks, need task labels (Yoon et al., ICLR 2018)",
        small={
            "all": f"{_SMALL}, head_epochs=1, group_lasso=1e-3, loss_threshold=1e-3, drift_threshold=0.01",
            "retrain": f"{_SMALL}, optimiser=sgd, lr=0.05, momentum=0.9, head_epochs=none, group_lasso=0.1, "
            "loss_threshold=100, drift_threshold=100",
        },
    )
}
