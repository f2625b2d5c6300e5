"""Tiny synthetic streams: every class is a pattern plus noise, so a sound classifier reaches 100 %."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engram import seeds
from engram.streams import ImageData, Stream, class_incremental, from_arrays, permuted

#: Labels of the bundled data set: not contiguous, not sorted by first occurrence, one negative.
LABELS = (40, 3, 17, -5, 1000, 21, 8)


def tiny_data(
    labels: Sequence[int] = LABELS[:3],
    *,
    n_train: int = 12,
    n_test: int = 8,
    shape: tuple[int, int, int] = (1, 8, 8),
    noise: int = 20,
    seed: int = 0,
) -> ImageData:
    """A data set of separable classes.

    Args:
        labels: of the classes, any integers, in any order.
        n_train, n_test: samples a class.
        shape: (C, H, W) of the images.
        noise: half width of the uniform noise on each pixel, in steps of 1/255.
        seed: of patterns and noise.
    """

    def images(label: int, n: int, split: str) -> Tensor:
        pattern = torch.randint(30, 226, shape, generator=seeds.generator(seed, "tiny pattern", label))
        g = seeds.generator(seed, "tiny noise", label, split)
        return (
            (pattern + torch.randint(-noise, noise + 1, (n, *shape), generator=g))
            .clamp(0, 255)
            .to(torch.uint8)
        )

    def split(n: int, name: str) -> tuple[Tensor, Tensor]:
        y = torch.tensor(labels).repeat_interleave(n)
        order = torch.randperm(len(y), generator=seeds.generator(seed, "tiny order", name))
        return torch.cat([images(k, n, name) for k in labels])[order], y[order]

    return from_arrays(*split(n_train, "train"), *split(n_test, "test"), name="tiny", layout="NCHW")


def tiny_stream(groups: Sequence[int] = (1, 1, 1), *, seed: int = 0, n_train: int = 12) -> Stream:
    """A class-incremental stream of 8x8 images, its classes in an order that is not that of their labels.

    Args:
        groups: number of classes of each task, at most seven in all.
        seed: of the images and of the order of classes.
        n_train: training samples a class.
    """
    data = tiny_data(LABELS[: sum(groups)], seed=seed, n_train=n_train)
    return class_incremental(data, groups=list(groups), class_order="random", seed=seed)


def tiny_domains(n_tasks: int = 2, *, seed: int = 0, n_train: int = 12) -> Stream:
    """A domain-incremental stream: two classes of ``n_train`` samples, pixels permuted anew in each task."""
    return permuted(tiny_data(LABELS[:2], seed=seed, n_train=n_train), n_tasks, seed=seed)
