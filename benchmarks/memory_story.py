"""A memory as a user has it: classes arrive in folders, each learned by a process of its own and deleted then.

    python benchmarks/memory_story.py [--data mnist] [--groups 3 2 3 2] [--most 0] [-- --method ncm ...]

The training images of a data set are written as PNG, a folder a class, and learned group by group with `engram learn`
(words after -- are its options); each folder is deleted before the next call. Then the memory is verified, its audits
too, asked with `engram predict` for one test image, for 1,000 and for all, exported to ONNX, of which onnxruntime must
answer as it does for 1,000 images, and compared bit for bit with the one `engram run` that `engram inspect` prints.
Prints seconds, sizes and accuracies; exit code 1 where the weights differ, the file answers otherwise by more than
1e-5, or an audit found an image.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

import onnxruntime
import torch
from demo import command, write

import engram
from engram.learning.learner import Learner
from engram.memory.rule import given


def exported(memory: Path, images: list[Path], root: Path) -> float:
    """The largest difference between probabilities of the exported file, run by onnxruntime, and of the memory."""
    told, took = command("export", memory, root / "memory.onnx")
    print(f"export: {took:.1f} s; {told}")
    session = onnxruntime.InferenceSession(root / "memory.onnx", providers=["CPUExecutionProvider"])
    known = engram.Memory.open(memory)
    pixels = known.model.prepare(given([str(path) for path in images]))[0].numpy()
    (answers,) = session.run(["probabilities"], {"images": pixels})
    return float(abs(answers - known.predict_proba([str(path) for path in images])).max())


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
        states, took = command("verify", memory)
        print(f"{len(asked.groups)} calls: {seconds:.1f} s; verify: {took:.1f} s\n{states}")
        write(data, "test", known, root / "all" / "test", 0)
        images = sorted((root / "all" / "test").rglob("*.png"))[:: max(1, len(data.test_x) // 1000)][:1000]
        for some in (images[:1], images):
            _, took = command("predict", memory, *some, "--json")
            print(f"predict of {len(some)} images: {took:.1f} s")
        difference, found = (
            exported(memory, images, root),
            engram.Memory.open(memory).record["audit"]["found"],
        )
        print(f"ONNX and predict differ by at most {difference:.1g} on {len(images)} images")
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
    return 0 if equal and difference <= 1e-5 and not found else 1


if __name__ == "__main__":
    sys.exit(main())
