"""How a method is judged: test accuracy on every task seen, and what its generated samples are worth.

Only this module reads test samples, and only its oracle is trained on real data of all classes; no method sees either.
"""

from __future__ import annotations

import fcntl
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.nn import functional as F

from engram import seeds
from engram.core.contract import Method, Optimiser, TaskInfo, evaluating
from engram.core.files import checksum, digest, write_atomically
from engram.core.network import Network, n_features
from engram.core.origin import is_unknown
from engram.core.samples import Samples
from engram.learning.learner import BATCH, Learner
from engram.learning.optimisers import Stepper
from engram.protocols.protocol import Protocol
from engram.streams.stream import Stream

#: Generated images of each class that a generator is judged by after the last task.
PER_CLASS = 500
#: Classes of a stream from which on it is measured whether the class is among the five best answers.
MANY = 20
#: Test images of a task among which mistakes are looked for.
LOOKED_AT = 200
#: Steps for which a classifier that judges is trained.
STEPS = 1000


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


def top5(learner: Learner, stream: Stream, learned: int) -> float:
    """Share of test samples whose class is among the five best answers, mean over tasks 0 .. ``learned``; one head."""
    rows = []
    for j in range(learned + 1):
        samples = stream.test(j)
        best = learner.predict(samples.x).topk(5).indices
        rows.append(float((best == samples.y[:, None]).any(1).double().mean()))
    return sum(rows) / len(rows)


@torch.no_grad()
def mistakes(learner: Learner, stream: Stream, protocol: Protocol) -> dict[str, Tensor] | None:
    """Test images that the learner takes for another class: of each class, the first two among `LOOKED_AT` a task.

    Returns:
        ``images`` uint8 [N, C, H, W], ``labels`` and ``predicted`` int64 [N] by name; None where nothing is wrong.
    """
    images = stream.images
    found = []
    for j in range(stream.n_tasks):
        samples = stream.test(j)
        x, y = samples.x[:LOOKED_AT], samples.y[:LOOKED_AT]
        predicted = learner.predict(x, task=j if protocol.scenario == "task" else None).argmax(1)
        wrong = (predicted != y).nonzero()[:, 0]
        rows = torch.cat([wrong[y[wrong] == label][:2] for label in y.unique()])
        found.append((images.test(j).x[rows].cpu(), y[rows].cpu(), predicted[rows].cpu()))
    tensors = [torch.cat(parts) for parts in zip(*found, strict=True)]
    return dict(zip(("images", "labels", "predicted"), tensors, strict=True)) if len(tensors[1]) else None


def real_samples(stream: Stream) -> Samples:
    """The training samples of all classes, read outside any method's sight."""
    n_tasks = stream.n_tasks if stream.label_space == "disjoint" else 1
    parts = [stream.train(i) for i in range(n_tasks)]
    return Samples(torch.cat([p.x for p in parts]), torch.cat([p.y for p in parts]))


class Oracle(nn.Module):
    """A classifier for judging: trained on real data of all classes, or on generated ones, and applied to the others.

    It takes `STEPS` steps of Adam with batches of 64 and learning rate 1e-3, cosine to 0.

    Args:
        network: gives the trunk; the same family as the method's.
        data: what it is trained on, images as in a stream or in the network's range.
        n_classes: of the stream.
        seed: its own, so that every method and seed of a comparison meets the same oracle.
        trained: its state dict, if it was trained before.
    """

    def __init__(
        self,
        network: Network,
        data: Samples,
        n_classes: int,
        *,
        seed: int = 2019,
        trained: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        with seeds.seeded(seed, "oracle"):
            self.trunk = network.trunk(tuple(data.x.shape[1:]))
            self.head = nn.Linear(n_features(self.trunk), n_classes)
        self.to(data.x.device)
        if trained is None:
            self._fit(data, seed)
        else:
            self.load_state_dict(trained)
        self.eval()

    def _fit(self, data: Samples, seed: int) -> None:
        parameters = dict(self.named_parameters())
        optimiser = Stepper(parameters, Optimiser("adam", 1e-3))
        g = seeds.generator(seed, "oracle-order")
        for i in range(STEPS):
            rows = torch.randint(0, len(data), (64,), generator=g).to(data.x.device)
            loss = F.cross_entropy(self(self.network.normalise(data.x[rows])), data.y[rows])
            grads = torch.autograd.grad(loss, list(parameters.values()))
            optimiser.step(dict(zip(parameters, grads, strict=True)))
            # The cosine from one step to the next, as torch's scheduler computes it.
            now, later = (1 + math.cos(math.pi * k / STEPS) for k in (i, i + 1))
            optimiser.lr *= later / now

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

    @torch.no_grad()
    def spread(self, x: Tensor) -> float:
        """Mean squared distance of the features of images [N, ...], at least one, from their mean."""
        return float(self.features(x).var(0, unbiased=False).sum())

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Features float64 [N, F] of images as in a stream or in the network's range."""
        parts = [self.trunk(self.network.normalise(part)) for part in x.split(BATCH)]
        return torch.cat(parts).double()


def oracle_of(stream: Stream, network: Network, folder: Path | None = None) -> Oracle:
    """The oracle of a stream.

    Args:
        stream: with its real samples.
        network: of the methods that it judges.
        folder: keeps it, so that it is trained by the first run that asks and read by others, which wait meanwhile;
            None, or a network whose code is not known, keeps nothing.
    """
    source = network.source()
    of = {
        "stream": stream.describe(),
        "network": network.describe(),
        "source": source,
        "torch": torch.__version__,
    }
    real = real_samples(stream)
    if folder is None or is_unknown(source):
        return Oracle(network, real, stream.n_classes)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"judge-{checksum(of)[:16]}.safetensors"
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        content = path.read_bytes() if path.is_file() else b""
        if content[:64] == digest(content[64:]).encode():
            return Oracle(network, real, stream.n_classes, trained=load_tensors(content[64:]))
        oracle = Oracle(network, real, stream.n_classes)
        content = save_tensors({k: v.cpu() for k, v in oracle.state_dict().items()})
        write_atomically(path, digest(content).encode() + content)
        return oracle
    finally:
        os.close(handle)


def frechet(a: Tensor, b: Tensor) -> float:
    """Distance of two normal distributions with the moments of features [N, F] and [M, F] (Heusel et al., NIPS 2017).

    |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a^1/2 S_b S_a^1/2)^1/2), covariances S divided by N and M.
    """
    means, covariances = zip(*((x.mean(0), x.T.cov(correction=0)) for x in (a, b)), strict=True)
    values, vectors = torch.linalg.eigh(covariances[0])
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp(min=0).sqrt().sum()
    traces = covariances[0].trace() + covariances[1].trace()
    return float((means[0] - means[1]).square().sum() + traces - 2 * shared)


def judge_generator(method: Method, stream: Stream, oracle: Oracle, seed: int) -> dict[str, Any]:
    """What `PER_CLASS` generated images of each class are worth.

    Returns:
        ``acc_rev``, the accuracy in [0, 1] on real test images, a mean over tasks, of a classifier that was trained on
        the generated images alone; and ``diversity``, for each class the spread of the oracle's features of generated
        images divided by that of as many real training images: 1 is as diverse, 0 is one image again and again;
        ``frechet``, the distance of generated from real training images, as many of each class, in the oracle's
        features, and ``frechet_real``, that of real test images from the same: what is to be had at best.
    """
    y = torch.arange(stream.n_classes, device=stream.device).repeat_interleave(PER_CLASS)
    with evaluating(method):
        x = method.generate(y, generator=seeds.generator(seed, "judged", device=stream.device))
    student = Oracle(oracle.network, Samples(x, y), stream.n_classes)
    rows = []
    for j in range(stream.n_tasks):
        test = stream.test(j)
        with torch.no_grad():
            parts = [student(oracle.network.normalise(part)).argmax(1) for part in test.x.split(BATCH)]
        rows.append(float((torch.cat(parts) == test.y).double().mean()))
    real = real_samples(stream)
    own = [real.x[real.y == label][:PER_CLASS] for label in range(stream.n_classes)]
    diversity = [oracle.spread(x[y == c]) / max(oracle.spread(some), 1e-12) for c, some in enumerate(own)]
    of_real = oracle.features(torch.cat(own))
    of_test = torch.cat([oracle.features(stream.test(j).x) for j in range(stream.n_tasks)])
    return {
        "acc_rev": sum(rows) / len(rows),
        "diversity": diversity,
        "frechet": frechet(oracle.features(x), of_real),
        "frechet_real": frechet(of_test, of_real),
    }


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
