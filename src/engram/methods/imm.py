"""Incremental Moment Matching: the network before a task and the one trained on it are merged into one.

S.-W. Lee, J.-H. Kim, J. Jun, J.-W. Ha, B.-T. Zhang: "Overcoming catastrophic forgetting by incremental moment
matching", NIPS 2017, arXiv 1703.08475 ("IMM"). Here: mean-IMM and mode-IMM with weight transfer and L2
transfer. Of K networks with weights a_k, sum a_k = 1:

    mean:  theta = sum_k a_k theta_k
    mode:  theta = (sum_k a_k F_k)^-1 sum_k a_k F_k theta_k,   element by element, F_k diagonal Fisher + 1e-8

The merge is done after each task k > 1, between the merged network so far and the new one, with weights ``ratio`` and
1 - ratio; mode-IMM keeps P <- ratio P + (1 - ratio) F_k for it. ``ratio`` = None takes (k - 1) / k, which is the same
as merging all networks at once with a_k = 1 / K. Real heads are kept as they are; one layer shared by all tasks is
merged with the trunk. ``averaging`` is mean-IMM without L2 transfer: a straight line between the two networks.

Departures: the next task starts from the merged network and the L2 transfer pulls towards it, instead of the previous
    task's own network, so the unmerged one is not kept. ``ratio`` is 0.5 by default, which is 1 / K for two tasks only.
    Drop-transfer is not here. The Fisher information is per sample with sampled labels, of each network before it is
    merged; the released code squares means over batches of 1000. What the paper does with batch normalisation is not
    known to us: scale and offset are merged like weights; running statistics as in mean-IMM whichever the merge, or
    taken anew on the new task's data (``statistics``). Epoch by epoch the network not yet merged is measured.
Cost: a copy of the network while a task is learned; mode-IMM also a tensor a parameter, and one pass over the task's
    data at its end.

Shapes: * is a parameter's shape. F in nats^2 per squared unit of the parameter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

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
    evaluating,
    named_parameters,
)
from engram.core.values import check_at_least, check_fraction, check_positive
from engram.methods.registry import Entry
from engram.parts import small, training, transfer
from engram.parts.fisher import Paths, prove
from engram.parts.statistics import reestimated_statistics
from engram.parts.tables import Scratch, Table
from engram.parts.task_fisher import task_fisher
from engram.parts.training import TrainOptions

LEAST_FISHER = 1e-8


@dataclass(frozen=True)
class ImmConfig(TrainOptions):
    """Options of Incremental Moment Matching.

    Args:
        merge: mean, or mode, which weights each entry by its Fisher information.
        ratio: weight of the old network in the merge after each task; none for equal weights of all tasks, as the
            paper.
        l2: lambda of the L2 transfer, which pulls towards the network before the task; no factor 1/2.
        statistics: running statistics of batch norm are merged with weight ratio, or recomputed on the new task's
            data.
        fisher_samples: training samples that the Fisher information is taken over, drawn at random; None for all.
    """

    merge: Literal["mean", "mode"] = "mean"
    ratio: float | None = 0.5
    l2: float = 1e-4
    statistics: Literal["merge", "recompute"] = "merge"
    fisher_samples: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ratio is not None:
            check_fraction(self, "ratio")
        check_at_least(self, 0, "l2")
        check_positive(self, "fisher_samples")


def merged(old: Tensor, new: Tensor, share: Tensor) -> Tensor:
    """old + share (new - old) [*], with ``share`` [] or [*] in 0..1; at 0 and 1 one of the two, exactly."""
    return torch.lerp(old, new, share.to(old))


class Imm(Method):
    """Cross entropy plus lambda |theta - theta_prev|^2; then the old and the new network are merged."""

    Config = ImmConfig
    config: ImmConfig
    scenarios: ClassVar[frozenset[Scenario]] = frozenset({"task", "domain"})
    tradeoff = Tradeoff("ratio", scale="linear", centre=0.5, after="fit")

    def __init__(self, config: ImmConfig, context: Context) -> None:
        super().__init__(config, context)
        self.net = training.make_net(config, context)
        self.memory = training.make_memory(config, context)
        self.reads = "task" if self.memory is None else "memory"
        images = torch.zeros(1, *context.image_shape)
        self._paths = prove(self.net.trunk, images) if config.merge == "mode" else Paths()
        # While a later task is learned: the merged network before it, with its running statistics. P of the module.
        self.source, self.precision = Table(), Table()
        self.n_learned = 0
        self._scratch = Scratch()

    @property
    def _merged_prefixes(self) -> tuple[str, ...]:
        """What is merged: the trunk, and the head where tasks share it."""
        return ("net.trunk.",) if self.net.head.kind == "multi" else ("net.trunk.", "net.head.")

    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        if self.n_learned:
            statistics = {n: b for n, b in self.net.named_buffers(prefix="net") if b.is_floating_point()}
            transfer.hold(self.source, {**named_parameters(self, *self._merged_prefixes), **statistics})
        training.grow_head(self.net, task, self.context.seed, zero=self.config.zero_head)
        self.precision.pad(named_parameters(self), LEAST_FISHER, only_known=True)

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        fit = training.for_task(self.config, task)
        return (training.fit_phase(fit, self.loss, self.memory),)

    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        return {"net": training.player(training.for_task(self.config, task), named_parameters(self))}

    def pools(self, task: TaskInfo, phase: str, epoch: int, data: Samples) -> dict[str, Samples]:
        return training.memory_pool(self.memory)

    def loss(self, batch: Batch, step: Step) -> Terms:
        labels = training.window(self.net, step.task, self.memory, self.config.memory_weight)
        return {"ce": training.cross_entropy(self.net(batch.x, labels.active), batch.y, labels)}

    # Moments ------------------------------------------------------------------------------------------------
    def after_backward(self, player: str, grads: dict[str, Tensor], step: Step) -> None:
        # Gradient of the L2 transfer: 2 lambda (theta - theta_prev).
        if self.source.names:
            transfer.add_pull(grads, self.get_parameter, self.source, 2.0 * self.config.l2, self._scratch)

    @torch.no_grad()
    def end_task(self, task: TaskInfo, data: Samples) -> None:
        fisher = self._fisher(task, data) if self.config.merge == "mode" else {}
        self.n_learned += 1
        if self.source.names:
            self._merge(fisher)
            if self.config.statistics == "recompute":
                self._recompute(task, data)
            self.source.rebuild([])
        else:
            for name, value in fisher.items():
                self.precision.put(name, value)
        training.remember(self.memory, self.config, self.net, task, data, self.context)

    def _fisher(self, task: TaskInfo, data: Samples) -> dict[str, Tensor]:
        """F_k [*] by name, over the task's samples and its active labels, with the network not yet merged."""
        own = named_parameters(self, *self._merged_prefixes)
        n = self.config.fisher_samples
        found = task_fisher(self.net, self._paths, own, task, data, self.context, n_samples=n)
        return {n: value.add_(LEAST_FISHER) for n, value in found.items()}

    def _merge(self, fisher: dict[str, Tensor]) -> None:
        """Merge network and source in place; rows that have grown since stay as they are."""
        ratio = self.config.ratio
        new = 1.0 / self.n_learned if ratio is None else 1.0 - ratio
        tensors = {
            **dict(self.net.named_parameters(prefix="net")),
            **dict(self.net.named_buffers(prefix="net")),
        }
        for name in self.source.names:
            old, now = self.source[name], tensors[name]
            share, n = torch.tensor(new, dtype=torch.float64), len(old) if old.dim() else None
            if name in fisher:
                # P <- (1 - new) P + new F; the new network's share of each entry is new F / P.
                held, f = self.precision[name], fisher[name]
                part = new * f
                held.mul_(1.0 - new).add_(part)
                share = (part / held)[:n]
            now[:n].copy_(merged(old, now[:n], share))

    def _recompute(self, task: TaskInfo, data: Samples) -> None:
        """Running statistics of the merged trunk: their mean over shuffled batches of the new task."""
        n = len(data)
        order = torch.randperm(n, generator=seeds.generator(self.context.seed, "statistics", task.index))
        batches = order.to(data.x.device).tensor_split(max(1, n // max(2, self.config.batch_size)))
        with evaluating(self.net), reestimated_statistics(self.net.trunk):
            for rows in batches:
                self.net.trunk(self.context.network.normalise(data.x[rows]))

    # Answers and state --------------------------------------------------------------------------------------
    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        return training.predict(self.net, x, task)

    def structure(self) -> dict[str, Any]:
        tables = {"source": self.source.structure(), "precision": self.precision.structure()}
        return {**training.structure(self.net, self.memory), **tables, "n_learned": self.n_learned}

    def rebuild(self, structure: dict[str, Any]) -> None:
        training.rebuild(self.net, self.memory, structure)
        self.source.rebuild(structure["source"])
        self.precision.rebuild(structure["precision"])
        self.n_learned = int(structure["n_learned"])

    def storage_bytes(self) -> dict[str, int]:
        return training.storage_bytes(self, self.net, self.memory)

    def facts(self) -> dict[str, str]:
        c = self.config
        weight = "equal weights" if c.ratio is None else f"{c.ratio:g} of the old network"
        return {**training.facts(c, self.net), "merge": f"{c.merge}, {weight}"}

    def measures(self, step: Step) -> dict[str, Any]:
        if not self.source.names:
            return {"penalty": 0.0}
        held = {n: p for n, p in named_parameters(self).items() if n in self.source}
        return {"penalty": transfer.pull(held, self.source, 2.0 * self.config.l2)}


_MERGE, _RECOMPUTE = "ratio=0.4, statistics=merge", "ratio=none, statistics=recompute"

ENTRIES = {
    "imm-mean": Entry(
        Imm,
        ImmConfig(merge="mean"),
        "Incremental Moment Matching: old and new weights averaged (Lee et al., NIPS 2017)",
        fixed=("merge", "fisher_samples"),
        small={"adam": f"{small.TRAIN}, {_MERGE}, l2=0.1", "stored": f"{small.STORED}, {_RECOMPUTE}, l2=1"},
    ),
    "imm-mode": Entry(
        Imm,
        ImmConfig(merge="mode"),
        "Incremental Moment Matching: averaged by Fisher information (Lee et al., NIPS 2017)",
        fixed=("merge",),
        small={
            "adam": f"{small.TRAIN}, {_MERGE}, l2=0.1, fisher_samples=none",
            "stored": f"{small.STORED}, {_RECOMPUTE}, l2=1, fisher_samples=9",
        },
    ),
    "averaging": Entry(
        Imm,
        ImmConfig(merge="mean", l2=0.0),
        "plain average of the weights before and after a task: mean-IMM without L2 transfer",
        fixed=("merge", "l2", "fisher_samples"),
        small={
            "adam": f"{small.TRAIN}, {_MERGE}",
            "stored": f"{small.STORED}, ratio=none, statistics=merge",
        },
    ),
}
