"""Python files of one's own: loaded by path, once a process."""

from __future__ import annotations

import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from engram.core.files import digest, read_regular
from engram.core.options import closest
from engram.errors import ConfigError

_LOADED: dict[Path, ModuleType] = {}


def is_place(name: str) -> bool:
    """Whether a name is ``FILE.py:NAME``."""
    return re.search(r"\.py:\w+$", name) is not None


def load(path: str) -> ModuleType:
    """What a Python file defines, run as a module of its own.

    Raises:
        ConfigError: there is no such file, or running it fails; the message names the line.
    """
    file = Path(path).expanduser().resolve()
    if file in _LOADED:
        return _LOADED[file]
    try:
        content = read_regular(file)
    except OSError as error:
        raise ConfigError(f"a Python file must be readable, got {path}: {error.strerror}.") from error
    # Dataclasses look their annotations up in the module of their name.
    name = f"_{re.sub(r'[^A-Za-z0-9]', '_', file.stem)}_{digest(str(file).encode())[:8]}"
    module = ModuleType(name)
    module.__file__ = str(file)
    sys.modules[name] = module
    try:
        exec(compile(content, str(file), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        said = (str(error).splitlines() or [""])[0]
        raise ConfigError(
            f"a Python file must run without errors, got {type(error).__name__} in line {line} of {path}: {said}"
        ) from error
    _LOADED[file] = module
    return module


def load_object(place: str) -> Any:
    """The object at ``FILE.py:NAME``.

    Raises:
        ConfigError: as `load`, or the file defines no such name.
    """
    path, _, name = place.rpartition(":")
    module = load(path)
    if not hasattr(module, name):
        known = [n for n in vars(module) if not n.startswith("_")]
        raise ConfigError(
            f"{path} must define {name}, it does not{closest(name, known)}: give FILE.py:NAME of what it defines."
        )
    return getattr(module, name)
