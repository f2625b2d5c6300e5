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
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from engram import seeds
from engram.core.contract import (
    Context,
    Samples,
    Scenario,
    TaskInfo,
    Tradeoff,
    evaluating,
    named_parameters,
)
from engram.core.options import Count, NonNegative, Share
from engram.methods.registry import Entry
from engram.parts import small
from engram.parts.fitting import TrainOptions
from engram.parts.one_network import PlainTraining
from engram.parts.penalty import QuadraticPenalty
from engram.parts.statistics import reestimated_statistics
from engram.parts.tables import Table
from engram.parts.task_importance import TaskImportance

LEAST_FISHER = 1e-8


@dataclass(frozen=True)
class ImmConfig(TrainOptions):
    """Options of Incremental Moment Matching.

    Args:
        merge: mean, or mode, which weights each entry by its Fisher information.
        ratio: weight of the old network in the merge after each task; none for equal weights of all tasks, as the
            paper.
        l2: strength of the L2 transfer, lambda, which pulls towards the network before the task; no factor 1/2.
        statistics: whether running statistics of batch norm are merged with weight ratio, or recomputed on the new
            task's data.
        fisher_samples: training samples that the Fisher information is taken over, drawn at random; None for all.
    """

    merge: Literal["mean", "mode"] = "mean"
    ratio: Share | None = 0.5
    l2: NonNegative = 1e-4
    statistics: Literal["merge", "recompute"] = "merge"
    fisher_samples: Count | None = None


def merged(old: Tensor, new: Tensor, share: Tensor) -> Tensor:
    """old + share (new - old) [*], with ``share`` [] or [*] in 0..1; at 0 and 1 one of the two, exactly."""
    return torch.lerp(old, new, share.to(old))


class Imm(PlainTraining):
    """Cross entropy plus lambda |theta - theta_prev|^2; then the old and the new network are merged."""

    Config = ImmConfig
    config: ImmConfig
    scenarios: ClassVar[frozenset[Scenario]] = frozenset({"task", "domain"})
    tradeoff = Tradeoff("ratio", scale="linear", centre=0.5, after="fit")

    def __init__(self, config: ImmConfig, context: Context) -> None:
        super().__init__(config, context)
        # While a later task is learned: the merged network before it, with its running statistics. P of the module.
        self.source, self.precision = Table(), Table()
        # The L2 transfer, with gradient 2 lambda (theta - theta_prev).
        self.penalties = [QuadraticPenalty(None, self.source, config.l2)]
        self.measured = TaskImportance(self.net, context) if config.merge == "mode" else None

    def merged_parameters(self) -> dict[str, nn.Parameter]:
        """What is merged: the trunk, and the head where tasks share it."""
        return named_parameters(self, "net.trunk." if self.net.head.kind == "multi" else "net.")

    def before_growth(self, task: TaskInfo) -> None:
        if task.index:
            statistics = {n: b for n, b in self.net.named_buffers(prefix="net") if b.is_floating_point()}
            self.source.hold({**self.merged_parameters(), **statistics})

    def begin(self, task: TaskInfo) -> None:
        self.precision.pad(self.theta, LEAST_FISHER, only_known=True)

    def consolidate(self, task: TaskInfo, data: Samples) -> None:
        fisher = {}
        if self.measured is not None:
            # F_k of the network not yet merged.
            found = self.measured.fisher(self.merged_parameters(), task, data, self.config.fisher_samples)
            fisher = {n: value.add_(LEAST_FISHER) for n, value in found.items()}
        if task.index == 0:
            self.precision.hold(fisher)
            return
        self._merge(task, fisher)
        if self.config.statistics == "recompute":
            self._recompute(task, data)
        self.source.clear()

    def _merge(self, task: TaskInfo, fisher: dict[str, Tensor]) -> None:
        """Merge network and source in place; rows that have grown since stay as they are."""
        ratio = self.config.ratio
        new = 1.0 / (task.index + 1) if ratio is None else 1.0 - ratio
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

    def added_facts(self) -> dict[str, str]:
        c = self.config
        weight = "equal weights" if c.ratio is None else f"{c.ratio:g} of the old network"
        return {"merge": f"{c.merge}, {weight}"}


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
