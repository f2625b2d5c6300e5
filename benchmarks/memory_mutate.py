"""Damage memories in every way and see that they are read rightly or refused in one line.

    python benchmarks/memory_mutate.py --cases 5000 [--seed 0]

Each case is a copy of a small memory with one to three mutations: bytes, lengths, missing files, links, pipes and
folders in place of files, tensors of other shapes and types, JSON values, names that lead outside. Half of them have
their checksums computed anew, as one would who means harm. A child process (at most 6 GiB of address space) opens, asks
and verifies each, and learns into every fifth. Only an error of engram's own may come of it, within 60 seconds; nothing
outside the memory may change, and no code that it names may run. Where checksums were left alone, answers must be those
of a state it had.
Prints how cases ended; exit code 1 where one ended otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from memory_kill import CLOSED, TRAINED, answers, images, memory
from safetensors.torch import load, save

from engram.core.files import digest, sealed
from engram.errors import EngramError
from engram.memory.memory import Memory, verify

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["engram.memory.memory", "engram.features.pixels"])
SECONDS, ADDRESSES = 60.0, 6 << 30
NASTY: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    3,
    10**6,
    2**63,
    10**400,
    0.5,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
]
NASTY += [
    "",
    "a",
    "\0",
    "../../outside/evil.py:Net",
    "/etc/passwd",
    "..",
    "finetune",
    "joint",
    "first-task",
    "x" * 5000,
]
NASTY += [[1, 2, 3], {"a": 1}]


def json_files(root: Path) -> list[Path]:
    """Manifest, records and learners."""
    return sorted(p for p in root.rglob("*.json") if p.is_file() and not p.is_symlink())


def files(root: Path) -> list[Path]:
    """All regular files."""
    return sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink())


def content_of(path: Path) -> bytes:
    """Of a regular file; ``OSError`` where it is none: a mutation may have made it a pipe, or a link to /dev/zero."""
    if path.is_symlink() or not path.is_file():
        raise OSError(f"{path} is no regular file")
    return path.read_bytes()


# Mutations: of bytes -----------------------------------------------------------------------------------------------
def flip(root: Path, rng: random.Random, outside: Path) -> None:
    path = rng.choice(files(root))
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 3, 20))):
        if content:
            at = rng.randrange(min(len(content), rng.choice((8, 200, len(content)))))
            content[at] = rng.randrange(256)
    path.write_bytes(content)


def cut(root: Path, rng: random.Random, outside: Path) -> None:
    path = rng.choice(files(root))
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content) + 1)])


def append(root: Path, rng: random.Random, outside: Path) -> None:
    path = rng.choice(files(root))
    path.write_bytes(path.read_bytes() + rng.choice((b"\0", b"}", b"{" * 3000, rng.randbytes(500))))


def swap(root: Path, rng: random.Random, outside: Path) -> None:
    one, other = rng.choice(files(root)), rng.choice(files(root))
    a, b = one.read_bytes(), other.read_bytes()
    one.write_bytes(b)
    other.write_bytes(a)


def deep(root: Path, rng: random.Random, outside: Path) -> None:
    rng.choice(json_files(root)).write_bytes(sealed('{"a": ' + "[" * 20000 + "]" * 20000 + "}"))


# Of names ----------------------------------------------------------------------------------------------------------
def remove(root: Path, rng: random.Random, outside: Path) -> None:
    rng.choice(files(root)).unlink()


def link(root: Path, rng: random.Random, outside: Path) -> None:
    path = rng.choice([*files(root), *(p for p in root.rglob("*") if p.is_dir())])
    copy = outside / "copy"
    target = rng.choice((str(outside / "secret.json"), "/dev/zero", str(path), "nowhere", "same"))
    if target == "same":  # what it names is right, and lies outside
        shutil.rmtree(copy, ignore_errors=True)
        copy.unlink(missing_ok=True)
        shutil.move(path, copy)
        target = str(copy)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    path.symlink_to(target)


def other_kind(root: Path, rng: random.Random, outside: Path) -> None:
    path = rng.choice(files(root))
    path.unlink()
    if rng.random() < 0.5:
        path.mkdir()
    else:
        os.mkfifo(path)


def rename(root: Path, rng: random.Random, outside: Path) -> None:
    path = rng.choice([p for p in root.rglob("*") if p.is_dir()])
    if path.exists():
        path.rename(path.with_name(rng.choice(("0009", "0000", "x", "..."))))


# Of content, which needs checksums anew ----------------------------------------------------------------------------
def value(root: Path, rng: random.Random, outside: Path) -> None:
    path = rng.choice(json_files(root))
    try:
        body = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            walk(node[key])

    walk(body)
    if not places:
        return
    node, key = rng.choice(places)
    kind = rng.random()
    if kind < 0.15:
        del node[key]
    elif kind < 0.3 and isinstance(node, dict):
        node[str(rng.choice(NASTY))[:50]] = node.pop(key)
    else:
        node[key] = rng.choice(NASTY)
    path.write_text(json.dumps(body))


def outward(root: Path, rng: random.Random, outside: Path) -> None:
    path = rng.choice(
        [p for p in json_files(root) if p.name in ("record.json", "memory.json")] or [root / "memory.json"]
    )
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        body = json.loads(content_of(path))
        names = body["files" if path.name == "record.json" else "generations"]
        old = rng.choice(sorted(names))
        new = rng.choice(
            ("../../../outside/secret.json", str(outside / "secret.json"), "../../memory.json", "record.json")
        )
        names[new] = names.pop(old)
        path.write_text(json.dumps(body))


def own_code(root: Path, rng: random.Random, outside: Path) -> None:
    evil = f"{outside / 'evil.py'}:Net"
    for path in json_files(root):
        text = path.read_text(errors="replace")
        path.write_text(text.replace('"mlp"', json.dumps(evil)).replace('"pixels"', json.dumps(evil)))


def tensors(root: Path, rng: random.Random, outside: Path) -> None:
    found = [p for p in files(root) if p.suffix == ".safetensors"]
    if not found:
        return
    path = rng.choice(found)
    with contextlib.suppress(Exception):  # mutated before
        known = load(path.read_bytes())
        name = rng.choice(sorted(known))
        one = known.pop(name)
        if rng.random() < 0.8:
            known[name if rng.random() < 0.7 else "method/other"] = rng.choice(
                (
                    one[:0],
                    one.flatten(),
                    one[None],
                    one.double(),
                    one.long(),
                    torch.full_like(one.double(), torch.nan),
                )
            ).contiguous()
        path.write_bytes(save(known))


def header(root: Path, rng: random.Random, outside: Path) -> None:
    found = [p for p in files(root) if p.suffix == ".safetensors"]
    if not found:
        return
    path = rng.choice(found)
    content = path.read_bytes()
    n = int.from_bytes(content[:8], "little")
    head = content[8 : 8 + n] if n < len(content) else b"{}"
    words = (
        (b"F32", b"F64"),
        (b"[0,", b"[9,"),
        (b'"shape":[', b'"shape":[99999999999,'),
        (b"offsets", b"offset"),
    )
    old, new = rng.choice(words)
    head = head.replace(old, new, 1)
    size = rng.choice((len(head), 2**62, 0, len(head) + 3))
    path.write_bytes(size.to_bytes(8, "little") + head + content[8 + n :])


BYTES: tuple[Callable[..., None], ...] = (
    flip,
    flip,
    cut,
    append,
    swap,
    deep,
    remove,
    link,
    other_kind,
    rename,
)
CONTENT: tuple[Callable[..., None], ...] = (value, value, value, outward, own_code, tensors, header)


def reseal(root: Path) -> None:
    """Checksums as if all had been written so; where a file is none, it is left out."""
    shas = {}
    for place in sorted((root / "generations").glob("*")):
        record = place / "record.json"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            body = json.loads(content_of(record))
            body.pop("sha256", None)
            for name, facts in body["files"].items():
                if "/" not in name:
                    content = content_of(place / name)
                    facts |= {"sha256": digest(content), "bytes": len(content)}
            record.write_bytes(sealed(json.dumps(body)))
        with contextlib.suppress(OSError, ValueError):
            shas[str(int(place.name))] = digest(content_of(record))
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        body = json.loads(content_of(root / "memory.json"))
        body.pop("sha256", None)
        body["generations"] |= {k: v for k, v in shas.items() if k in body["generations"]}
        (root / "memory.json").write_bytes(sealed(json.dumps(body)))


def mutate(root: Path, rng: random.Random, outside: Path) -> tuple[str, bool]:
    """Mutate a memory; what was done in words, and whether checksums were computed anew."""
    anew = rng.random() < 0.5
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        change = rng.choice(CONTENT if anew and rng.random() < 0.8 else BYTES)
        # Nothing may be left that it could change, or nothing that can be parsed.
        with contextlib.suppress(IndexError, OSError, ValueError, RecursionError):
            change(root, rng, outside)
            done.append(change.__name__)
    if anew:
        with contextlib.suppress(OSError):
            reseal(root)
    return " ".join(done), anew


def check(root: Path) -> None:
    verify(root)


def learn(root: Path) -> None:
    Memory.at(root).learn({"new": images("n")})


def undo(root: Path) -> None:
    Memory.at(root).undo()


def ended(action: Callable[[Path], object], root: Path) -> tuple[str, Any]:
    """How an action ended, and what it answered or said."""
    try:
        return "answered", action(root)
    except EngramError as error:
        line = str(error)
        return ("refused", "") if "\n" not in line else ("not one line", line)
    except BaseException as error:
        return type(error).__name__, str(error)[:300]


# Looking -----------------------------------------------------------------------------------------------------------
def look(told: Connection) -> None:
    """Open, ask, verify and perhaps learn into each memory that is named, and tell how that ended."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    warnings.simplefilter("ignore")
    while True:
        try:
            root, learns = told.recv()
        except EOFError:
            return
        told.send(
            [ended(action, Path(root)) for action in (answers, check, *((learn, undo) if learns else ()))]
        )


class Looker:
    """A child process that looks, started anew where it hangs or dies."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.here, there = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=look, args=(there,), daemon=True)
        self.process.start()
        there.close()

    def __call__(self, root: Path, learns: bool) -> list[Any]:
        try:
            self.here.send((str(root), learns))
            if self.here.poll(SECONDS):
                found: list[Any] = self.here.recv()
                return found
            ended = "hangs"
        except (EOFError, OSError):
            ended = "died"
        self.stop()
        self.start()
        return [(ended, "")]

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.here.close()


def seen_outside(outside: Path) -> dict[str, bytes]:
    """What lies outside the memory, but for what a mutation itself put there."""
    return {p.name: p.read_bytes() for p in outside.iterdir() if p.is_file() and p.name != "copy"}


def cases(n: int, seed: int, place: Path) -> tuple[Counter[str], list[str]]:
    """Look at ``n`` mutated memories: how that ended, and what must not have been."""
    outside = place / "outside"
    outside.mkdir()
    (outside / "secret.json").write_text('{"secret": 1}')
    (outside / "evil.py").write_text(f"open({str(outside / 'ran')!r}, 'w').close()\nclass Net: pass\n")
    bases = [memory(place / f"base{k}", settings) for k, settings in enumerate((TRAINED, CLOSED))]
    right = []
    for base in bases:
        older = Path(shutil.copytree(base, place / "older"))
        Memory.open(older).undo()
        right.append((answers(base), answers(older)))
        shutil.rmtree(older)
    before, looker = seen_outside(outside), Looker()
    found: Counter[str] = Counter()
    wrong = []
    try:
        for case in range(n):
            rng = random.Random(f"{seed} {case}")
            root = Path(shutil.copytree(bases[case % 2], place / "case", symlinks=True))
            what, anew = mutate(root, rng, outside)
            ended = looker(root, case % 5 == 0)
            problems = [f"{kind}: {said}" for kind, said in ended if kind not in ("answered", "refused")]
            if ended[0][0] == "answered" and not anew and ended[0][1] not in right[case % 2]:
                problems.append(f"answers otherwise: {ended[0][1][0]}")
            if seen_outside(outside) != before:
                problems.append("something outside has changed, or code has run")
                (outside / "ran").unlink(missing_ok=True)
            found[ended[0][0] + (", checksums anew" if anew else "")] += 1
            wrong += [f"case {case} ({what}): {problem}" for problem in problems]
            if root.is_symlink():
                root.unlink()
            shutil.rmtree(root, ignore_errors=True)
    finally:
        looker.stop()
    return found, wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found, wrong = cases(asked.cases, asked.seed, Path(place))
    print(
        f"{asked.cases} cases: {', '.join(f'{k} {v}' for k, v in sorted(found.items()))}; wrong {len(wrong)}"
    )
    print("\n".join(wrong[:40]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
