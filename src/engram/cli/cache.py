"""``engram cache``: what the laboratory commands keep of data sets, listed and cleared."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from engram.cli import ending
from engram.cli.command_line import Parser

CACHE = """\
usage: engram cache [--clear] [--dir FOLDER]

List what engram run and its sisters keep of data sets, so that images are decoded and features computed once:
pixels of all images, and vectors that were made of them. engram learn keeps nothing of the kind.

  --clear        remove all of it; it is made again where it is needed
  --dir FOLDER   the folder; default: $ENGRAM_CACHE, or ~/.cache/engram
"""


def main(rest: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    parser = Parser("engram cache", CACHE)
    parser.add_argument("--clear", action="store_true")
    parser.add_argument("--dir")
    asked = parser.parse(list(rest))
    if asked is None:
        return 0
    # With torch, which help does without.
    from engram.cli.listing import table
    from engram.memory.facts import size
    from engram.streams.cache import default_cache_dir, kept

    folder = Path(asked.dir).expanduser() if asked.dir else default_cache_dir()
    files = kept(folder)
    total = size(sum(one.n_bytes for one in files))
    if asked.clear:
        for one in files:
            one.path.unlink(missing_ok=True)
        print(f"{folder}: {len(files)} files removed, {total}")
        return 0
    rows = [
        (
            str(one.path.relative_to(folder)),
            one.what,
            size(one.n_bytes),
            f"{datetime.fromtimestamp(one.used):%Y-%m-%d %H:%M}",
        )
        for one in files
    ]
    if rows:
        ending.console().print(table(f"Cache {folder}", ("file", "holds", "size", "last used"), rows))
    print(f"{folder}: {len(files)} files, {total}" + ("; engram cache --clear removes them" if rows else ""))
    return 0
