"""What a memory can be set to, measured as a user has it: folders of images that arrive, are learned and deleted.

    python benchmarks/memory_defaults.py --data tiny_imagenet_50 [--calls 5] [--most 0] [-- --features scattering ...]

The training images of a data set, but for a tenth of each class that is set aside, are written as the files that they
are (JPEG or PNG), a folder a class, a group of classes at a time. Each group is learned by an `engram learn` of its own
(words after -- are its options) and deleted. Then the memory answers for the tenth that was set aside, on which
settings are to be chosen, and for the test images, on which they are reported.
Prints one row of a table, and the accuracy by class on test images.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from memory_story import command

import engram
from engram.streams.sources import arriving
from engram.streams.splits import by_class, hold_out, n_valid


def write(content: bytes, place: Path) -> None:
    """An encoded image as a file."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.with_suffix(".jpg" if content.startswith(b"\xff\xd8") else ".png").write_bytes(content)


def accuracy(
    memory: engram.Memory, images: object, labels: torch.Tensor, names: tuple[str, ...]
) -> np.ndarray:
    """The share of images of each class that is answered rightly."""
    right = memory.predict(images) == np.array([names[y] for y in labels.tolist()])
    return np.array([right[(labels == y).numpy()].mean() for y in range(len(names))])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="tiny_imagenet_50")
    parser.add_argument("--calls", type=int, default=5)
    parser.add_argument("--most", type=int, default=0, help="images of a class that are learned, 0 for all")
    parser.add_argument("words", nargs="*", help="options of engram learn, after --")
    asked = parser.parse_args()
    found = arriving(asked.data)
    names, y = found.class_names, found.labels
    encoded = [content for _, content in found.images()]
    kept, aside = hold_out(y, lambda n: n_valid(n, 0.1), generator=by_class("aside", 0, 0, names))
    with tempfile.TemporaryDirectory() as place:
        memory, arrived, seconds = Path(place) / "memory", Path(place) / "arrived", []
        for number, group in enumerate(np.array_split(np.arange(len(names)), asked.calls)):
            for label in group.tolist():
                for row in kept[y[kept] == label][: asked.most or None].tolist():
                    write(encoded[row], arrived / names[label].replace("/", "-") / f"{row:06d}")
            _, took = command("learn", arrived, "--into", memory, "--quiet", *(() if number else asked.words))
            seconds.append(took)
            shutil.rmtree(arrived)
        known = engram.Memory.open(memory)
        names = tuple(name.replace("/", "-") for name in names)
        chosen = accuracy(known, [encoded[row] for row in aside.tolist()], y[aside], names)
        test = engram.load(asked.data)
        images = test.test_x
        reported = accuracy(known, images, test.test_y, names)
        features = known.model.settings.features
        d = int(known.model.module.n_features) if known.model.module is not None else 0
    print(
        f"| {asked.data} | {shlex.join(asked.words) or 'the default'} | {known.model.rule.shape[1]} | {d} | "
        f"{100 * chosen.mean():.1f} | {100 * reported.mean():.1f} | {sum(seconds):.0f} | {max(seconds):.0f} | "
        f"{known.n_bytes / 1e6:.1f} |"
    )
    print(
        f"{features}; test, by class: "
        + ", ".join(f"{n} {100 * a:.0f}" for n, a in zip(names, reported, strict=True))
    )


if __name__ == "__main__":
    main()
