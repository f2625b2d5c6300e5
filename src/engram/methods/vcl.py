"""Variational continual learning: a Gaussian over every weight, whose posterior is the next task's prior.

C. V. Nguyen, Y. Li, T. D. Bui, R. E. Turner: "Variational Continual Learning", ICLR 2018, arXiv 1710.10628. Here: its
Sec. 2 and Algorithm 1, with q_t(theta) = prod_k N(m_k, exp(v_k)). Task t minimises, for a batch of B of its N samples,

    - mean over K draws and B samples of log p(y | x, theta) + KL(q || q_{t-1}) / N,    theta ~ q                 (4)

with q_0 = N(0, prior_sd^2), also for the new rows of the output layer. Task t > 1 starts at q_{t-1}. Before the first
task the means are trained as a plain network (phase ``maximum-likelihood``), as in the released code. An answer is the
mean of the softmax over ``n_predict`` draws of all weights; its logarithm stands for the logits.

Coresets (Algorithm 1, lines 3, 6, 7): some samples of each task are chosen at random or as k-centre, kept out of its
training and stored. After the task a copy of q, with q as its prior, is trained on them for as many epochs, to answer
with: one copy for each task where the label is given, else one for all. Copies are made anew after every task; q itself
never sees a stored sample.

``reparameterisation=local`` draws each layer's outputs instead of its weights (D. P. Kingma, T. Salimans, M. Welling,
NIPS 2015): z ~ N(m x, s^2 x^2) for each sample by itself, the same expectation with far less noise in the gradient, so
that ``n_samples=1`` will do. S. Swaroop et al. (2019, arXiv 1905.02099) show that it improves VCL.

Departures: the plain network of the first task does not see the samples that the coreset will hold, in the released
code (`nvcuong/variational-continual-learning`) it does. Log-variances start at a standard deviation of 0.05, theirs at
-6, which is 0.0498. Normalisation is left out of networks. Convolutions are allowed, the paper has dense layers.
Cost: two numbers a weight, and as many again for the prior while a task is learned; K passes a step, ``n_predict`` an
answer; with coresets the stored samples and a copy of q (a task, with labels).

Shapes: K draws, B batch, C labels; * is a parameter's shape.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
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
    Step,
    TaskInfo,
    Terms,
    Update,
    evaluating,
    n_bytes,
)
from engram.core.options import Count, Positive
from engram.errors import ConfigError
from engram.methods.registry import Entry
from engram.parts import small
from engram.parts.classifier import spread
from engram.parts.fitting import FreshFitOptions
from engram.parts.gaussian import Gaussian
from engram.parts.memory import SampleMemory, k_centre
from engram.parts.ordered import Ordered
from engram.parts.tables import Table
from engram.parts.window import Window, cross_entropy

PLAIN, FIT, CORESET = "maximum-likelihood", "posterior", "coreset"  # phases; one "coreset-J" for each task J
DRAWS = 10  # of an answer that are computed at once


@dataclass(frozen=True)
class VclConfig(FreshFitOptions):
    """Options of variational continual learning. A batch_size above the number of samples takes them all in one step.

    Args:
        n_samples: number K of draws of the weights in a training step.
        n_predict: draws of the weights in an answer.
        reparameterisation: what is drawn: weights (a draw of all weights for the whole batch, as the paper) or local
            (a draw of each layer's outputs for each sample).
        sd: standard deviation at which weights start.
        prior_sd: standard deviation of the first prior.
        mean_sd: standard deviation, cut at two, of the first means: of all weights when the first task begins, later of
            new output rows; biases start at 0. None leaves them as the network has them, for one trained before.
        start_plain: train the means as a plain network before the first task.
        coreset: how stored samples are chosen: none, random or k_centre (first the first sample, then always the one
            farthest from those chosen).
        coreset_size: samples of each task that are stored.
    """

    fresh: ClassVar[str] = "every posterior has an optimiser of its own"
    epochs: Count = 100
    batch_size: Count = 256
    n_samples: Count = 10
    n_predict: Count = 100
    reparameterisation: Literal["weights", "local"] = "weights"
    sd: Positive = 0.05
    prior_sd: Positive = 1.0
    mean_sd: Positive | None = 0.1
    start_plain: bool = True
    coreset: Literal["none", "random", "k_centre"] = "none"
    coreset_size: Count = 40


class Vcl(Method):
    """Expected cross entropy plus KL(q || q_{t-1}) / N."""

    Config = VclConfig
    config: VclConfig

    def __init__(self, config: VclConfig, context: Context) -> None:
        super().__init__(config, context)
        self.q = Gaussian(context)
        self.order = Ordered(self.q.net.trunk, "vcl")
        known = {n for i in range(len(self.order)) for n, _ in self._layer_parameters(i)}
        if strange := [n for n, _ in self.q.net.trunk.named_parameters() if n not in known]:
            raise ConfigError(
                f"vcl needs linear layers and convolutions alone, {strange[0]} is of another: use such a network."
            )
        self.prior_m, self.prior_v = Table(), Table()
        self.memory = SampleMemory(context.image_shape) if config.coreset != "none" else None
        self.reads = "task" if self.memory is None else "memory"
        self.copies = nn.ModuleList()  # refined on coresets, to answer with
        self.rows: Tensor
        self.register_buffer(
            "rows", torch.zeros(0, dtype=torch.int64)
        )  # of the task's samples in its coreset
        self.n_fit: Tensor
        self.register_buffer("n_fit", torch.tensor(0))  # N, samples of the task without its coreset

    def _layer_parameters(self, i: int) -> list[tuple[str, nn.Parameter]]:
        layer, path = self.order.layer(self.q.net.trunk, i), self.order.layers[i]
        return [(f"{path}.{n}".lstrip("."), p) for n, p in layer.named_parameters()]

    def copy_of(self, i: int) -> Gaussian:
        """The copy of q that is refined on coreset ``i``."""
        return cast(Gaussian, self.copies[i])

    # Training -----------------------------------------------------------------------------------------------
    @torch.no_grad()
    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        c, q = self.config, self.q
        self.prior_m.hold(q.m if task.index else {})
        self.prior_v.hold({n: q.variance(n) for n in q.m} if task.index else {})
        self.copies = nn.ModuleList()
        before = q.net.head.n_outputs
        q.net.grow(task)
        if c.mean_sd is not None and q.net.head.n_outputs > before:
            self._draw_means(task.index, before, c.mean_sd)
        q.fit_variances(2.0 * math.log(c.sd))
        self.prior_m.pad(q.m, 0.0)
        self.prior_v.pad(q.m, 2.0 * math.log(c.prior_sd))
        if self.memory is not None:
            self._choose(self.memory, task, data)
        self.n_fit.fill_(len(data) - len(self.rows))

    def _draw_means(self, index: int, n_old: int, sd: float) -> None:
        """Means of the output rows from ``n_old`` on, and in the first task those of the trunk."""
        net, g = self.q.net, seeds.generator(self.context.seed, "means", index)
        fresh = [p[n_old if net.head.kind == "single" else 0 :] for p in net.head.parts[-1].parameters()]
        for p in [*net.trunk.parameters(), *fresh] if index == 0 else fresh:
            drawn = torch.zeros(p.shape)
            if p.dim() > 1:
                nn.init.trunc_normal_(drawn, 0.0, sd, -2.0 * sd, 2.0 * sd, generator=g)
            p.copy_(drawn)

    def _choose(self, memory: SampleMemory, task: TaskInfo, data: Samples) -> None:
        """Put this task's coreset into the memory."""
        n = self.config.coreset_size
        if n >= len(data):
            raise ConfigError(
                f"a task must have more samples than its coreset, task {task.index + 1} has {len(data)} for {n}: give "
                "a smaller coreset_size."
            )
        if self.config.coreset == "random":
            g = seeds.generator(self.context.seed, "coreset", task.index)
            self.rows = torch.randperm(len(data), generator=g)[:n].to(data.x.device)
        else:
            self.rows = k_centre(self.context.network.normalise(data.x).flatten(1), n)
        fresh = SampleMemory(memory.image_shape)
        fresh.images, fresh.labels = data.x[self.rows], data.y[self.rows]
        memory.append(fresh)

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        fit = self.config.for_task(task).phase(self.loss, FIT)
        if self.memory is not None:
            fit = _reading(fit, "rest", fit.updates[0])
        plain = replace(fit, name=PLAIN, updates=(replace(fit.updates[0], loss=self.plain_loss),))
        found = [plain, fit] if self.config.start_plain and task.index == 0 else [fit]
        for name in self._coresets(task):
            refine = replace(fit, name=name, steps_per_epoch=None)
            found.append(_reading(refine, name, Update("net", "copy", self.refine_loss)))
        return tuple(found)

    def _coresets(self, task: TaskInfo) -> list[str]:
        """The coresets that copies are refined on: that of each task where the label is given, else their union."""
        if self.memory is None:
            return []
        return [f"{CORESET}-{j}" for j in range(task.index + 1)] if self._by_task else [CORESET]

    @property
    def _by_task(self) -> bool:
        return self.context.scenario == "task"

    def pools(self, task: TaskInfo, phase: str, epoch: int, data: Samples) -> dict[str, Samples]:
        if self.memory is None:
            return {}
        if phase in (PLAIN, FIT):
            rest = torch.ones(len(data), dtype=torch.bool, device=data.x.device)
            rest[self.rows] = False
            return {"rest": Samples(data.x[rest], data.y[rest])}
        own = slice(None)
        if self._by_task:
            j, n = int(phase.removeprefix(f"{CORESET}-")), self.config.coreset_size
            own = slice(j * n, (j + 1) * n)
        return {phase: Samples(self.memory.images[own], self.memory.labels[own])}

    def begin_phase(self, task: TaskInfo, phase: str) -> None:
        if phase.startswith(CORESET):
            self.copies.append(copy.deepcopy(self.q))

    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        which, at = ("net", "q.") if phase in (PLAIN, FIT) else ("copy", f"copies.{len(self.copies) - 1}.")
        named = dict(self.named_parameters())
        names = self.q.names(self._asked(task, phase))
        trained = {f"{at}net.{n}": named[f"{at}net.{n}"] for n in names}
        if phase != PLAIN:
            keys = [f"{at}v.{n.replace('.', '/')}" for n in names]
            trained |= {key: named[key] for key in keys}
        return {which: self.config.for_task(task).player(trained)}

    def _asked(self, task: TaskInfo, phase: str) -> TaskInfo:
        """The task whose labels a phase is about: that of its coreset."""
        if not phase.startswith(f"{CORESET}-"):
            return task
        j, stops = int(phase.removeprefix(f"{CORESET}-")), [0, *self.q.net.stops]
        return TaskInfo.of(j, stops[j], stops[j + 1], "task")

    def plain_loss(self, batch: Batch, step: Step) -> Terms:
        labels = Window(step.task.active)
        return {"ce": cross_entropy(self.q.net(batch.x, labels.active), batch.y, labels)}

    def loss(self, batch: Batch, step: Step) -> Terms:
        """Eq. 4 for q, with the last task's q as its prior."""
        return self._bound(self.q, self.prior_m, self.prior_v, batch, step.task, self.n_fit, step)

    def refine_loss(self, batch: Batch, step: Step) -> Terms:
        """Eq. 4 for the newest copy on its coreset, with q as its prior."""
        asked = self._asked(step.task, step.phase)
        names = self.q.names(asked)
        m0 = {n: p.detach() for n, p in self.q.m.items()}
        v0 = {n: self.q.variance(n).detach() for n in names}
        n = self.n_fit.new_tensor(self.config.coreset_size * (1 if self._by_task else len(self.q.net.stops)))
        return self._bound(self.copy_of(len(self.copies) - 1), m0, v0, batch, asked, n, step)

    def _bound(
        self,
        q: Gaussian,
        m0: Mapping[str, Tensor] | Table,
        v0: Mapping[str, Tensor] | Table,
        batch: Batch,
        task: TaskInfo,
        n: Tensor,
        step: Step,
    ) -> Terms:
        names, k = q.names(task), self.config.n_samples
        at = (step.task.index, step.phase, step.epoch, step.step)
        g = seeds.generator(self.context.seed, "draws", *at, device=batch.x.device)
        if self.config.reparameterisation == "local":
            logits = q.drawn_locally(batch.x, self.order, task.active, k, g)
        else:
            logits = q.drawn(batch.x, names, task.active, k, g)
        expected = F.cross_entropy(logits.flatten(0, 1), (batch.y - task.active[0]).repeat(k))
        return {"ce": expected, "kl": q.divergence(m0, v0, names) / n}

    # Answers and state --------------------------------------------------------------------------------------
    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        q = self.q
        which = task.index if task is not None and self._by_task else 0
        if which < len(self.copies):
            q = self.copy_of(which)
        n = q.net.head.n_outputs
        if task is not None and task.active[1] > n:
            raise ConfigError(
                f"a task must be learned before its head is asked, task {task.index + 1} was not: learn it first."
            )
        asked = TaskInfo.of(0, 0, n, "class") if task is None else task
        total = x.new_zeros(())
        with evaluating(self):
            for start in range(0, self.config.n_predict, DRAWS):
                k = min(DRAWS, self.config.n_predict - start)
                g = seeds.generator(self.context.seed, "answers", start)
                total = total + q.drawn(x, q.names(asked), asked.active, k, g).softmax(2).sum(0)
        tiny = torch.finfo(total.dtype).tiny
        return spread((total / self.config.n_predict).clamp(min=tiny).log(), asked.active, n)

    def structure(self) -> dict[str, Any]:
        return {**super().structure(), "copies": len(self.copies), "rows": len(self.rows)}

    def rebuild(self, structure: dict[str, Any]) -> None:
        self.copies = nn.ModuleList()
        super().rebuild(structure)
        self.copies.extend(copy.deepcopy(self.q) for _ in range(int(structure["copies"])))
        self.rows = self.rows.new_zeros(int(structure["rows"]))

    def storage_bytes(self) -> dict[str, int]:
        # Between tasks the prior is q itself.
        kept = self.q.storage_bytes()
        if self.memory is not None:
            kept |= self.memory.storage_bytes()
        return {
            **dict.fromkeys(super().storage_bytes(), 0),
            **kept,
            "other": n_bytes(self.copies.parameters()),
        }

    def facts(self) -> dict[str, str]:
        c, told = self.config, {}
        if c.coreset != "none":
            told["coreset"] = f"{c.coreset_size} a task, {c.coreset.replace('_', '-')}"
        if c.reparameterisation == "local":
            told["reparameterisation"] = f"local, {c.n_samples} a step"
        return told

    @torch.no_grad()
    def report(self) -> dict[str, Any]:
        """Mean standard deviation of each layer's weights."""
        return {
            "sd": {
                n: float((0.5 * self.q.variance(n)).exp().mean()) for n in self.q.m if n.endswith("weight")
            }
        }


def _reading(phase: Phase, pool: str, update: Update) -> Phase:
    """The phase with one update, over ``pool``."""
    return replace(phase, updates=(replace(update, pools=(pool,)),), primary=pool)


_SMALL = (
    f"{small.FIT}, momentum=0, weight_decay=0, keep_optimiser=false, n_samples=2, n_predict=12, prior_sd=1, "
    "mean_sd=0.1, coreset_size=3"
)

ENTRIES = {
    "vcl": Entry(
        Vcl,
        VclConfig(),
        "variational continual learning: a Gaussian per weight, with or without coresets (Nguyen et al., ICLR 2018)",
        small={
            "weights": f"{_SMALL}, reparameterisation=weights, sd=0.05, start_plain=true, coreset=none",
            "coreset": f"{_SMALL}, reparameterisation=local, sd=0.02, start_plain=false, coreset=k_centre",
            "random": f"{_SMALL}, reparameterisation=weights, sd=0.05, start_plain=true, coreset=random",
        },
        skipped={
            (
                "",
                "growing_keeps_old_logits",
            ): "answers are mean probabilities, of which new classes take a share, and "
            "copies that were refined on coresets end when a task begins"
        },
    )
}
