"""Python files of one's own: loaded by path, once a process, and named in results by file name and checksum."""

from __future__ import annotations

import re
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from engram.core.files import digest
from engram.core.options import closest
from engram.errors import ConfigError


@dataclass(frozen=True)
class Source:
    """A loaded file.

    Args:
        path: absolute.
        sha256: of its bytes when it was loaded.
        module: what it defines.
    """

    path: Path
    sha256: str
    module: ModuleType

    def describe(self) -> dict[str, str]:
        """Its name and checksum as JSON; where it lies is left out."""
        return {"file": self.path.name, "sha256": self.sha256}


_LOADED: dict[Path, Source] = {}


def is_place(name: str) -> bool:
    """Whether a name is ``FILE.py:NAME``."""
    return re.search(r"\.py:\w+$", name) is not None


def load(path: str) -> Source:
    """Run a Python file as a module of its own.

    Raises:
        ConfigError: there is no such file, or running it fails; the message names the line.
    """
    file = Path(path).expanduser().resolve()
    if file in _LOADED:
        return _LOADED[file]
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"a Python file must be readable, got {path}: {error.strerror}.") from error
    sha256 = digest(content)
    # Dataclasses look their annotations up in the module of their name.
    name = f"_{re.sub(r'[^A-Za-z0-9]', '_', file.stem)}_{digest(str(file).encode())[:8]}"
    module = ModuleType(name)
    module.__file__ = str(file)
    sys.modules[name] = module
    try:
        exec(compile(content, str(file), "exec"), module.__dict__)
    except Exception as error:
        del sys.modules[name]
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        said = (str(error).splitlines() or [""])[0]
        raise ConfigError(
            f"a Python file must run without errors, got {type(error).__name__} in line {line} of {path}: {said}"
        ) from error
    _LOADED[file] = Source(file, sha256, module)
    return _LOADED[file]


def load_object(place: str) -> tuple[Any, Source]:
    """The object at ``FILE.py:NAME``, and its file.

    Raises:
        ConfigError: as `load`, or the file defines no such name.
    """
    path, _, name = place.rpartition(":")
    source = load(path)
    if not hasattr(source.module, name):
        known = [n for n in vars(source.module) if not n.startswith("_")]
        raise ConfigError(
            f"{path} must define {name}, it does not{closest(name, known)}: give FILE.py:NAME of what it defines."
        )
    return getattr(source.module, name), source
