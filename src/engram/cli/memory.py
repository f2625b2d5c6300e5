"""``engram learn`` and ``predict``: a memory on disk, from the command line.

What is imported inside functions loads torch or rich, and is not needed for help and errors.
"""

from __future__ import annotations

import contextlib
import csv
import glob
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram import features, networks
from engram.cli import ending
from engram.cli.command_line import OptionParser, flag_of, refuse_unknown, value_of
from engram.core.files import write_atomically
from engram.core.index import About
from engram.core.options import Option, options_of, shown
from engram.core.values import typed_all
from engram.core.walking import walk
from engram.errors import ConfigError, DataError, EngramError, printable
from engram.memory import folder
from engram.memory.settings import OPTION_FIELDS, Settings
from engram.methods import registry

if TYPE_CHECKING:
    from engram.memory.memory import Learned, Memory


@dataclass(frozen=True)
class Learn:
    """Options of `engram learn` beside those of the memory.

    Args:
        into: folder of the memory; made by the first call.
        refine: classes of DATA may be known already: their images are added to what is known, where the method can.
        data_dir: folder with data sets as sub-folders; by default $ENGRAM_DATA.
        image_column: of a table, the column of images; by default the only one there is.
        label_column: of a table, the column of labels; by default the one of class labels, or called label.
        quiet: print nothing but the table.
    """

    into: str | None = None
    refine: bool = False
    data_dir: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    quiet: bool = False


@dataclass(frozen=True)
class Predict:
    """Options of `engram predict`.

    Args:
        top: how many classes are told of each image, the most probable first.
        json: one JSON object a line: image, class, probability, and top where it is above 1.
        csv: a table with a header.
        serve: stay loaded; each line of standard input is the path of an image, as text or as JSON
            (a string, or an object with "image"), and is answered with one JSON line.
    """

    top: int = 1
    json: bool = False
    csv: bool = False
    serve: bool = False


@dataclass(frozen=True)
class Inspect:
    """Options of `engram inspect`.

    Args:
        html: write a page to this file too.
    """

    html: str | None = None


@dataclass(frozen=True)
class Undo:
    """Options of `engram undo`.

    Args:
        to: number of the state to go to, one of those that are kept, also a later one that was undone.
    """

    to: int | None = None


#: What decides which other options there are, and what is known of each.
KINDS: dict[str, Callable[[str], About]] = {
    "method": registry.about,
    "features": features.about,
    "network": networks.about,
}
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
    "Earlier states, which know it, are removed too.",
    "export": "Write what answers into one file that needs no engram: ONNX (FILE.onnx, with engram[export]), or a\n"
    "program of torch.export (FILE.pt2). It takes uint8 pixels of the memory's size and gives probabilities.",
}


def main(command: str, words: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    run: Callable[[Sequence[str]], int] = {
        "learn": learn,
        "predict": predict,
        "inspect": inspect,
        "verify": verify,
        "undo": undo,
        "forget": forget,
        "export": export,
    }[command]
    return run(words)


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words before the first option, and the others."""
    first = next((i for i, word in enumerate(words) if word.startswith("-") and word != "-"), len(words))
    return list(words[:first]), list(words[first:])


def _options(kind: Any, skip: Iterable[str] = ()) -> dict[str, Option]:
    return {flag_of(o.name): o for o in options_of(kind, skip=skip)}


def _read(
    command: str, words: Sequence[str], groups: Mapping[str, Mapping[str, Option]]
) -> dict[str, Any] | None:
    """Values of the options that are given, by flag; None where help was asked for, and printed."""
    parser = OptionParser(command, (), groups, list(groups), usage=USAGES[command], about=ABOUT[command])
    parsed, unknown = parser.parse_known_args(words)
    raw = vars(parsed)
    if raw.pop("--help", False):
        print(parser.format_help(), end="")
        return None
    known = {flag: option for options in groups.values() for flag, option in options.items()}
    for word in unknown:
        refuse_unknown(word.partition("=")[0], "", groups, f"engram {command}")
    return {flag: value_of(known[flag], flag, given) for flag, given in raw.items()}


# Learning ---------------------------------------------------------------------------------------------------------
def learn(words: Sequence[str]) -> int:
    """``engram learn``."""
    names, flags = _split(words)
    early = {"": _options(Learn()) | {flag_of(n): Option(n, str | None, None) for n in KINDS}}
    deciding = vars(OptionParser("learn", (), early).parse_known_args(flags)[0])
    into, stored = deciding.get("--into"), None
    if into is not None and folder.is_memory(Path(into)):
        stored = folder.read(Path(into), lambda record, _: Settings(**record["known"]["settings"]))
    asked: dict[str, Any] = {n: str(deciding[flag_of(n)]) for n in KINDS if flag_of(n) in deciding}
    usual = stored or Settings(**asked)
    groups = {"what to learn": _options(Learn()), "of the memory": _options(usual, OPTION_FIELDS)}
    for kind, about in KINDS.items():
        name = getattr(usual, kind)
        if name is not None:
            known = typed_all(name, about(name).options, getattr(usual, f"{kind}_options"))
            own = {
                f"--{name}.{o.name}": replace(o, default=known.get(o.name, o.default))
                for o in about(name).options
            }
            groups[f"{kind} {name}"] = own
    values = _read("learn", flags, groups)
    if values is None:
        return 0
    if len(names) != 1 or into is None:
        raise ConfigError(f"usage must be engram learn {USAGES['learn']}: give one DATA and --into.")
    here = Learn(**{k: values.get(flag_of(k), v) for k, v in asdict(Learn()).items()})
    given = {flag: value for flag, value in values.items() if flag not in groups["what to learn"]}
    if stored is not None:
        _refuse_other(given, groups)
        settings = stored
    else:
        settings = _settings(usual, given)
    # With torch and numpy.
    from engram.memory.memory import Memory
    from engram.streams.sources import arriving

    memory = Memory.open(into) if stored is not None else Memory.create(into, **asdict(settings))
    arrival = arriving(
        names[0], data_dir=here.data_dir, image_column=here.image_column, label_column=here.label_column
    )
    with _progress(here.quiet) as tell:
        learned = memory.learn(arrival, refine=here.refine, tell=tell)
    _tell_learned(memory, learned, (*arrival.notes, *learned.notes), here.quiet)
    return 0


def _refuse_other(given: Mapping[str, Any], groups: Mapping[str, Mapping[str, Option]]) -> None:
    """``ConfigError`` where an option is given that differs from the memory's."""
    stored = {flag: option.default for options in groups.values() for flag, option in options.items()}
    for flag, value in given.items():
        if value != stored[flag]:
            raise ConfigError(
                f"{flag} must be {shown(stored[flag])}, as when the memory was made, got {shown(value)}: leave it out, "
                "or make another memory."
            )


def _settings(usual: Settings, given: Mapping[str, Any]) -> Settings:
    """The settings of a new memory, from the options that are given."""
    found: dict[str, Any] = {f"{kind}_options": {} for kind in KINDS}
    owners = {getattr(usual, kind): f"{kind}_options" for kind in KINDS}
    for flag, value in given.items():
        name, _, option = flag[2:].partition(".")
        if option:
            found[owners[name]][option] = value
        else:
            found[name.replace("-", "_")] = value
    return replace(usual, **found)


@contextlib.contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal; nothing elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield lambda what, done, n: None
        return
    from rich.console import Console  # slow to import
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    parts = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
    )
    with Progress(*parts, console=Console(stderr=True), transient=True) as bar:
        shown_task = bar.add_task("starting", total=None, count="")

        def tell(what: str, done: int, n: int) -> None:
            bar.update(
                shown_task,
                description=what,
                completed=done,
                total=n or None,
                count=f"{done}/{n}" if n else "",
            )

        yield tell


def _tell_learned(memory: Memory, learned: Learned, notes: Sequence[str], quiet: bool) -> None:
    # As above.
    from engram.cli.listing import table
    from engram.cli.progress import duration
    from engram.memory.facts import accuracy, size

    if learned.call["refined"]:
        more = ", ".join(learned.call["refined"])
        said = f"more of {more}: known is what all their images together give, up to rounding"
        notes = [*notes, f"{said}; no one run gives the same bits"]
    if learned.again:
        print("These images are what was learned last: nothing was to be done.")
    rows = []
    for place, call in enumerate(memory.calls):
        now = place == len(memory.calls) - 1
        when = "now" if now else f"on {call['date'][:10]}, when it was learned"
        for name, one in call["classes"].items():
            again = " (again)" if name in call["refined"] else ""
            rows.append((name + again, str(one["images"]), str(one["held_out"]), accuracy(one), when))
    ending.console().print(table("Classes", ("class", "images", "held out", "accuracy", "measured"), rows))
    if quiet:
        return
    for note in dict.fromkeys(notes):
        print(f"note: {printable(note)}")
    settings, rule = memory.model.settings, memory.model.rule
    print(f"{printable(str(memory.path))}: {settings.method}, {rule}")
    print(
        f"size {size(learned.bytes_before)} before, {size(learned.bytes_after)} after; "
        f"{duration(learned.call['seconds'])}; state {learned.generation}"
    )


# Predicting -------------------------------------------------------------------------------------------------------
def predict(words: Sequence[str]) -> int:
    """``engram predict``."""
    names, flags = _split(words)
    groups = {"how to answer": _options(Predict())}
    values = _read("predict", flags, groups)
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
    from engram.memory.memory import Memory  # with torch

    memory = Memory.open(names[0])
    if own.serve:
        return _serve(memory, own.top)
    answers = _answers(memory, list(_paths(names[1:])), own.top)
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


def _answers(memory: Memory, paths: Sequence[str], top: int) -> list[dict[str, Any]]:
    probabilities = memory.predict_proba(list(paths))
    classes = memory.model.classes
    found = []
    for path, row in zip(paths, probabilities, strict=True):
        best = [(classes[k], float(row[k])) for k in (-row).argsort(kind="stable")[:top]]
        found.append({"image": path, "class": best[0][0], "probability": best[0][1]})
        if top > 1:
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
        writer.writerow(["image", *head])
        writer.writerows([[c if isinstance(c, str) else f"{c:.6f}" for c in row] for row in listed])
        return 0
    wide = max(len(row[0]) for row in listed)
    for image, *cells in listed:
        told = (f"{name} {100 * p:.1f} %" for name, p in zip(cells[::2], cells[1::2], strict=True))
        print(f"{image:<{wide}}  {', '.join(told)}")
    return 0


def _serve(memory: Memory, top: int) -> int:
    """Answer line by line until standard input ends; what cannot be answered is a line with its error."""
    print(json.dumps({"ready": True, "classes": list(memory.model.classes)}), flush=True)
    for line in sys.stdin:
        if not line.strip():
            continue
        try:
            answer = _answers(memory, [_asked(line.strip())], top)[0]
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


# Looking after it --------------------------------------------------------------------------------------------------
def _one_memory(
    command: str, words: Sequence[str], kind: Any = None, n: int = 1
) -> tuple[list[str], Any] | None:
    """The ``n`` words and the options of a command on a memory; None where help was printed."""
    names, flags = _split(words)
    values = _read(command, flags, {"options": _options(kind)} if kind else {})
    if values is None:
        return None
    if len(names) != n:
        raise ConfigError(
            f"usage must be engram {command} {USAGES[command]}, got {shlex.join(words) or 'nothing'}."
        )
    return names, kind and replace(kind, **{k: values.get(flag_of(k), v) for k, v in asdict(kind).items()})


def inspect(words: Sequence[str]) -> int:
    """``engram inspect``."""
    asked = _one_memory("inspect", words, Inspect())
    if asked is None:
        return 0
    (path,), own = asked
    # With torch and rich.
    from engram.cli.listing import table
    from engram.memory.facts import facts_of
    from engram.memory.memory import Memory

    facts = facts_of(Memory.open(path))
    screen = ending.console()
    screen.print(table(f"Memory {printable(path)}", ("what", "is"), list(facts.about.items())))
    for one in facts.tables:
        screen.print(table(one.title, one.columns, one.rows))
    if facts.command:
        print("Over DATA, whose train/ holds the images of all calls, this learns the same, bit for bit:")
        print(facts.command)
    if own.html is not None:
        from engram.report.memory_page import render  # jinja2

        write_atomically(Path(own.html), render(printable(path), facts).encode())
        print(f"Page: {printable(own.html)}")
    return 0


def verify(words: Sequence[str]) -> int:
    """``engram verify``."""
    asked = _one_memory("verify", words)
    if asked is None:
        return 0
    ((path,), _) = asked
    # As above.
    from engram.cli.listing import table
    from engram.memory.facts import state_table
    from engram.memory.memory import verify as look

    states = look(path)
    found = state_table(states)
    ending.console().print(table(found.title, found.columns, found.rows))
    faults = [one.fault for one in states if one.fault]
    if faults:
        raise EngramError(f"all states must be whole, {len(faults)} of {len(states)} are not ({faults[0]}).")
    return 0


def undo(words: Sequence[str]) -> int:
    """``engram undo``."""
    asked = _one_memory("undo", words, Undo())
    if asked is None:
        return 0
    (path,), own = asked
    from engram.memory.memory import Memory  # with torch

    print(f"{printable(path)}: {Memory.at(path).undo(own.to)}")
    return 0


def forget(words: Sequence[str]) -> int:
    """``engram forget``."""
    asked = _one_memory("forget", words, n=2)
    if asked is None:
        return 0
    ((path, name), _) = asked
    from engram.memory.memory import Memory  # with torch

    memory = Memory.open(path)
    memory.forget(name)
    left = f"{len(memory.classes_)} classes are known; state {memory.generation} is the only one"
    print(f"{printable(path)}: {name} is forgotten, {left}")
    return 0


def export(words: Sequence[str]) -> int:
    """``engram export``."""
    asked = _one_memory("export", words, n=2)
    if asked is None:
        return 0
    ((path, out), _) = asked
    from engram.memory.export import export as write  # with torch

    done = write(path, out)
    facts = done.facts
    shape = ", ".join(map(str, facts["input"]["shape"]))
    print(
        f"{printable(str(done.path))}: {facts['input']['name']} {facts['input']['type']} [{shape}] to probabilities of "
        f"{len(facts['classes'])} classes, {done.path.stat().st_size / 1024:,.0f} KiB"
    )
    print(f"Images: {facts['rule']}")
    if done.difference is None:
        print("Not compared with the memory: onnxruntime is not installed.")
    else:
        print(
            f"Compared with the memory on made-up images: probabilities differ by at most {done.difference:.1g}."
        )
    return 0
