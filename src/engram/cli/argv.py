"""What a command line asks for, read before its parser exists: the recipe and the file of options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.errors import ConfigError

if TYPE_CHECKING:
    from engram.recipes import Recipe


def recipe_of(rest: list[str]) -> tuple[Recipe | None, str]:
    """The recipe that a command line or its file asks for, or its data's default, and how that came about."""
    from engram.studies.comparison import chosen_recipe

    stored = yaml_of(value_of(rest, "--config"))
    name = value_of(rest, "--recipe") or stored.get("recipe")
    data = value_of(rest, "--data") or stored.get("data") or "digits"
    recipe = chosen_recipe(name, str(data))
    return recipe, "" if name else " (default for this data)"


def value_of(argv: list[str], flag: str) -> str | None:
    """The last value given to a flag, before the parser exists."""
    found = None
    for a, b in zip(argv, [*argv[1:], None], strict=False):
        if a == flag and b is not None:
            found = b
        elif a.startswith(f"{flag}="):
            found = a.partition("=")[2]
    return found


def yaml_of(path: str | None) -> dict[str, Any]:
    """Options by name in a YAML file; none without a file."""
    import yaml

    if path is None:
        return {}
    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"config must be a readable YAML file, got {path} ({' '.join(str(error).split())})."
        ) from error
    if loaded is not None and not isinstance(loaded, dict):
        raise ConfigError(
            f"config must hold options by name, got {path} with a {type(loaded).__name__}: see config.yaml."
        )
    return loaded or {}


def config_first(argv: list[str]) -> list[str]:
    """``--config`` before everything else, so that the command line wins wherever it stands."""
    first: list[str] = []
    others: list[str] = []
    i = 0
    while i < len(argv):
        if argv[i] == "--config" and i + 1 < len(argv):
            first += argv[i : i + 2]
            i += 2
            continue
        (first if argv[i].startswith("--config=") else others).append(argv[i])
        i += 1
    return [*first, *others]
