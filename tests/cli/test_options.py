"""The set of options is frozen: a change shows up here, and in ``options.txt``.

``python tests/cli/test_options.py`` writes the list anew.
"""

from __future__ import annotations

from pathlib import Path

from engram.cli.parser import build
from engram.core.options import split_variant, type_words
from engram.methods.registry import METHODS, about

STORED = Path(__file__).with_name("options.txt")


def listed() -> list[str]:
    """Every option of every method with its type, sorted; those of sweeps and trade-offs included."""
    parsers = [build("compare", sorted(METHODS), None)]
    parsers += [build(command, ["si"], None) for command in ("sweep", "tradeoff")]
    return sorted({f"{p.flags[key]}: {option.kind}" for p in parsers for key, option in p.known.items()})


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
