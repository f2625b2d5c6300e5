"""A trunk and a growing head: what every discriminative method trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from engram import seeds
from engram.core.contract import Context, TaskInfo, evaluating, n_bytes
from engram.core.network import Norm, n_features
from engram.errors import ConfigError
from engram.networks.heads import Head
from engram.parts.statistics import norms_of
from engram.parts.window import Window


class Classifier(nn.Module):
    """``trunk`` and ``head``; real heads per task where the scenario gives the task label, else a single one.

    Args:
        context: names the network and the seed.
        norm: of the trunk.
        name: of the generator that initial weights are drawn from.
        shared_head: a single head although the task label is given.
        hold_norms: batch norms use, and keep, the running statistics of the first task from the second on.
    """

    def __init__(
        self,
        context: Context,
        *,
        norm: Norm = "batch",
        name: str = "classifier",
        shared_head: bool = False,
        hold_norms: bool = False,
    ) -> None:
        super().__init__()
        self.hold_norms, self.seed = hold_norms, context.seed
        #: First label after each task begun, where :meth:`grow` was told of it.
        self.stops: list[int] = []
        with seeds.seeded(context.seed, name):
            self.trunk = context.network.trunk(context.image_shape, norm=norm)
        single = shared_head or context.scenario != "task"
        self.head = Head(n_features(self.trunk), "single" if single else "multi")

    def grow(self, task: TaskInfo, *, zero: bool = False) -> None:
        """Rows for every label seen when ``task`` begins; new ones start at 0 where ``zero``."""
        before, first = self.head.n_outputs, 0
        self.head.grow(task.n_seen, self.seed, task.index)
        self.stops.append(task.n_seen)
        with torch.no_grad():
            for part in self.head.layers if zero else ():
                for p in part.parameters():
                    p[max(before - first, 0) :] = 0.0
                first += part.out_features

    def forward(self, x: Tensor, active: tuple[int, int]) -> Tensor:
        """Logits [B, b - a] of the ``active`` labels a .. b - 1 for ``x`` [B, C, H, W]."""
        return self.head(self.trunk(x), active)

    def train(self, mode: bool = True) -> Classifier:
        """All of it, but norms that are held."""
        super().train(mode)
        if mode and self.hold_norms and len(self.stops) > 1:
            for norm in norms_of(self.trunk):
                norm.eval()
        return self

    def predict(self, x: Tensor, task: TaskInfo | None) -> Tensor:
        """Logits [B, n] of all labels seen; minus infinity outside the task's own where its label is given.

        ``ConfigError`` for a task that was never begun.
        """
        with evaluating(self):
            return self.answer(self.trunk(x), task)

    def answer(self, features: Tensor, task: TaskInfo | None) -> Tensor:
        """As :meth:`predict`, from features [B, F]."""
        n = self.head.n_outputs
        if task is not None and task.active[1] > n:
            raise ConfigError(
                f"a task must be learned before its head is asked, task {task.index + 1} was not: learn it first."
            )
        active = (0, n) if task is None else task.active
        return spread(self.head(features, active), active, n)

    def mixed(self, task: TaskInfo, first_new: int | None = None) -> Window:
        """The labels that compete where samples of several tasks meet: within their own task where heads are real ones.

        ``first_new`` as in :class:`Window`.
        """
        if self.head.kind == "single":
            return Window(task.active, first_new=first_new)
        sizes = torch.tensor(self.head.sizes, device=self.head.layers[0].weight.device)
        task_of = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)
        return Window((0, task.n_seen), task_of, first_new)

    def taking_part(self, task: TaskInfo) -> tuple[str, ...]:
        """Prefixes of the parameters that the task's logits depend on: the trunk and the heads of active labels."""
        first, used = 0, ["trunk."]
        for i, n in enumerate(self.head.sizes):
            if first < task.active[1] and first + n > task.active[0]:
                used.append(f"head.parts.{i}.")
            first += n
        return tuple(used)

    @property
    def newest(self) -> str:
        """Prefix of the part of the head that holds the newest rows."""
        return f"head.parts.{len(self.head.parts) - 1}."

    def cut_old_rows(self, grads: Mapping[str, Tensor], task: TaskInfo) -> None:
        """Set gradients of the newest part's rows of earlier tasks to 0, in place, where tasks share one head."""
        for grad in grads.values() if self.head.kind == "single" else ():
            grad[: task.start].zero_()

    def structure(self) -> dict[str, Any]:
        """Sizes of the head, and where tasks end."""
        return {"head": self.head.sizes, "stops": self.stops}

    def rebuild(self, structure: dict[str, Any]) -> None:
        """The shapes of ``structure``, for a state dict to fill."""
        self.head.rebuild(structure["head"])
        self.stops = list(structure["stops"])

    def storage_bytes(self) -> dict[str, int]:
        """Bytes of trunk and head."""
        parts = {"weights": self.trunk, "norms_and_heads": self.head}
        return {kind: n_bytes(part.state_dict().values()) for kind, part in parts.items()}


def spread(own: Tensor, active: tuple[int, int], n: int) -> Tensor:
    """Logits [B, n] from those of the labels ``active`` [B, b - a]; minus infinity elsewhere."""
    if active == (0, n):
        return own
    logits = own.new_full((len(own), n), -torch.inf)
    logits[:, active[0] : active[1]] = own
    return logits
