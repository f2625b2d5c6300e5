"""What the commands of a memory on disk have in common: their usage, their options, and how words are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from engram.cli.command_line import OptionParser, flag_of, refuse_unknown, value_of
from engram.core.options import Option, options_of

USAGES = {
    "learn": "DATA --into MEMORY [options]",
    "predict": "MEMORY IMAGE ... [options]",
    "inspect": "MEMORY [--html FILE]",
    "verify": "MEMORY",
    "undo": "MEMORY [--to N]",
    "forget": "MEMORY CLASS",
    "export": "MEMORY FILE.onnx|FILE.pt2",
}
ABOUT = {
    "learn": "Learn new classes from DATA (a folder with a folder of images a class, Parquet files, or a hub name)\n"
    "into MEMORY, without the images of before. The first call makes MEMORY and decides its options; later ones\n"
    "take them from it.",
    "predict": "Name what images show: files, folders, globs, or - for paths on standard input.",
    "inspect": "Tell what a memory knows, how well, since when, and what it keeps.",
    "verify": "Check all that a memory keeps: checksums, and whether each state makes a memory that answers.",
    "undo": "Go back to the state before; or drop what an interrupted learn left, where there is such.",
    "forget": "Remove a class exactly, as if its images had never come, where the method can.\n"
    "Earlier states, which know it, are removed too, so that nothing can be undone: at a terminal you are asked\n"
    "first; a script is not.",
    "export": "Write what answers into one file that needs no engram: ONNX (FILE.onnx, with engram[export]), or a\n"
    "program of torch.export (FILE.pt2). It takes uint8 pixels of the memory's size and gives probabilities.",
}


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words before the first option, and the others."""
    first = next((i for i, word in enumerate(words) if word.startswith("-") and word != "-"), len(words))
    return list(words[:first]), list(words[first:])


def options(kind: Any, skip: Iterable[str] = ()) -> dict[str, Option]:
    return {flag_of(o.name): o for o in options_of(kind, skip=skip)}


def read(
    command: str, words: Sequence[str], groups: Mapping[str, Mapping[str, Option]]
) -> dict[str, Any] | None:
    """Values of the options that are given, by flag; None where help was asked for, and printed."""
    parser = OptionParser(command, (), groups, list(groups), usage=USAGES[command], about=ABOUT[command])
    parsed, unknown = parser.parse_known_args(words)
    raw = vars(parsed)
    if raw.pop("--help", False):
        print(parser.format_help(), end="")
        return None
    known = {flag: option for group in groups.values() for flag, option in group.items()}
    for word in unknown:
        refuse_unknown(word.partition("=")[0], "", groups, f"engram {command}")
    return {flag: value_of(known[flag], flag, given) for flag, given in raw.items()}
