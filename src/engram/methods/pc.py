"""Progress & Compress: an active column learns a task beside the knowledge base, which then takes it in.

J. Schwarz et al.: "Progress & Compress: A scalable framework for continual learning", ICML 2018, arXiv 1805.06370
("P&C"). A task has two phases:

- ``progress``: a fresh active column is trained with cross entropy. From the second task on its layer i, the output
  layer too, reads the knowledge base (KB), which does not move:

      z_i = W_i h_{i-1} + b_i + alpha_i U_i relu( V_i h_{i-1}^KB + c_i )                                       (Sec. 3)

  V has the shape of W, U is square (1x1 for feature maps), alpha is one number;
- ``compress``: the KB is trained on the task's samples to answer as the active column did, which does not move, under
  online EWC:

      E_x KL( active(x) || KB(x) ) + lambda / 2 sum_k gamma F*_k (theta_k - theta*_k)^2                        (Sec. 4)

  with F* <- gamma F* + F / |F| afterwards, F the Fisher information of the KB on the task.

Answers are the KB's alone: one network, however many tasks.

Departures: in ``compress`` the active column reads the KB as it was when the phase began, so that its answers stand
still. The first task has no adapters, since the KB knows nothing yet. The divergence is summed over labels and is the
mean over the batch; the norm |F| is over all weights together. The active column is fresh in every task.
Cost: while a task is learned a second network with adapters, and a frozen copy of the KB; afterwards one network and
two tensors a parameter.

Shapes: B batch, C labels; layer i reads [B, I] or [B, I, H, W].
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, cast

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
    named_parameters,
)
from engram.core.options import Count, NonNegative, Positive, Share
from engram.methods.registry import Entry
from engram.parts import small
from engram.parts.classifier import Classifier
from engram.parts.fisher import Labels
from engram.parts.fitting import FreshFitOptions
from engram.parts.ordered import Ordered
from engram.parts.penalty import QuadraticPenalty
from engram.parts.tables import Table
from engram.parts.task_importance import TaskImportance
from engram.parts.teacher import Teacher
from engram.parts.window import Window, cross_entropy

PROGRESS, COMPRESS = "progress", "compress"  # phases


@dataclass(frozen=True)
class PcConfig(FreshFitOptions):
    """Options of Progress & Compress.

    Args:
        compress_epochs: epochs of the second phase; None for as many as of the first.
        strength: strength of the penalty, lambda; it has a factor 1/2.
        gamma: share of the old Fisher information is kept, at each task's end and again in the penalty.
        normalise: each task's Fisher information before it is added: norm (divided by its Euclidean norm over all
            weights) or none.
        alpha_max: alphas start uniform in 0 .. alpha_max.
        fisher_labels: the labels whose gradient is squared for the Fisher information: sampled (one label drawn from
            the prediction), exact (expectation over all labels), empirical (the true label), predicted (the most
            probable one).
        fisher_samples: training samples that the Fisher information is taken over, drawn at random; None for all.
    """

    fresh: ClassVar[str] = "the active column is fresh"
    compress_epochs: Count | None = None
    strength: NonNegative = 1000.0
    gamma: Share = 0.99
    normalise: Literal["norm", "none"] = "norm"
    alpha_max: Positive = 0.1
    fisher_labels: Labels = "sampled"
    fisher_samples: Count | None = None


class Adapter(nn.Module):
    """alpha U relu(V h + c) for a layer of the active column, from what the same layer of the KB reads."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, alpha_max: float) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.rand(()) * alpha_max)
        self.v: nn.Module
        self.u: nn.Module
        if isinstance(layer, nn.Linear):
            self.v = nn.Linear(layer.in_features, layer.out_features)
            self.u = nn.Linear(layer.out_features, layer.out_features, bias=False)
        else:
            shape = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
            self.v = nn.Conv2d(layer.in_channels, layer.out_channels, *shape)  # type: ignore[arg-type]
            self.u = nn.Conv2d(layer.out_channels, layer.out_channels, 1, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        return self.alpha * cast(Tensor, self.u(self.v(h).relu()))


class Pc(Method):
    """Cross entropy of the active column; then distillation into the KB under online EWC."""

    Config = PcConfig
    config: PcConfig
    scenarios: ClassVar[frozenset[Scenario]] = frozenset({"task", "domain"})
    tradeoff = Tradeoff("strength", centre=1e3, after=PROGRESS)

    def __init__(self, config: PcConfig, context: Context) -> None:
        super().__init__(config, context)
        self.net = Classifier(context)  # the KB
        self.order = Ordered(self.net.trunk, "pc")
        self.before = Teacher(lambda: Classifier(context))  # the KB as it was when compress began
        self.active: Classifier | None = None  # while a task is learned
        self.adapters = nn.ModuleList()
        self.fisher, self.anchor = Table(), Table()
        self.penalty = QuadraticPenalty(self.fisher, self.anchor, 0.5 * config.strength * config.gamma)
        self.measured = TaskImportance(self.net, context)

    # Training -----------------------------------------------------------------------------------------------
    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        self.net.grow(task)
        self.penalty.pad(self._theta)
        self._add_active(task.index, task.active[1] - task.active[0])
        self.to(data.x.device)

    @property
    def _theta(self) -> dict[str, nn.Parameter]:
        return named_parameters(self, "net.")

    def _add_active(self, index: int, n_classes: int) -> None:
        """A fresh active column for task ``index``, with adapters from the second on."""
        seed = seeds.derive(self.context.seed, "active", index)
        self.active = active = Classifier(replace(self.context, seed=seed))
        active.head.grow(n_classes, seed, index)
        layers = [self.order.layer(active.trunk, i) for i in range(1, len(self.order))] + active.head.layers
        with seeds.seeded(seed, "adapters"):
            made = [Adapter(layer, self.config.alpha_max) for layer in layers] if index else []
        self.adapters = nn.ModuleList(made)

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        fit = self.config.for_task(task).phase(self.progress_loss, PROGRESS)
        epochs = self.config.compress_epochs or fit.epochs
        compress = Update("kb", "kb", self.compress_loss)
        return (fit, replace(fit, name=COMPRESS, epochs=epochs, updates=(compress,)))

    def begin_phase(self, task: TaskInfo, phase: str) -> None:
        if phase == COMPRESS and task.index:
            self.before.learn(self.net)

    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        fit = self.config.for_task(task)
        if phase == PROGRESS:
            return {"net": fit.player(named_parameters(self, "active.", "adapters."))}
        return {"kb": fit.player(self._theta)}

    def progress_loss(self, batch: Batch, step: Step) -> Terms:
        with evaluating(self.net):
            kb = self._read(self.net, batch.x) if self.adapters else []
        return {"ce": cross_entropy(self.active_logits(batch.x, kb), batch.y, Window(step.task.active))}

    def _read(self, net: Classifier, x: Tensor) -> list[Tensor]:
        """What each layer of ``net`` reads, the output layer last."""
        h = [self.order.lead(net.trunk, 0, x)]
        for i in range(len(self.order)):
            h.append(self.order.lead(net.trunk, i + 1, self.order.layer(net.trunk, i)(h[-1])))
        return h

    def active_logits(self, x: Tensor, kb: list[Tensor]) -> Tensor:
        """Logits [B, C] of the active column, for the classes of its task; ``kb`` is what the KB's layers read."""
        active, order = cast(Classifier, self.active), self.order
        h = order.lead(active.trunk, 0, x)
        for i in range(len(order)):
            z = order.layer(active.trunk, i)(h)
            if i and self.adapters:
                z = z + self.adapters[i - 1](kb[i])
            h = order.lead(active.trunk, i + 1, z)
        own = active.head(h, (0, active.head.n_outputs))
        return own + self.adapters[-1](kb[-1]) if self.adapters else own

    def compress_loss(self, batch: Batch, step: Step) -> Terms:
        """KL(active || KB), a mean over the batch; the penalty's gradient is added in ``after_backward``."""
        with evaluating(self):
            kb = self._read(self.before.net, batch.x) if self.adapters else []
            target = self.active_logits(batch.x, kb).log_softmax(1)
        found = self.net(batch.x, step.task.active).log_softmax(1)
        return {"kl": F.kl_div(found, target, reduction="batchmean", log_target=True)}

    @torch.no_grad()
    def after_backward(self, player: str, grads: dict[str, Tensor], step: Step) -> None:
        if player == "kb" and step.task.index:
            self.penalty.add_gradient(grads, self._theta)

    @torch.no_grad()
    def end_task(self, task: TaskInfo, data: Samples) -> None:
        c = self.config
        own = named_parameters(self, *(f"net.{prefix}" for prefix in self.net.taking_part(task)))
        found = self.measured.fisher(own, task, data, c.fisher_samples, c.fisher_labels)
        norm = 1.0
        if c.normalise == "norm":
            norm = float(torch.stack([f.norm() for f in found.values()]).norm().clamp(min=1e-30))
        self.fisher.add(found, keep=c.gamma, factor=1.0 / norm)  # F* <- gamma F* + F / |F|
        self.anchor.copy_from(self._theta)
        self.before.forget()
        self.active, self.adapters = None, nn.ModuleList()

    # Answers and state --------------------------------------------------------------------------------------
    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        return self.net.predict(x, task)

    def structure(self) -> dict[str, Any]:
        told = {k: v for k, v in super().structure().items() if k != "active"}
        n = 0 if self.active is None else self.active.head.n_outputs
        return {**told, "active outputs": n, "adapters": bool(self.adapters)}

    def rebuild(self, structure: dict[str, Any]) -> None:
        self.active, self.adapters = None, nn.ModuleList()
        super().rebuild(structure)
        if structure["active outputs"]:
            self._add_active(int(structure["adapters"]), int(structure["active outputs"]))

    def storage_bytes(self) -> dict[str, int]:
        """Of what lasts: the KB, and Fisher information and anchor of each of its parameters."""
        kept = dict.fromkeys(super().storage_bytes(), 0) | self.net.storage_bytes()
        tables = [*self.fisher.values(), *self.anchor.values()]
        return {**kept, "other": sum(t.numel() * t.element_size() for t in tables)}

    def facts(self) -> dict[str, str]:
        return {"fisher": f"per sample, {self.config.fisher_labels} labels"}

    def measures(self, step: Step) -> dict[str, Any]:
        """The penalty in ``compress``, and the mean size of alpha in ``progress``."""
        if step.phase == COMPRESS:
            return {"penalty": self.penalty.value(self._theta)}
        alphas = [abs(float(cast(Adapter, a).alpha.detach())) for a in self.adapters]
        return {"alpha": sum(alphas) / len(alphas)} if alphas else {}


_SMALL = f"{small.FIT}, momentum=0, weight_decay=0, keep_optimiser=false, strength=10, alpha_max=0.1"

ENTRIES = {
    "pc": Entry(
        Pc,
        PcConfig(),
        "Progress & Compress: an active column, distilled under online EWC (Schwarz et al., ICML 2018)",
        small={
            "norm": f"{_SMALL}, compress_epochs=none, gamma=0.9, normalise=norm, fisher_labels=sampled, "
            "fisher_samples=none",
            "none": f"{_SMALL}, optimiser=sgd, lr=0.05, momentum=0.9, compress_epochs=1, gamma=1, normalise=none, "
            "fisher_labels=exact, fisher_samples=9",
        },
    )
}
