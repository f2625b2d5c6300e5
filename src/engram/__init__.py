"""Continual learning that remembers without keeping the old data.

>>> import engram
>>> data = engram.load("digits")
>>> stream = engram.class_incremental(data, n_tasks=10)
>>> result = engram.run(stream, spec=engram.method("finetune"))  # doctest: +SKIP

Names are imported when they are first used, so that ``import engram`` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engram.api import compare as compare
    from engram.api import run as run
    from engram.api import sweep as sweep
    from engram.api import tradeoff as tradeoff
    from engram.errors import CheckpointError as CheckpointError
    from engram.errors import ConfigError as ConfigError
    from engram.errors import DataError as DataError
    from engram.errors import DivergedError as DivergedError
    from engram.errors import EngramError as EngramError
    from engram.errors import PlaceError as PlaceError
    from engram.errors import StrictnessError as StrictnessError
    from engram.features import fixed_features as fixed_features
    from engram.learning.learner import Learner as Learner
    from engram.memory.estimator import MemoryClassifier as MemoryClassifier
    from engram.memory.memory import Memory as Memory
    from engram.methods.registry import method as method
    from engram.report import write_report as write_report
    from engram.streams import class_incremental as class_incremental
    from engram.streams import from_arrays as from_arrays
    from engram.streams import load as load
    from engram.streams import permuted as permuted
    from engram.streams import rotated as rotated
    from engram.streams import sequence as sequence
    from engram.studies.settings import DataSettings as DataSettings
    from engram.studies.settings import FeatureSettings as FeatureSettings
    from engram.studies.settings import NetworkSettings as NetworkSettings

__version__ = "0.1.0"

_HOMES = {
    "load": "engram.streams",
    "from_arrays": "engram.streams",
    "class_incremental": "engram.streams",
    "permuted": "engram.streams",
    "rotated": "engram.streams",
    "sequence": "engram.streams",
    "Learner": "engram.learning.learner",
    "Memory": "engram.memory.memory",
    "MemoryClassifier": "engram.memory.estimator",
    "run": "engram.api",
    "compare": "engram.api",
    "sweep": "engram.api",
    "tradeoff": "engram.api",
    "method": "engram.methods.registry",
    "fixed_features": "engram.features",
    "write_report": "engram.report",
    "DataSettings": "engram.studies.settings",
    "FeatureSettings": "engram.studies.settings",
    "NetworkSettings": "engram.studies.settings",
    "EngramError": "engram.errors",
    "ConfigError": "engram.errors",
    "DataError": "engram.errors",
    "PlaceError": "engram.errors",
    "StrictnessError": "engram.errors",
    "CheckpointError": "engram.errors",
    "DivergedError": "engram.errors",
}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'engram' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
