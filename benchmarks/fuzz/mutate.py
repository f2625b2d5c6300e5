"""Mutations: of bytes, of a JSON value, of text. Each is a function of its random generator alone."""

from __future__ import annotations

import json
import random
from typing import Any

DEEP = "@@deep@@"  # becomes 10,000 brackets in the text
STRANGE: list[Any] = [
    None, True, False, 0, 1, -1, 0.5, -0.5, 1.5, 99.9, 1e308, -1e308, float("nan"), float("inf"), 2**63, 2**200,
    10**400, "", "²", "text", "../..", "/etc/passwd", "a\0b", "\ud800", "\x1b[31m", "x" * 5000, "0", "[1, 2]", [],
    {}, [[]], [None], [0, 0], [[0.5]], ["a"], {"a": 1}, {"0": []}, {"name": None}, DEEP,
]  # fmt: skip
WORDS = [
    "&a [*a, *a]", "*a", "<<: *a", "!!python/object:os.system x", "!!binary aGk=", "? [1, 2]", "- - - -", "{", "[",
    "'", '"\\ud800"', "\t", "---", "...", "%YAML 9.9", ": :", "seeds: [0, 0]", "epochs: 1e400", "lr: .nan",
    "tasks: 0x_",
    "data: [digits]", "seeds: 0", "network: {}", "finetune: []", "finetune: {lr: {}}", "1: 2", "null: null",
    "[" * 10_000, "2001-01-01", "resume: maybe", "out: \"a\\0b\"", "seeds: &x [0]", "config: [x]", "~", "!!set {a}",
    "\ufeff", "\u2028",
]  # fmt: skip


def of_bytes(rng: random.Random, content: bytes) -> bytes:
    """One to eight accidents: flipped bits, chunks lost, doubled, overwritten, or the end cut off."""
    out = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(out) + 1)
        n = min(len(out) - at, rng.choice((1, 2, 4, 16, 64)))
        what = rng.randrange(6)
        if what == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            del out[at : at + n]
        elif what == 2:
            out[at:at] = out[at : at + n]
        elif what == 3:
            out[at : at + n] = bytes(rng.choice((0, 255, rng.randrange(256))) for _ in range(n))
        elif what == 4:
            out[at : at + n] = rng.randbytes(n)
        elif rng.random() < 0.3:
            del out[at:]
    return bytes(out)


def of_json(rng: random.Random, value: Any) -> Any:
    """A copy in which one to three places hold something else, are gone, or are there twice."""
    out = json.loads(json.dumps(value))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(out))
        if not places:
            return out
        held, key = rng.choice(places)
        what = rng.randrange(8)
        if what == 0:
            del held[key]
        elif what == 1 and isinstance(held, list):
            held.insert(key, held[key])
        elif what == 2 and isinstance(held, dict):
            held[rng.choice(("²", "name", "seed", str(key) + "x"))] = held.pop(key)
        elif what == 3:
            other, there = rng.choice(places)
            if there in other if isinstance(other, dict) else there < len(other):
                held[key] = json.loads(json.dumps(other[there]))
        elif what in (4, 5) and isinstance(held[key], (int, float)):
            held[key] = rng.choice(
                (held[key] + 1, -held[key], held[key] * 0.5, held[key] + 0.01, str(held[key]))
            )
        else:
            held[key] = rng.choice(STRANGE)
    return out


def _places(value: Any) -> Any:
    if isinstance(value, (dict, list)):
        for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
            yield value, key
            yield from _places(inner)


def text_of(value: Any) -> str:
    """JSON text, as other programs might write it: with NaN, and as deep as it was meant to be."""
    return json.dumps(value).replace(f'"{DEEP}"', "[" * 10_000 + "]" * 10_000)


def of_text(rng: random.Random, text: str) -> str:
    """Lines lost, doubled, moved in, and words that YAML knows and nobody means."""
    lines = text.splitlines()
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(lines) + 1)
        what = rng.randrange(7)
        if what == 0 and at < len(lines):
            del lines[at]
        elif what == 1 and at < len(lines):
            lines.insert(at, lines[at])
        elif what == 2 and at < len(lines):
            lines[at] = " " * rng.randrange(6) + lines[at]
        elif what == 3 and at < len(lines):
            name = lines[at].partition(":")[0]
            lines[at] = f"{name}: {rng.choice(WORDS)}"
        elif what == 4:
            lines.insert(at, rng.choice(WORDS))
        elif what == 5 and at < len(lines):
            lines[at] = lines[at].replace(":", rng.choice(("", "::", " = ", ":\t")), 1)
        elif at < len(lines):
            lines[at] = of_bytes(rng, lines[at].encode("utf-8", "replace")).decode("latin-1")
    return "\n".join(lines) + "\n"
