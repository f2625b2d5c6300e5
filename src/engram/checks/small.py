"""Small options of every registered method, and the checks that it need not pass, as the methods' modules say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engram.core.values import split_variant, typed_all
from engram.methods.registry import METHODS, Entry, entry

Variants = Mapping[str, Mapping[str, Any]]


def _variants(name: str, found: Entry) -> Variants:
    options = found.about().options
    return {
        v: typed_all(name, options, split_variant(f"{name}:{text}")[1]) for v, text in found.small.items()
    }


_ENTRIES = {name: entry(name) for name in METHODS}

#: Small options by method and variant; every variant is checked.
SMALL: dict[str, Variants] = {name: _variants(name, found) for name, found in _ENTRIES.items()}

#: Checks that a method need not pass, with the reason: by method, variant ("" is all variants) and check.
SKIPPED: dict[tuple[str, str, str], str] = {
    (name, variant, check): reason
    for name, found in _ENTRIES.items()
    for (variant, check), reason in found.skipped.items()
}
