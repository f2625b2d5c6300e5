"""Which labels compete in a loss, and the cross entropy of those.

They follow the scenario: all seen ones (class), the task's own (task), the shared ones (domain).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Window:
    """Labels a .. b - 1 compete.

    Args:
        active: a and b.
        task_of: int64 [b], the task of each label, where samples of several tasks meet and each competes within its
            own; or None.
        first_new: labels below are of stored samples, whose classes count as the new ones do; None where all samples
            count the same.
    """

    active: tuple[int, int]
    task_of: Tensor | None = None
    first_new: int | None = None


def cross_entropy(logits: Tensor, y: Tensor, labels: Window) -> Tensor:
    """Mean cross entropy [] of logits [B, b - a] and labels [B] within a window."""
    if labels.task_of is not None:
        logits = logits.masked_fill(labels.task_of[None, :] != labels.task_of[y][:, None], -torch.inf)
    if labels.first_new is None:
        return F.cross_entropy(logits, y - labels.active[0])
    # Old classes: their share of all classes times the mean over their samples; new ones likewise.
    each = F.cross_entropy(logits, y - labels.active[0], reduction="none")
    old, share = y < labels.first_new, labels.first_new / labels.active[1]
    n_old = old.sum()
    weight = torch.where(old, share / n_old.clamp(min=1), (1.0 - share) / (len(y) - n_old).clamp(min=1))
    return (weight * each).sum()
