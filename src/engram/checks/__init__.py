"""The contract suite, public: what must hold of every continual-learning method, also of your own.

``check_method(thing)`` runs everything and raises :class:`CheckFailure` at the first one that fails;
``checks_for(thing)`` yields ``(name, check)`` pairs for ``pytest.mark.parametrize``.

Departures: none (no paper). Cost: some ten runs of a few steps on 8x8 images, one watched by most checks; seconds.
"""

from __future__ import annotations

from engram.checks.failure import CheckFailure
from engram.checks.small import SKIPPED, SMALL
from engram.checks.streams import tiny_data, tiny_domains, tiny_stream
from engram.checks.suite import CHECKS, Bench, check_method, checks_for

__all__ = [
    "CHECKS",
    "SKIPPED",
    "SMALL",
    "Bench",
    "CheckFailure",
    "check_method",
    "checks_for",
    "tiny_data",
    "tiny_domains",
    "tiny_stream",
]
