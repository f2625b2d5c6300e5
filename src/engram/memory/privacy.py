"""What a memory still holds of the images that it learned from: an audit, and two measurements.

The audit compares every row of every stored tensor with every image of a `learn`, by salted hashes that live as long as
that `learn`. A row matches where it is an image, or a channel of one, or the features of one, also when it was rescaled
or turned to its negative. It finds images that were kept; it says nothing of what can be computed from statistics.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from engram import seeds
from engram.core.contract import Method, evaluating
from engram.core.files import digest

SMALLEST = 16  # numbers in a row: fewer are no image, and may be equal once they are rescaled
AT_A_TIME = 1 << 20  # numbers that are rescaled together
PER_CLASS = 50  # generated samples that are looked at
MOST = 2000  # training images whose answers are compared with those of images held out
FEWEST = 20  # images held out, below which nothing is measured


# The audit ---------------------------------------------------------------------------------------------------------
class Audit:
    """Hashes of the images of one `learn`, under a salt that nobody is told."""

    def __init__(self) -> None:
        self._salt = os.urandom(16)
        self._hashes: set[bytes] = set()
        self._rows: set[tuple[int, int]] = set()  # (length, channels between its numbers) of what may match
        self.n_images = 0

    def add(self, samples: Tensor) -> None:
        """Samples [N, ...]: images uint8 [N, C, H, W] channel by channel, or vectors [N, D]."""
        self.n_images = len(samples)
        channels = samples.shape[1] if samples.ndim == 4 else 1
        rows = samples.reshape(len(samples) * channels, -1)
        if rows.shape[1] >= SMALLEST:
            self._rows |= {(rows.shape[1], 1), (rows.shape[1], channels)}
            for codes in _codes(rows):
                self._hashes.update(self._hashed(codes))

    def outcome(self, files: Mapping[str, bytes]) -> dict[str, Any]:
        """As JSON: how many rows of how many tensors were compared, how many are samples, where; and of which files."""
        n_tensors, n_rows, found = 0, 0, dict[str, int]()
        of = {name: content for name, content in files.items() if name.endswith(".safetensors")}
        for file, content in of.items():
            for name, tensor in load(content).items():
                n_tensors += 1
                for length, channels in self._rows:
                    if not tensor.numel() or tensor.numel() % (length * channels):
                        continue
                    rows = tensor.reshape(-1, length, channels).transpose(1, 2).reshape(-1, length)
                    n_rows += len(rows)
                    n = sum(self._matches(rows))
                    if n:
                        found[f"{file}: {name}"] = n
        return {
            "images": self.n_images,
            "tensors": n_tensors,
            "rows": n_rows,
            "found": sum(found.values()),
            "where": sorted(found),
            "files": {name: digest(content) for name, content in of.items()},
        }

    def _matches(self, rows: Tensor) -> Iterator[int]:
        for sign in (1, -1):
            for codes in _codes(rows, sign):
                yield sum(one in self._hashes for one in self._hashed(codes))

    def _hashed(self, codes: Tensor) -> Iterator[bytes]:
        for row in codes.numpy():
            yield hashlib.blake2b(row.data, key=self._salt, digest_size=16).digest()


def _codes(rows: Tensor, sign: int = 1) -> Iterator[Tensor]:
    """Rows [n, D] that are not constant, brought to 0..255 by their own smallest and largest numbers, uint8, in parts.

    Of an image of 8 bits these are fractions of at most 255, none of which lies within 1/1020 of where codes change;
    so single precision, and any scale and offset, give the same codes.
    """
    for part in rows.split(max(1, AT_A_TIME // rows.shape[1])):
        x = part.double() * sign
        low = x.amin(1, keepdim=True)
        span = x.amax(1, keepdim=True) - low
        good = ((span > 0) & span.isfinite())[:, 0]
        yield (255 * (x - low)[good] / span[good] + (0.5 - 1 / 1020)).floor().to(torch.uint8)


# Measurements ------------------------------------------------------------------------------------------------------
def membership(of_training: Tensor, of_held_out: Tensor) -> dict[str, Any] | None:
    """How well training images can be told from held-out ones by the probability of their class, as JSON.

    Yeom et al., Privacy Risk in Machine Learning, CSF 2018. None below `FEWEST` held out.
    """
    if min(len(of_training), len(of_held_out)) < FEWEST:
        return None
    area, low, high = area_under_curve(of_training, of_held_out)
    counts = {"training": len(of_training), "held_out": len(of_held_out)}
    return {"auc": area, "low": low, "high": high, **counts}


def area_under_curve(higher: Tensor, lower: Tensor) -> tuple[float, float, float]:
    """The share of pairs in which the one of ``higher`` [n] is above that of ``lower`` [m], ties half; with 95 %.

    The interval is that of J. A. Hanley and B. J. McNeil, Radiology 143, 1982, Eq. 1 to 3.
    """
    a, b = higher.double(), lower.double().sort().values
    below = torch.searchsorted(b, a) + torch.searchsorted(b, a, right=True)
    n, m = len(a), len(b)
    area = float(below.double().mean()) / (2 * m)
    q1, q2 = area / (2 - area), 2 * area * area / (1 + area)
    variance = (area * (1 - area) + (n - 1) * (q1 - area**2) + (m - 1) * (q2 - area**2)) / (n * m)
    half = 1.96 * math.sqrt(max(variance, 0.0))
    return area, max(0.0, area - half), min(1.0, area + half)


def memorisation(
    method: Method, label: int, training: Tensor, held_out: Tensor, seed: int
) -> dict[str, float]:
    """Whether generated samples of a class lie nearer to its training images than held-out images do, as JSON.

    Args:
        method: it generates.
        label: of the class.
        training, held_out: its samples as the method is given them, at least one each.
        seed: of what is generated.

    Returns:
        ``generated`` and ``held_out``: median distance to the nearest training sample, root mean square a number (of
        images, in levels of 256); ``nearer``: share of generated samples that lie nearer than 95 % of those held out.
    """
    g = seeds.generator(seed, "memorisation", label)
    y = torch.full((PER_CLASS,), label)
    with evaluating(method):
        generated = method.context.network.to_stored(method.generate(y, generator=g))
    made, real = nearest(generated, training), nearest(held_out, training)
    nearer = (made < real.quantile(0.05)).double().mean()
    return {"generated": float(made.median()), "held_out": float(real.median()), "nearer": float(nearer)}


def nearest(samples: Tensor, training: Tensor) -> Tensor:
    """Distance [n] of each sample to the nearest training sample, root mean square a number."""
    a, b = samples.flatten(1).float(), training.flatten(1).float()
    parts = [torch.cdist(part, b).amin(1) for part in a.split(PER_CLASS)]
    return torch.cat(parts) / math.sqrt(a.shape[1])
