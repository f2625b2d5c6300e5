"""Checks of option values: one sentence for every bad value."""

from __future__ import annotations

import math
from typing import Any

from engram.errors import ConfigError


def check_positive(config: Any, *names: str) -> None:
    """Each named field must be a finite number > 0."""
    for name in names:
        value = getattr(config, name)
        if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
            raise ConfigError(f"{name} must be a number > 0, got {value!r}: give a positive number.")


def check_at_least(config: Any, bound: float, *names: str) -> None:
    """Each named field must be a finite number >= ``bound``."""
    for name in names:
        value = getattr(config, name)
        if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= bound):
            raise ConfigError(f"{name} must be a number >= {bound:g}, got {value!r}: give such a number.")


def check_fraction(config: Any, *names: str) -> None:
    """Each named field must be a number in [0, 1]."""
    for name in names:
        value = getattr(config, name)
        if not (isinstance(value, (int, float)) and 0 <= value <= 1):
            raise ConfigError(f"{name} must be a number in [0, 1], got {value!r}: give a fraction.")
