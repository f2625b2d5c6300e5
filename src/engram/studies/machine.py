"""What processes of this machine are like."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

import engram


def default_jobs(device: str) -> int:
    """As many processes as cores on a CPU, one on an accelerator."""
    if not device.startswith("cpu"):
        return 1
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def environment(device: str = "cpu") -> dict[str, str]:
    """The environment of a process of ours: one thread on a CPU, and this very package."""
    env = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
    if device.startswith("cpu"):
        env |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    root = str(Path(engram.__file__).resolve().parent.parent)
    if root not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        env["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [env.get("PYTHONPATH")])])
    return env
