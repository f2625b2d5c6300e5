"""A trunk and a growing head: what every discriminative method trains."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engram import seeds
from engram.core.contract import Context, TaskInfo, evaluating
from engram.core.network import Norm, n_features
from engram.networks.heads import Head
from engram.parts.statistics import norms_of


class Classifier(nn.Module):
    """``trunk`` and ``head``; real heads per task where the scenario gives the task label, else a single one.

    ``hold_norms`` keeps batch norms in evaluation mode once ``task``, the one being learned, is not the first.
    """

    def __init__(self, context: Context, *, norm: Norm = "batch", name: str = "classifier") -> None:
        super().__init__()
        self.hold_norms, self.task = False, 0
        with seeds.seeded(context.seed, name):
            self.trunk = context.network.trunk(context.image_shape, norm=norm)
        self.head = Head(n_features(self.trunk), "multi" if context.scenario == "task" else "single")

    def forward(self, x: Tensor, active: tuple[int, int]) -> Tensor:
        """Logits [B, b - a] of the ``active`` labels a .. b - 1 for ``x`` [B, C, H, W]."""
        return self.head(self.trunk(x), active)

    def train(self, mode: bool = True) -> Classifier:
        """All of it, but norms that are held."""
        super().train(mode)
        if mode and self.hold_norms and self.task > 0:
            for norm in norms_of(self.trunk):
                norm.eval()
        return self

    def predict(self, x: Tensor, task: TaskInfo | None) -> Tensor:
        """Logits [B, n] of all labels seen; minus infinity outside the task's own where its label is given."""
        n = self.head.n_outputs
        with evaluating(self):
            if task is None or task.active == (0, n):
                return self(x, (0, n))
            return spread(self(x, task.active), task.active, n)


def spread(own: Tensor, active: tuple[int, int], n: int) -> Tensor:
    """Logits [B, n] from those of the labels ``active`` [B, b - a]; minus infinity elsewhere."""
    if active == (0, n):
        return own
    logits = own.new_full((len(own), n), -torch.inf)
    logits[:, active[0] : active[1]] = own
    return logits
