"""``engram predict``: what images show, by a memory on disk.

What is imported inside functions loads torch, and is not needed for help and errors.
"""

from __future__ import annotations

import csv
import glob
import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.cli.command_line import flag_of
from engram.cli.memory_words import USAGES, options, read, split
from engram.core.files import cell
from engram.core.staying import staying
from engram.core.walking import walk
from engram.errors import ConfigError, DataError, EngramError, printable

if TYPE_CHECKING:
    from engram.memory.memory import Memory


@dataclass(frozen=True)
class Predict:
    """Options of `engram predict`.

    Args:
        top: how many classes are told of each image, the most probable first.
        json: one JSON object a line: image, class, probability (null where it is not calibrated), rejected where that
            is asked, top where it is above 1.
        csv: a table with a header; a probability is empty where it is not calibrated.
        reject: say so where an image shows none of the known classes.
        reject_share: share of images of known classes that may be rejected by it, above 0 and below 1. Each class has
            its own threshold, where enough of its images were held out for that share: 19 for 0.05.
        serve: stay loaded; each line of standard input is the path of an image, as text or as JSON
            (a string, or an object with "image"), and is answered with one JSON line.
    """

    top: int = 1
    json: bool = False
    csv: bool = False
    reject: bool = False
    reject_share: float = 0.05
    serve: bool = False


def predict(words: Sequence[str]) -> int:
    """``engram predict``."""
    names, flags = split(words)
    groups = {"how to answer": options(Predict())}
    values = read("predict", flags, groups)
    if values is None:
        return 0
    own = Predict(**{k: values.get(flag_of(k), v) for k, v in asdict(Predict()).items()})
    if not names or (len(names) < 2) != own.serve:
        raise ConfigError(
            f"usage must be engram predict {USAGES['predict']}, or MEMORY --serve: give a memory and images."
        )
    if own.top < 1 or own.json + own.csv > 1:
        raise ConfigError(
            f"--top must be an integer >= 1, and --json or --csv one of two, got {shlex.join(flags)}: see --help."
        )
    with staying("torch"):
        from engram.memory.memory import Memory  # with torch

    memory = Memory.open(names[0])
    note = (
        f"note: probabilities are not told: {memory.model.uncalibrated}" if memory.model.uncalibrated else ""
    )
    if own.serve:
        if note:
            print(note, file=sys.stderr)
        return _serve(memory, own)
    paths = list(_paths(names[1:]))
    if not paths:
        raise DataError("images must be named, standard input names none: give a path a line.")
    answers = _answers(memory, paths, own)
    if note:
        print(note, file=sys.stderr)
    return _print_answers(answers, own)


def _paths(words: Sequence[str]) -> Iterator[str]:
    """The files that words name: files, folders with all images below, globs, and - for standard input."""
    from engram.streams.decode import endings  # with Pillow

    for word in words:
        if word == "-":
            yield from (line.rstrip("\n") for line in sys.stdin if line.strip())
        elif os.path.isdir(word):
            found = [f for f in walk(Path(word)).files if os.path.splitext(f)[1].lower() in endings()]
            if not found:
                raise DataError(f"{word} must hold images, it holds none: give another folder.")
            yield from (os.path.join(word, f) for f in found)
        elif not os.path.lexists(word) and glob.has_magic(word):
            matches = sorted(glob.glob(word, recursive=True))
            if not matches:
                raise DataError(f"{word} must match a file, it matches none: give another pattern.")
            yield from matches
        else:
            yield word


def _answers(memory: Memory, paths: Sequence[str], own: Predict) -> list[dict[str, Any]]:
    probabilities, rejected = memory.answers(list(paths), own.reject_share if own.reject else None)
    classes, told = memory.model.classes, not memory.model.uncalibrated
    found: list[dict[str, Any]] = []
    for path, row, none_of_them in zip(paths, probabilities, rejected, strict=True):
        best = [
            (classes[k], float(row[k]) if told else None) for k in (-row).argsort(kind="stable")[: own.top]
        ]
        found.append({"image": path, "class": best[0][0], "probability": best[0][1]})
        if own.reject:
            found[-1]["rejected"] = bool(none_of_them)
        if own.top > 1:
            found[-1]["top"] = [{"class": name, "probability": p} for name, p in best]
    return found


def _print_answers(answers: Sequence[Mapping[str, Any]], own: Predict) -> int:
    if own.json:
        for one in answers:
            print(json.dumps(one))
        return 0
    listed = [
        (
            printable(one["image"]),
            *(cell for k in one.get("top", [one]) for cell in (k["class"], k["probability"])),
        )
        for one in answers
    ]
    if own.csv:
        width = (len(listed[0]) - 1) // 2
        head = [f"{name}{n}" for n in ("", *range(2, width + 1)) for name in ("class", "probability")]
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["image", *head, *(["rejected"] if own.reject else [])])
        for one, row in zip(answers, listed, strict=True):
            cells = [f"{c:.6f}" if isinstance(c, float) else c and cell(c) for c in row]
            if cells[0] != row[0]:
                cells[0] = os.path.join(".", row[0])  # the same file
            writer.writerow([*cells, *([str(one["rejected"]).lower()] if own.reject else [])])
        return 0
    wide = max(len(row[0]) for row in listed)
    for one, (image, *cells) in zip(answers, listed, strict=True):
        pairs = zip(cells[::2], cells[1::2], strict=True)
        told = ", ".join(name if p is None else f"{name} {100 * p:.1f} %" for name, p in pairs)
        print(f"{image:<{wide}}  {f'none of the known classes ({told})' if one.get('rejected') else told}")
    return 0


def _serve(memory: Memory, own: Predict) -> int:
    """Answer line by line until standard input ends; what cannot be answered is a line with its error."""
    print(json.dumps({"ready": True, "classes": list(memory.model.classes)}), flush=True)
    for line in sys.stdin:
        if not line.strip():
            continue
        try:
            answer = _answers(memory, [_asked(line.strip())], own)[0]
        except EngramError as error:
            answer = {"error": " ".join(str(error).split())}
        print(json.dumps(answer), flush=True)
    return 0


def _asked(line: str) -> str:
    """The path that a line of standard input names."""
    if line[0] not in '"{':
        return line
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return line
    path = found.get("image") if isinstance(found, dict) else found
    if not isinstance(path, str):
        raise ConfigError(
            f'a line must be a path or {{"image": PATH}}, got {printable(line)[:100]}: give such a line.'
        )
    return path
