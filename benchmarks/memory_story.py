"""A memory as a user has it: classes arrive in folders, each learned by a process of its own and deleted then.

    python benchmarks/memory_story.py [--data mnist] [--groups 3 2 3 2] [--most 0] [-- --method ncm ...]

The training images of a data set are written as PNG, a folder a class, and learned group by group with `engram learn`
(words after -- are its options); each folder is deleted before the next call. Then the memory is verified, asked with
`engram predict` for all test images, and compared bit for bit with the one `engram run` that `engram inspect` prints.
Prints seconds, sizes and accuracies; exit code 1 where the weights differ.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

import engram
from engram.learning.learner import Learner
from engram.streams.images import ImageData


def write(data: ImageData, split: str, labels: list[int], root: Path, most: int) -> None:
    """Images of some classes as PNG files, in folders of a class each."""
    x, y = (data.train_x, data.train_y) if split == "train" else (data.test_x, data.test_y)
    for label in labels:
        folder = root / data.class_names[label]
        folder.mkdir(parents=True)
        rows = (y == label).nonzero().flatten().tolist()
        for row in rows[: most or None]:
            pixels = x[row].permute(1, 2, 0).numpy()
            Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(
                folder / f"{row:06d}.png"
            )


def command(*words: object) -> tuple[str, float]:
    """What `engram` prints, in a process of its own, and the seconds it took."""
    began = time.perf_counter()
    argv = [sys.executable, "-m", "engram", *map(str, words)]
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout, time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--groups", type=int, nargs="+", default=[3, 2, 3, 2])
    parser.add_argument("--most", type=int, default=0, help="images of a class, 0 for all")
    parser.add_argument("words", nargs="*", help="options of engram learn, after --")
    asked = parser.parse_args()
    data = engram.load(asked.data)
    with tempfile.TemporaryDirectory() as place:
        root, first, seconds = Path(place), 0, 0.0
        memory = root / "memory"
        for number, n in enumerate(asked.groups):
            arrived = root / "arrived"
            write(data, "train", list(range(first, first + n)), arrived, asked.most)
            told, took = command("learn", arrived, "--into", memory, *(asked.words if number == 0 else ()))
            shutil.rmtree(arrived)
            print(f"call {number + 1}, {n} classes: {took:.1f} s\n{told}", flush=True)
            first, seconds = first + n, seconds + took
        known = list(range(first))
        print(f"{len(asked.groups)} calls: {seconds:.1f} s; verify: {command('verify', memory)[1]:.1f} s")
        write(data, "test", known, root / "all" / "test", 0)
        answers, took = command("predict", memory, root / "all" / "test", "--json")
        told = [json.loads(line) for line in answers.splitlines()]
        right = sum(Path(one["image"]).parent.name == one["class"] for one in told)
        print(
            f"predict: {right} of {len(told)} test images right, {100 * right / len(told):.2f} %, {took:.1f} s"
        )
        write(data, "train", known, root / "all" / "train", asked.most)
        line = command("inspect", memory)[0].split("bit for bit:\n")[1].splitlines()[0]
        words = shlex.split(line.replace("DATA", str(root / "all"), 1))[1:]
        table, took = command(*words, "--out", root / "run", "--quiet")
        print(f"{line}\n{took:.1f} s\n{table}")
        (run,) = (p.parent for p in (root / "run").rglob("checkpoints"))
        one, many = (
            Learner.load(run).method.state_dict(),
            engram.Memory.open(memory).model.learner.method.state_dict(),
        )
        equal = one.keys() == many.keys() and all(torch.equal(v, many[k]) for k, v in one.items())
        print(f"weights of the memory and of the run: {'equal, bit for bit' if equal else 'DIFFERENT'}")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
