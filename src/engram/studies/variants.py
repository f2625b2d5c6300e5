"""What a study compares: methods with their options, each under a name of its own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from engram import features
from engram.core.values import split_variant, typed_all
from engram.errors import ConfigError, printable
from engram.methods.registry import about
from engram.studies.folders import folder_name
from engram.studies.settings import FeatureSettings

__all__ = ["Variant", "check_distinct", "first_difference", "identity_of", "variant"]


@dataclass(frozen=True)
class Variant:
    """One method with its options.

    Args:
        label: what it is called in tables and messages; no two variants of a study share one.
        folder: of its runs, in the study's folder.
        method: a registered name.
        options: that differ from the method's defaults, or all; values of their types.
        varied: by option, what a sweep or trade-off has chosen for it.
        curve: of a trade-off, what the points of one curve have in common.
        features: of its own, where they are not the study's.
    """

    label: str
    folder: str
    method: str
    options: Mapping[str, Any]
    varied: Mapping[str, Any] = field(default_factory=dict)
    curve: Mapping[str, Any] = field(default_factory=dict)
    features: FeatureSettings | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", printable(self.label))


def variant(
    text: str,
    options: Mapping[str, Any] | None = None,
    *,
    folder: str | None = None,
    of_features: Mapping[str, Mapping[str, Any]] | None = None,
) -> Variant:
    """``NAME:option=value,...`` as a variant.

    Args:
        text: beside the method's options, ``features=NAME`` or ``features=NAME[option=value,...]`` may stand in it, and
            ``features=none`` for images where the study has features.
        options: those of all variants of NAME.
        folder: None for one that follows from the text.
        of_features: options of features by their name, on top of which come those in the text.

    Raises:
        ConfigError: unknown method or option, or a value that the option cannot take.
    """
    name, given = split_variant(text)
    seen = own_features(given.pop("features", None), of_features or {})
    values = typed_all(name, about(name).options, {**(options or {}), **given})
    return Variant(text, folder_name(text) if folder is None else folder, name, values, features=seen)


def own_features(text: str | None, defaults: Mapping[str, Mapping[str, Any]]) -> FeatureSettings | None:
    """The features that a variant names, with ``defaults`` by name; errors as `variant`."""
    if text is None or text == "none":
        return None if text is None else FeatureSettings()
    name, given = features.parse(text)
    if name in features.FEATURES:
        options = {**defaults.get(name, {}), **given}
        return FeatureSettings(name, typed_all(name, features.about(name).options, options))
    return FeatureSettings(name, given, given.pop("weights", None), given.pop("trained_on", None))


def check_distinct(variants: Iterable[Variant]) -> None:
    """``ConfigError`` unless there are variants, with folders of their own."""
    taken: set[str] = set()
    for one in variants:
        if one.folder in taken:
            raise ConfigError(f"every method must be named once, got {one.label} twice: leave one out.")
        taken.add(one.folder)
    if not taken:
        raise ConfigError("methods must be named, got none: see engram list.")


def identity_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a variant this one: its configuration, its data and its device."""
    config = {k: v for k, v in record["config"].items() if k not in ("recipe", "device")}
    fingerprint, device = record["data"].get("fingerprint"), record["device"].get("class")
    return {**config, "fingerprint": fingerprint, "device": device}


def first_difference(stored: Any, given: Any, where: str = "") -> str:
    """The first place where two JSON values differ, in words; empty when they are equal."""
    if isinstance(stored, Mapping) and isinstance(given, Mapping):
        for key in dict.fromkeys([*stored, *given]):
            found = first_difference(stored.get(key), given.get(key), f"{where}.{key}" if where else str(key))
            if found:
                return found
        return ""
    if stored == given:
        return ""

    def short(value: Any) -> str:
        text = json.dumps(value)
        return text if len(text) <= 40 else text[:37] + "..."

    return f"{where}: {short(stored)} there, {short(given)} now"
