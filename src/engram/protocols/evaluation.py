"""How a method is judged: test accuracy on every task seen, and the oracle's accuracy on generated samples.

Only this module reads test samples, and only its oracle is trained on real data of all classes; no method sees either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engram import seeds
from engram.core.contract import Method, Scenario, TaskInfo, evaluating
from engram.core.network import Network, n_features
from engram.errors import ConfigError
from engram.learning.learner import BATCH, Learner, task_info
from engram.streams import Samples, Stream

Selection = Literal["last", "val_real_all"]


@dataclass(frozen=True)
class Protocol:
    """How a run is judged.

    Args:
        scenario: class (no task label, all classes seen compete), task (label given, its own classes compete), or
            domain (no label, all tasks share the classes).
        generated_per_class: samples a class for the oracle's accuracy of generative methods; 0 leaves it out.
        selection: which test accuracy of a task's training is reported: ``last``, after its last epoch; or
            ``val_real_all``, at the epoch with the best accuracy on real validation samples of all tasks so far, as
            the released code of Ostapenko et al. (CVPR 2019) does. The latter reads old classes to choose, so it is
            not strict, and the result says so. Training itself does not depend on it.
        select_every: epochs between two looks of ``val_real_all``.
        record_valid: measure the validation samples of the tasks seen beside the test samples, after each task. Only
            the evaluator reads them; sweeps choose by them.
    """

    scenario: Scenario = "class"
    generated_per_class: int = 200
    selection: Selection = "last"
    select_every: int = 2
    record_valid: bool = False

    def check(self, stream: Stream) -> None:
        """Raise ``ConfigError`` unless the stream's labels and splits fit."""
        if self.record_valid and any(task.n_valid == 0 for task in stream.tasks):
            raise ConfigError(
                "a choice on validation data needs validation samples in every task, this stream has tasks without: "
                "give a larger --valid-fraction."
            )
        if self.selection == "val_real_all" and any(task.n_valid == 0 for task in stream.tasks):
            raise ConfigError(
                "selection val_real_all needs validation samples in every task, this stream has none: give "
                "--valid-fraction, for example 0.15."
            )
        shared = stream.label_space == "shared"
        if shared != (self.scenario == "domain") and stream.n_tasks > 1:
            kind = "shared by its tasks" if shared else "of their own in each task"
            want = "domain" if shared else "class or task"
            raise ConfigError(
                f"scenario must be {want} for a stream whose classes are {kind}, got {self.scenario!r}: "
                f"give --scenario {want.split()[0]}."
            )

    def task(self, stream: Stream, index: int) -> TaskInfo:
        """The numbers of a task, as methods see them."""
        classes = stream.tasks[index].classes
        return task_info(index, min(classes), max(classes) + 1, self.scenario)


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
