"""Progressive networks: a column for each task, which reads the columns before it through adapters.

A. A. Rusu et al.: "Progressive Neural Networks", 2016, arXiv 1606.04671. Here: its Sec. 2. Layer i of column k computes

    h_i^k = relu( W_i^k h_{i-1}^k + b_i^k + U_i^k relu( V_i^k [ alpha_i^{kj} h_{i-1}^j ]_{j<k} + c_i^k ) + d_i^k )   (2)

where V reduces the activations of all columns before, each scaled by a number alpha, to the width of one, with a 1x1
convolution for feature maps, and U has the shape of W. The first layer reads the images alone; the output layer has an
adapter too. Only the newest column and its adapters are trained; those before are frozen and in evaluation mode, so
that their answers never change by a bit.

Departures: alpha starts at 0.1 N(0, 1) (``alpha_scale``; the paper says small random values, public re-implementations
take 1). Columns have the network's full width, as in the paper; for columns that cost one network together give
narrower ones. Networks with branches are refused: the paper has layers in a row.
Cost: a column a task, and adapters that grow with the number of tasks: quadratic in all. Needs the task label.

Shapes: n columns before; layer i reads [B, I] or [B, I, H, W].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

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
    evaluating,
    named_parameters,
)
from engram.core.options import Positive
from engram.errors import ConfigError
from engram.methods.registry import Entry
from engram.parts import small
from engram.parts.classifier import Classifier, spread
from engram.parts.fitting import FreshFitOptions
from engram.parts.ordered import Ordered
from engram.parts.window import Window, cross_entropy


@dataclass(frozen=True)
class PnnConfig(FreshFitOptions):
    """Options of progressive networks; there is no optimiser state to keep from task to task.

    Args:
        adapters: how a column reads the columns before: mlp, as Eq. 2; or linear, the sum of U^{kj} h^j over the
            columns before, as Eq. 1.
        alpha_scale: standard deviation of the first values of alpha.
    """

    fresh: ClassVar[str] = "every task has fresh weights"
    adapters: Literal["mlp", "linear"] = "mlp"
    alpha_scale: Positive = 0.1


class Adapter(nn.Module):
    """What layer ``layer`` of a column gets from ``n`` columns before it."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, n: int, config: PnnConfig) -> None:
        super().__init__()
        if config.adapters == "linear":
            self.u = like(layer, n, bias=False)
            return
        self.alpha = nn.Parameter(config.alpha_scale * torch.randn(n))
        self.v: nn.Module
        if isinstance(layer, nn.Linear):
            self.v = nn.Linear(n * layer.in_features, layer.in_features)
        else:
            self.v = nn.Conv2d(n * layer.in_channels, layer.in_channels, 1)
        self.u = like(layer, 1, bias=layer.bias is not None)

    def forward(self, before: Sequence[Tensor]) -> Tensor:
        """U relu(V [alpha h]) from the activations of the columns before, or U [h]."""
        if not hasattr(self, "v"):
            return cast(Tensor, self.u(torch.cat(list(before), 1)))
        scaled = [a * h for a, h in zip(self.alpha, before, strict=True)]
        return cast(Tensor, self.u(self.v(torch.cat(scaled, 1)).relu()))


def like(layer: nn.Linear | nn.Conv2d, n: int, *, bias: bool) -> nn.Module:
    """A fresh layer of the same kind with ``n`` times the inputs."""
    if isinstance(layer, nn.Linear):
        return nn.Linear(n * layer.in_features, layer.out_features, bias=bias)
    made = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
    return nn.Conv2d(n * layer.in_channels, layer.out_channels, *made, bias=bias)  # type: ignore[arg-type]


class Pnn(Method):
    """Cross entropy of the newest column."""

    Config = PnnConfig
    config: PnnConfig
    scenarios: ClassVar[frozenset[Scenario]] = frozenset({"task"})

    def __init__(self, config: PnnConfig, context: Context) -> None:
        super().__init__(config, context)
        self.order = Ordered(Classifier(context).trunk, "pnn")
        self.columns, self.adapters = nn.ModuleList(), nn.ModuleList()

    def column(self, k: int) -> Classifier:
        """Column ``k``: its own layers and its head."""
        return cast(Classifier, self.columns[k])

    def adapter(self, k: int, i: int) -> Adapter:
        """Of column ``k`` >= 1 and layer ``i`` >= 1; layer n is the output layer."""
        return cast(Adapter, cast(nn.ModuleList, self.adapters[k])[i - 1])

    @property
    def sizes(self) -> list[int]:
        """Classes of each task begun."""
        return [self.column(k).head.n_outputs for k in range(len(self.columns))]

    def _add(self, n_classes: int) -> None:
        k, seed = len(self.columns), self.context.seed
        column = Classifier(replace(self.context, seed=seeds.derive(seed, "column", k) if k else seed))
        column.head.grow(n_classes, seed, k)
        layers = [self.order.layer(column.trunk, i) for i in range(1, len(self.order))] + column.head.layers
        with seeds.seeded(seed, "adapters", k):
            made = [Adapter(layer, k, self.config) for layer in layers] if k else []
        self.columns.append(column)
        self.adapters.append(nn.ModuleList(made))

    def train(self, mode: bool = True) -> Pnn:
        """The newest column; those before stay in evaluation mode."""
        super().train(mode)
        for column in self.columns[:-1]:
            column.eval()
        return self

    # Training -----------------------------------------------------------------------------------------------
    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        self._add(task.n_classes)
        self.to(data.x.device)

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        return (self.config.for_task(task).phase(self.loss),)

    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        newest = named_parameters(self, f"columns.{task.index}.", f"adapters.{task.index}.")
        return {"net": self.config.for_task(task).player(newest)}

    def loss(self, batch: Batch, step: Step) -> Terms:
        return {"ce": cross_entropy(self.logits(batch.x, step.task.index), batch.y, Window(step.task.active))}

    def logits(self, x: Tensor, k: int) -> Tensor:
        """Logits [B, C_k] of column ``k``, for the classes of its task."""
        order, h = self.order, []
        for j in range(k + 1):
            h.append(order.lead(self.column(j).trunk, 0, x))
        for i in range(len(order)):
            given = list(h)
            for j in range(k + 1):
                with torch.set_grad_enabled(torch.is_grad_enabled() and j == k):
                    trunk = self.column(j).trunk
                    z = order.layer(trunk, i)(given[j])
                    if i and j:
                        z = z + self.adapter(j, i)(given[:j])
                    h[j] = order.lead(trunk, i + 1, z)
        own = self.column(k).head(h[k], (0, self.sizes[k]))
        return own + self.adapter(k, len(order))(h[:k]) if k else own

    # Answers and state --------------------------------------------------------------------------------------
    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        if task is None or task.index >= len(self.columns):
            raise ConfigError("a task must be named and learned before its column is asked: learn it first.")
        with evaluating(self):
            return spread(self.logits(x, task.index), task.active, sum(self.sizes))

    def structure(self) -> dict[str, Any]:
        return {"heads": self.sizes}

    def rebuild(self, structure: dict[str, Any]) -> None:
        self.columns, self.adapters = nn.ModuleList(), nn.ModuleList()
        for n_classes in structure["heads"]:
            self._add(n_classes)

    def facts(self) -> dict[str, str]:
        return {} if self.config.adapters == "mlp" else {"adapters": "linear"}

    @torch.no_grad()
    def report(self) -> dict[str, Any]:
        """Parameters of each column with its adapters, and the mean size of alpha a column before."""
        counts = [
            sum(p.numel() for part in (column, adapters) for p in part.parameters())
            for column, adapters in zip(self.columns, self.adapters, strict=True)
        ]
        newest = cast("list[Adapter]", list(cast(nn.ModuleList, self.adapters[-1])))
        told: dict[str, Any] = {"parameters": counts}
        if newest and self.config.adapters == "mlp":
            told["alpha"] = torch.stack([a.alpha.abs() for a in newest]).mean(0).tolist()
        return told


_SMALL = f"{small.FIT}, weight_decay=0, keep_optimiser=false, alpha_scale=0.1"

ENTRIES = {
    "pnn": Entry(
        Pnn,
        PnnConfig(),
        "progressive networks: a column per task with adapters, needs task labels (Rusu et al., 2016)",
        small={
            "mlp": f"{_SMALL}, momentum=0, adapters=mlp",
            "linear": f"{_SMALL}, optimiser=sgd, lr=0.05, momentum=0.9, adapters=linear",
        },
    )
}
