"""Recipes of classifiers in closed form on features that were trained on nothing."""

from __future__ import annotations

from typing import Any

from engram.recipes.book import Recipe, register

OURS = "ours, chosen on held-out training images by the sweeps in docs/features.md"


def _closed_form(name: str, what: str, features: dict[str, Any], eps: float) -> Recipe:
    return Recipe(
        name,
        f"{what}: wavelet scattering and linear discriminants, nothing is trained, no sample is kept",
        OURS,
        data={"tasks": 10},
        features="scattering",
        feature_options={"J": 3, "L": 8, **features},
        methods={"slda": {"eps": eps}},
    )


@register
def closed_form_digits() -> Recipe:
    """Digits, letters, signs: what a mirror changes."""
    return _closed_form("closed-form-digits", "Digits, letters and signs", {}, 0.01)


@register
def closed_form_photos() -> Recipe:
    """Photographs: what a mirror does not change."""
    return _closed_form("closed-form-photos", "Photographs", {"mirror": True}, 0.2)
