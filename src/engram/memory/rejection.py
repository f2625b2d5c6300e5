"""None of the known classes: an answer is rejected where few images held out of its class looked as doubtful.

The score of an answer c is its probability among the classes that were known when c was learned, at the temperature of
now. Its rank is the share of images held out then, and answered c, that had no higher score at the temperature of then
(a conformal p-value: Vovk et al., Algorithmic Learning in a Random World, 2005, Sec. 2.2, with the score of Hendrycks
and Gimpel, ICLR 2017). A share s of images of known classes has a rank of at most s. Classes that come later take
nothing of this score, so the rank drifts only as far as a method's own scores do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engram.memory.calibration import temperature_of


@dataclass(frozen=True)
class Reference:
    """What answers of one class are compared with.

    Args:
        n_classes: known when it was learned.
        scores: float64 [n], ascending, of the images held out then; of its own where they are enough, else of all
            classes that came with it.
        own: whether they are its own.
    """

    n_classes: int
    scores: Tensor
    own: bool


def fewest(share: float) -> int:
    """Images held out of a class, below which none of them is as rare as ``share``: 19 for 5 %."""
    return math.ceil(1 / share - 1e-9) - 1


def references(
    classes: Sequence[str], calls: Sequence[Mapping[str, Any]], scores: Mapping[str, Tensor], share: float
) -> list[Reference]:
    """Of each of ``classes``, from what each `learn` held out; the last one counts that learned it."""
    found = dict.fromkeys(classes, Reference(len(classes), torch.zeros(0, dtype=torch.float64), False))
    for number, call in enumerate(calls):
        logits, labels = scores[f"logits/{number:04d}"], scores[f"labels/{number:04d}"]
        probabilities = torch.softmax(logits.double() / temperature_of(logits, labels), 1)
        best, answers = probabilities.max(1)
        for name in call["classes"]:
            own = best[answers == classes.index(name)]
            enough = len(own) >= fewest(share)
            found[name] = Reference(logits.shape[1], (own if enough else best).sort().values, enough)
    return [found[name] for name in classes]


def ranks(logits: Tensor, temperature: float, known: Sequence[Reference]) -> Tensor:
    """Ranks float64 [N] in (0, 1] of the answers of ``logits`` [N, K], against a reference a class."""
    found = torch.ones(len(logits), dtype=torch.float64)
    answers = logits.argmax(1)
    for column, reference in enumerate(known):
        rows = (answers == column).nonzero()[:, 0]
        z = logits[rows, : reference.n_classes].double() / temperature
        score = torch.softmax(z, 1)[:, column].contiguous()
        no_higher = torch.searchsorted(reference.scores, score, right=True)
        found[rows] = (no_higher + 1).double() / (len(reference.scores) + 1)
    return found
