"""Output layers that grow with the classes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from engram import seeds


class Head(nn.Module):
    """Logits over the classes seen so far.

    Args:
        n_features: width of the input.
        kind: ``"single"`` is one linear layer whose rows are appended, old rows kept; ``"multi"`` is one linear layer
            a task, so that no optimiser ever touches another task's rows.

    ``forward(features [B, F], active=(a, b))`` gives the logits [B, b - a] of the labels a .. b - 1.
    """

    def __init__(self, n_features: int, kind: Literal["single", "multi"]) -> None:
        super().__init__()
        self.n_features = n_features
        self.kind = kind
        self.parts = nn.ModuleList()

    @property
    def layers(self) -> list[nn.Linear]:
        """The parts, in order of the labels."""
        return [part for part in self.parts if isinstance(part, nn.Linear)]

    @property
    def sizes(self) -> list[int]:
        """Outputs of each part, in order of the labels."""
        return [layer.out_features for layer in self.layers]

    @property
    def n_outputs(self) -> int:
        """Number of labels that have a row."""
        return sum(self.sizes)

    def grow(self, n_outputs: int, seed: int, task: int) -> None:
        """Have rows for labels 0 .. ``n_outputs`` - 1; new rows draw from the generator named by (seed, task)."""
        n_new = n_outputs - self.n_outputs
        if n_new <= 0:
            return
        with seeds.seeded(seed, "head", task):
            device = self.parts[0].weight.device if self.parts else None
            new = nn.Linear(self.n_features, n_new, device=device)
            grown = nn.Linear(self.n_features, n_outputs, device=device)
        if self.kind == "multi" or not self.parts:
            self.parts.append(new)
            return
        old = self.layers[0]
        with torch.no_grad():
            grown.weight.copy_(torch.cat([old.weight, new.weight]))
            grown.bias.copy_(torch.cat([old.bias, new.bias]))
        self.parts[0] = grown

    def structure(self) -> list[int]:
        """Sizes of the parts."""
        return self.sizes

    def rebuild(self, sizes: list[int]) -> None:
        """Empty parts of the given sizes, for a state dict to fill."""
        self.parts = nn.ModuleList(nn.Linear(self.n_features, n) for n in sizes)

    def forward(self, features: Tensor, active: tuple[int, int]) -> Tensor:
        first = 0
        outputs = []
        for part in self.layers:
            last = first + part.out_features
            if first < active[1] and last > active[0]:
                a, b = max(active[0] - first, 0), min(active[1], last) - first
                logits = part(features)
                outputs.append(logits if (a, b) == (0, part.out_features) else logits[:, a:b])
            first = last
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
