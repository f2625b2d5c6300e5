"""How a method is judged: test accuracy on every task seen, and the oracle's accuracy on generated samples.

Only this module reads test samples, and only its oracle is trained on real data of all classes; no method sees either.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engram import seeds
from engram.core.contract import Method, TaskInfo, evaluating
from engram.core.network import Network, n_features
from engram.core.samples import Samples
from engram.learning.learner import BATCH, Learner
from engram.protocols.protocol import Protocol
from engram.streams.stream import Stream


def evaluate(
    learner: Learner,
    stream: Stream,
    protocol: Protocol,
    learned: int,
    split: Literal["test", "valid"] = "test",
) -> tuple[list[float], Tensor]:
    """Accuracy on the test (or validation) samples of tasks 0 .. ``learned``.

    Returns:
        Accuracy of each of these tasks in [0, 1], from exact counts, and the confusion counts [C, C] over them, rows
        true classes.
    """
    n = stream.n_classes
    confusion = torch.zeros((n, n), dtype=torch.int64)
    row = []
    for j in range(learned + 1):
        samples = stream.test(j) if split == "test" else stream.valid(j)
        predicted = learner.predict(samples.x, task=j if protocol.scenario == "task" else None).argmax(1)
        row.append(float((predicted == samples.y).double().mean()))
        pairs = (samples.y * n + predicted).cpu()
        confusion += torch.bincount(pairs, minlength=n * n).view(n, n)
    return row, confusion


class Oracle(nn.Module):
    """A classifier trained on real data of all classes, applied to generated samples only.

    Args:
        network: gives the trunk; the same family as the method's.
        stream: all of its training samples are read here, outside any method's sight.
        steps: of Adam with learning rate 1e-3 and batches of 64, cosine to 0.
        seed: its own, so that every method and seed of a comparison meets the same oracle.
    """

    def __init__(self, network: Network, stream: Stream, *, steps: int = 1000, seed: int = 2019) -> None:
        super().__init__()
        self.network = network
        with seeds.seeded(seed, "oracle"):
            self.trunk = network.trunk(stream.image_shape)
            self.head = nn.Linear(n_features(self.trunk), stream.n_classes)
        self.to(stream.device)
        n_tasks = stream.n_tasks if stream.label_space == "disjoint" else 1
        parts = [stream.train(i) for i in range(n_tasks)]
        data = Samples(torch.cat([p.x for p in parts]), torch.cat([p.y for p in parts]))
        self._fit(data, steps, seed)
        self.eval()

    def _fit(self, data: Samples, steps: int, seed: int) -> None:
        optimiser = torch.optim.Adam(self.parameters(), lr=1e-3, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        g = seeds.generator(seed, "oracle-order")
        for _ in range(steps):
            rows = torch.randint(0, len(data), (64,), generator=g).to(data.x.device)
            loss = F.cross_entropy(self(self.network.normalise(data.x[rows])), data.y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))

    @torch.no_grad()
    def accuracy(self, method: Method, task: TaskInfo, per_class: int, seed: int) -> float:
        """Share of samples generated for classes 0 .. n_seen - 1 that the oracle labels with their class."""
        device = self.head.weight.device
        g = seeds.generator(seed, "oracle-samples", task.index, device=device)
        y = torch.arange(task.n_seen, device=device).repeat_interleave(per_class)
        with evaluating(method):
            x = method.generate(y, generator=g)
        predicted = torch.cat([self(part).argmax(1) for part in x.split(BATCH)])
        return float((predicted == y).double().mean())


def sample_grid(method: Method, n_classes: int, per_class: int, seed: int) -> dict[str, Any]:
    """Generated images uint8 [n_classes, per_class, C, H, W] and their labels [n_classes], as tensors by name."""
    device = next(method.parameters()).device
    g = seeds.generator(seed, "grid", device=device)
    y = torch.arange(n_classes, device=device).repeat_interleave(per_class)
    with evaluating(method):
        x = method.context.network.to_pixels(method.generate(y, generator=g))
    return {
        "images": x.view(n_classes, per_class, *x.shape[1:]).cpu(),
        "labels": torch.arange(n_classes),
    }
