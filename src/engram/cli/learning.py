"""``engram learn``: new classes into a memory on disk.

What is imported inside functions loads torch or rich, and is not needed for help and errors.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram import features, networks
from engram.cli import ending
from engram.cli.command_line import OptionParser, flag_of
from engram.cli.memory_words import USAGES, options, read, split
from engram.core.index import About
from engram.core.options import Option, shown
from engram.core.staying import staying
from engram.core.values import typed_all
from engram.errors import ConfigError, printable
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
        image_column: the column of a table that holds images; by default the only one there is.
        label_column: the column of a table that holds labels; by default the one of class labels, or called label.
        quiet: print nothing but the table.
    """

    into: str | None = None
    refine: bool = False
    data_dir: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    quiet: bool = False


#: What decides which other options there are, and what is known of each.
KINDS: dict[str, Callable[[str], About]] = {
    "method": registry.about,
    "features": features.about,
    "network": networks.about,
}


def learn(words: Sequence[str]) -> int:
    """``engram learn``."""
    names, flags = split(words)
    early = {"": options(Learn()) | {flag_of(n): Option(n, str | None, None) for n in KINDS}}
    deciding = vars(OptionParser("learn", (), early).parse_known_args(flags)[0])
    into, stored = deciding.get("--into"), None
    if into is not None and folder.is_memory(Path(into)):
        stored = folder.read(Path(into), lambda record, _: Settings(**record["known"]["settings"]))
    asked: dict[str, Any] = {n: str(deciding[flag_of(n)]) for n in KINDS if flag_of(n) in deciding}
    usual = stored or Settings(**asked)
    groups = {"what to learn": options(Learn()), "of the memory": options(usual, OPTION_FIELDS)}
    left_open = usual.open_options()
    for kind, about in KINDS.items():
        name, field = getattr(usual, kind), f"{kind}_options"
        if name is not None:
            known = typed_all(name, about(name).options, getattr(usual, field))
            for option, (grey, colour) in left_open.get(field, {}).items():
                known[option] = (
                    grey if grey == colour else f"{shown(grey)} for grey images, {shown(colour)} for colour"
                )
            own = {
                f"--{name}.{o.name}": replace(o, default=known.get(o.name, o.default))
                for o in about(name).options
            }
            groups[f"{kind} {name}"] = own
    values = read("learn", flags, groups)
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
    with staying("torch"):
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
    stored = {flag: option.default for group in groups.values() for flag, option in group.items()}
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
    from engram.memory.facts import accuracy, copying, membership_words, size
    from engram.memory.memory import audit_words
    from engram.studies.progress import duration

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
    if memory.model.uncalibrated:
        notes = [*notes, f"predict will tell no probabilities: {memory.model.uncalibrated}"]
    for note in dict.fromkeys(notes):
        print(f"note: {printable(note)}")
    for line in copying([learned.call]):
        print(f"note: {line}")
    print(f"audit: {audit_words(memory)}")
    print(f"images learned now told from those held out: AUC {membership_words(learned.call)}")
    settings, rule = memory.model.settings, memory.model.rule
    print(f"{printable(str(memory.path))}: {settings.method}, {rule}")
    print(
        f"size {size(learned.bytes_before)} before, {size(learned.bytes_after)} after; "
        f"{duration(learned.call['seconds'])}; state {learned.generation}"
    )
