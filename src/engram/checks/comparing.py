"""Whether two states or two results are the same, and where they are not."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engram.checks.failure import CheckFailure, require

State = dict[str, Tensor]


def copied(state: Mapping[str, Tensor]) -> State:
    """A state dict's tensors, copied."""
    return {k: v.detach().clone() for k, v in state.items()}


def differing(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> list[str]:
    """Names that are in one only, or whose tensors are not bitwise equal (NaN equals NaN)."""
    return [k for k in {**a, **b} if k not in a or k not in b or not same(a[k], b[k])]


def same(a: Tensor, b: Tensor) -> bool:
    """Bitwise equality of two tensors, shape and type included, on any devices."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return bool(torch.equal(_bits(a).cpu(), _bits(b).cpu()))


def _bits(x: Tensor) -> Tensor:
    return x.detach().contiguous().reshape(-1).view(torch.uint8) if x.numel() else x.reshape(-1)


def generators() -> Tensor:
    """The states of torch's global generators: the processor's, and the accelerator's where it is in use."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states.append(torch.cuda.get_rng_state())
    return torch.cat(states)


def set_generators(states: Tensor) -> None:
    """Put back what :func:`generators` gave."""
    n = len(torch.get_rng_state())
    torch.set_rng_state(states[:n])
    if len(states) > n:
        torch.cuda.set_rng_state(states[n:])


def shown(names: Collection[str]) -> str:
    """A list of names, at most three of them spelled out."""
    few = sorted(names)[:3]
    return ", ".join(few) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def timeless(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A seed's result without what no run can repeat: times, peak memory, a checksum of these, places of images."""
    dropped = {"seconds", "seconds_per_task", "seconds_other", "seconds_checkpoints", "other", "checkpoints"}
    dropped |= {"peak_memory_bytes", "samples", "mistakes", "sha256"}
    kept = {k: v for k, v in entry.items() if k not in dropped}
    if kept.get("tasks") is not None:
        kept["tasks"] = [{k: v for k, v in t.items() if k != "seconds"} for t in kept["tasks"]]
    return json.loads(json.dumps(kept))


def first_difference(a: Any, b: Any, where: str = "") -> str:
    """Where two JSON values differ, in words; empty when they do not."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in {**a, **b}:
            found = first_difference(a.get(key), b.get(key), f"{where}.{key}" if where else str(key))
            if found:
                return found
        return ""
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            found = first_difference(x, y, f"{where}[{i}]")
            if found:
                return found
        return ""
    # NaN cannot be told from itself by ==.
    return "" if a == b or repr(a) == repr(b) else f"{where}: {a!r} and {b!r}"


def running_statistics(module: nn.Module) -> State:
    """The buffers that a pure loss may move: running statistics of normalisation layers, by name."""
    return {
        f"{name}.{key}" if name else key: value
        for name, m in module.named_modules()
        if isinstance(m, _BatchNorm)
        for key, value in m.named_buffers(recurse=False)
    }


def through_json(value: Any, what: str) -> Any:
    """The value after a trip through JSON as checkpoints make it; raises where it does not survive."""
    try:
        text = json.dumps(value, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise CheckFailure(
            f"{what} is JSON; found: {error}; use numbers, strings, lists and mappings."
        ) from error
    back = json.loads(text)
    plain = first_difference(json.loads(json.dumps(value)), back)
    require(not plain, f"{what} survives JSON", plain, "use string keys and lists")
    return back
