"""Sets of labelled samples that a generative method learns from beside, or in place of, the task's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from engram.core.contract import TaskInfo
from engram.core.samples import Samples
from engram.parts.memory import SampleMemory
from engram.parts.solver import SolverOptions

Normalise = Callable[[Tensor], Tensor]


def replayed(
    labels: Iterable[int],
    per_class: int,
    generate: Callable[[Tensor], Tensor],
    memory: SampleMemory,
    normalise: Normalise,
) -> Samples:
    """``per_class`` samples of each of ``labels``, in the network's range: stored real ones first, the rest generated.

    ``generate`` maps labels [N] to images [N, C, H, W] in the network's range, ``normalise`` pixels to that range.
    """
    sets = []
    for label in labels:
        stored = normalise(memory.images[memory.labels == label][:per_class])
        y = torch.full((per_class,), label, device=memory.labels.device)
        sets.append(Samples(torch.cat([stored, generate(y[len(stored) :])]), y))
    return joined(sets)


def repeated(data: Samples, n: int, normalise: Normalise, generator: torch.Generator) -> Samples:
    """``n`` of the task's own samples in the network's range: each as often as any other, or once more."""
    device = data.x.device
    rounds = [
        torch.randperm(len(data), generator=generator, device=device) for _ in range(-(-n // len(data)))
    ]
    rows = torch.cat(rounds)[:n]
    return Samples(normalise(data.x[rows]), data.y[rows])


def joined(sets: Sequence[Samples]) -> Samples:
    """All samples of at least one set, in order."""
    return Samples(torch.cat([s.x for s in sets]), torch.cat([s.y for s in sets]))


def solver_set(
    options: SolverOptions,
    task: TaskInfo,
    data: Samples,
    generate: Callable[[Tensor], Tensor],
    memory: SampleMemory,
    normalise: Normalise,
    generator: torch.Generator,
) -> Samples:
    """What a separate solver learns from in an epoch: ``solver_samples`` of each class seen.

    Generated ones of all classes; or with ``solver_data=mixed`` the task's own of its classes, and generated ones of
    the others. Stored samples come first, as in :func:`replayed`.
    """
    mixed, n = options.solver_data == "mixed", options.solver_samples
    labels = range(task.start if mixed else task.n_seen)
    sets = [replayed(labels, n, generate, memory, normalise)] if labels else []
    if mixed:
        sets.append(repeated(data, n * task.n_classes, normalise, generator))
    return joined(sets)


def by_answer(y: Tensor, p: Tensor) -> Tensor:
    """Rows [N] of drawn images, one for each of labels ``y`` [N], by a classifier's probabilities ``p`` [M, L] of them.

    Those that it takes for the label in the order of their drawing, then the likeliest of the label.
    """
    chosen = torch.zeros_like(y)
    for label in y.unique().tolist():
        wanted, own = (y == label).nonzero().flatten(), p.argmax(1) == label
        rank = torch.where(own, 2.0 - torch.arange(len(p), device=y.device) / len(p), p[:, label])
        chosen[wanted] = rank.argsort(descending=True, stable=True)[: len(wanted)]
    return chosen
