"""Where training stands, and what must be kept to go on from there."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

OptimiserState = dict[str, dict[str, Tensor]]


@dataclass
class Cursor:
    """Where training stands: ``epochs`` of phase ``phase`` of task ``task`` are done; 0, 0 of a task is its start."""

    task: int = 0
    phase: int = 0
    epochs: int = 0


@dataclass
class LoopState:
    """What a resume needs beside the method: the cursor and each player's optimiser state by parameter name."""

    cursor: Cursor = field(default_factory=Cursor)
    optimisers: dict[str, OptimiserState] = field(default_factory=dict)
