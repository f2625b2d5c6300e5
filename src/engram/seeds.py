"""Named random streams: every draw of a run comes from a generator that its seed and its purpose name.

Because a generator is a pure function of (seed, names), a resumed run needs no stored random state: data order, noise
and dropout of an epoch start again from the same place. Growth draws from generators of its own, so a head that
grows after a cut gets the same weights as in an uninterrupted run.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch

__all__ = ["derive", "generator", "seeded"]


def derive(seed: int, *names: object) -> int:
    """A 63-bit seed that depends on ``seed`` and every name, in order.

    Args:
        seed: the run's seed, any integer.
        names: what the draw is for, such as ``("noise", task, phase, epoch)``; each enters through ``repr``.
    """
    text = repr((int(seed), *names)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def generator(seed: int, *names: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on ``device``, seeded with :func:`derive`."""
    return torch.Generator(device=device).manual_seed(derive(seed, *names))


@contextlib.contextmanager
def seeded(seed: int, *names: object) -> Iterator[None]:
    """Run a block with torch's global generators seeded by name, and put their states back afterwards.

    For code that can draw only from the global generator: module constructors and dropout.
    """
    devices = (
        [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    )
    with torch.random.fork_rng(devices=devices):
        # `torch.manual_seed` also reads the call stack for each kind of accelerator that there is not.
        torch.default_generator.manual_seed(derive(seed, *names))
        if torch.cuda.is_available():
            torch.cuda.manual_seed_all(derive(seed, *names))
        yield
