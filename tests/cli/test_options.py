"""The set of options is frozen: a change shows up here, and in ``options.txt``.

``python tests/cli/test_options.py`` writes the list anew.
"""

from __future__ import annotations

from pathlib import Path

from engram.cli.command_line import KINDS, options_by_title
from engram.core.options import type_words
from engram.core.values import split_variant
from engram.methods.registry import METHODS, about

STORED = Path(__file__).with_name("options.txt")


def listed() -> list[str]:
    """Every option of every command and method with its type, sorted."""
    groups = [
        group for kind in KINDS.values() for group in options_by_title(kind(), sorted(METHODS), None).values()
    ]
    return sorted({f"{flag}: {option.kind}" for group in groups for flag, option in group.items()})


def test_no_option_comes_or_goes_unseen():
    assert listed() == STORED.read_text(encoding="utf-8").splitlines()


def test_every_option_is_explained():
    for name in METHODS:
        for option in about(name).options:
            assert option.help, f"{name}.{option.name} is not in the docstring"


def test_types_in_words():
    assert type_words(int | None) == "integer or none"
    assert type_words(tuple[int, ...]) == "list of integers"
    assert type_words(bool) == "true | false"


def test_variants():
    assert split_variant("dgmw") == ("dgmw", {})
    assert split_variant("m:a=1,b=[2,3],c=x") == ("m", {"a": "1", "b": "[2,3]", "c": "x"})


if __name__ == "__main__":
    STORED.write_text("\n".join(listed()) + "\n", encoding="utf-8")
