"""A memory in two minutes: learn, delete the images, learn more in a new process, ask, look.

    python benchmarks/demo.py [FOLDER]

The bundled digits are written as PNG files, a folder a class. `engram learn` learns those from 0 to 4, their folders
are deleted, another process learns those from 5 to 9, which are deleted too. Then it is asked for digits that it has
not seen, and FOLDER/memory.html shows what it knows and keeps. Every command is printed as one would type it.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

import engram
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


def say(*words: object) -> str:
    """What a command prints, both shown."""
    print(f"$ engram {shlex.join(map(str, words))}", flush=True)
    told, seconds = command(*words)
    print(f"{told}({seconds:.0f} s)\n", flush=True)
    return told


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")
    memory, images = root / "memory", root / "images"
    for old in (memory, images):
        shutil.rmtree(old, ignore_errors=True)
    data = engram.load("digits")
    for classes in (range(5), range(5, 10)):
        write(data, "train", list(classes), images, 0)
        say("learn", images, "--into", memory)
        shutil.rmtree(images)
        print(f"$ rm -r {images}\n")
    write(data, "test", list(range(10)), images, 0)
    print(f"$ engram predict {memory} {images} --json")
    answers = [json.loads(line) for line in command("predict", memory, images, "--json")[0].splitlines()]
    right = sum(Path(one["image"]).parent.name == one["class"] for one in answers)
    print(
        f"{right} of {len(answers)} digits that it has not seen are right: {100 * right / len(answers):.1f} %\n"
    )
    say("predict", memory, *sorted(images.glob("*/*.png"))[::60])
    say("verify", memory)
    say("inspect", memory, "--html", root / "memory.html")
    print(f"Page: {root / 'memory.html'}")


if __name__ == "__main__":
    main()
