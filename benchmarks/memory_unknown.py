"""Images of none of the known classes, and how calibration drifts as classes are added.

    python benchmarks/memory_unknown.py --data mnist [--calls 10] [--most 1000] [-- --method ncm --features fourier]

A memory learns the classes of a data set in equal calls (words after -- are options of `engram learn`). After each call
it is asked for the test images of the classes that it knows: accuracy, mean probability of the answers, and the share
that `--reject` rejects at 5 %, of the classes of the first call and of the last one. When half of the classes are known
it is asked for the other half as well: the share rejected of both, and the area under the ROC curve of known against
unknown images, by the rank that decides, with a 95 % interval.
"""

from __future__ import annotations

import argparse
import dataclasses
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

import engram
from engram.core.options import options_of
from engram.core.values import typed_all
from engram.memory.privacy import area_under_curve
from engram.memory.rejection import ranks, references
from engram.memory.rule import given
from engram.memory.settings import Settings

SHARE = 0.05


def settings(words: list[str]) -> dict[str, object]:
    """Settings of a memory from words as of `engram learn`."""
    given = dict(zip((w.removeprefix("--").replace("-", "_") for w in words[::2]), words[1::2], strict=True))
    plain = {k: v for k, v in given.items() if "." not in k}
    known = Settings(**{k: plain.pop(k) for k in ("method", "features", "network") if k in plain})
    found = dataclasses.asdict(known) | typed_all("memory", options_of(known), plain)
    for owner in ("method", "features", "network"):
        mine = {
            k.split(".")[1]: v
            for k, v in given.items()
            if k.split(".")[0] == getattr(known, owner) and "." in k
        }
        found[f"{owner}_options"] = mine
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--calls", type=int, default=10)
    parser.add_argument("--most", type=int, default=1000, help="images of a class, of training and of test")
    parser.add_argument("words", nargs="*", help="options of engram learn, after --")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    data = engram.load(asked.data)
    n = len(data.class_names)

    def images(x: torch.Tensor, y: torch.Tensor, classes: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.cat([(y == c).nonzero()[: asked.most, 0] for c in classes])
        return x[rows], y[rows]

    print(
        "call  classes  accuracy  mean probability  rejected, first call's classes  last call's  temperature"
    )
    with TemporaryDirectory() as place:
        memory = engram.Memory.create(Path(place) / "memory", **settings(asked.words))
        groups = [g.tolist() for g in np.array_split(np.arange(n), asked.calls)]
        for number, group in enumerate(groups):
            memory.learn({data.class_names[c]: images(data.train_x, data.train_y, [c])[0] for c in group})
            known = [c for g in groups[: number + 1] for c in g]
            x, y = images(data.test_x, data.test_y, known)
            probabilities, rejected = memory.answers(x, SHARE)
            right = (probabilities.argmax(1) == y.numpy()).mean()
            old, new = (rejected[np.isin(y.numpy(), g)].mean() for g in (groups[0], group))
            print(
                f"{number + 1:4d}  {len(known):7d}  {100 * right:8.1f}  {100 * probabilities.max(1).mean():16.1f}  "
                f"{100 * old:30.1f}  {100 * new:11.1f}  {memory.model.temperature:11.3g}",
                flush=True,
            )
            if len(known) == n // 2:
                compare(memory, x, images(data.test_x, data.test_y, list(range(n // 2, n)))[0], asked)


def compare(
    memory: engram.Memory, known: torch.Tensor, unknown: torch.Tensor, asked: argparse.Namespace
) -> None:
    """The row of a memory that knows half of the classes."""
    model = memory.model
    against = references(model.classes, model.calls, model.scores, SHARE)
    found = []
    for x in (known, unknown):
        logits = model.logits(model.prepare(given(x))[0])
        found.append(ranks(logits, model.temperature, against))
    area, low, high = area_under_curve(*found)
    shares = [100 * float((one <= SHARE).double().mean()) for one in found]
    print(
        f"| {asked.data} | {model.settings.method} | {' '.join(asked.words)} | {shares[0]:.1f} | {shares[1]:.1f} | "
        f"{area:.3f} [{low:.3f}, {high:.3f}] | {len(known)} and {len(unknown)} |"
    )


if __name__ == "__main__":
    main()
