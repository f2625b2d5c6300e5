"""What lasts is tensors: they survive files, a rebuilt method, other types and devices."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from engram.checks.bench import Event, Look, look
from engram.checks.comparing import differing, first_difference, same, shown, through_json
from engram.checks.failure import CheckFailure, require


@look
def structure_rebuilds_the_state(seen: Look) -> None:
    """Always, structure() is JSON and rebuild() makes a method of the same keys and shapes."""

    def after_event(event: Event) -> None:
        method = seen.method
        structure = through_json(method.structure(), "structure()")
        fresh = seen.bench.build()
        must = "rebuild(structure()) makes a fresh method with the same state keys, shapes and types"
        try:
            fresh.rebuild(structure)
        except Exception as error:
            raise CheckFailure(
                f"{must}; found: {type(error).__name__}: {error}; see Method.rebuild."
            ) from error
        want = {k: (v.dtype, tuple(v.shape)) for k, v in method.state_dict().items()}
        have = {k: (v.dtype, tuple(v.shape)) for k, v in fresh.state_dict().items()}
        wrong = [k for k in {**want, **have} if want.get(k) != have.get(k)]
        require(not wrong, must, f"they differ in {shown(wrong)}", "give structure() all sizes that change")
        frozen = {n: p.requires_grad for n, p in method.named_parameters()}
        thawed = {n: p.requires_grad for n, p in fresh.named_parameters()}
        require(
            frozen == thawed,
            "rebuild() makes the same parameters trainable",
            f"requires_grad differs in {shown([n for n in frozen if frozen[n] != thawed[n]])}",
            "freeze in rebuild() what is frozen",
        )
        require(
            not first_difference(structure, through_json(fresh.structure(), "structure()")),
            "a rebuilt method has the structure that it was rebuilt from",
            first_difference(structure, through_json(fresh.structure(), "structure()")),
            "restore all of it in rebuild()",
        )

    seen.each_event(after_event)


@look
def state_is_tensors(seen: Look) -> None:
    """State is in tensors that survive safetensors strictly; none hides in a plain attribute."""

    def after_task(index: int) -> None:
        method = seen.method
        hidden = [
            f"{name}.{key}".lstrip(".")
            for name, module in method.named_modules()
            for key, value in vars(module).items()
            if not key.startswith("_")
            and key not in ("config", "context")
            and not isinstance(getattr(type(module), key, None), functools.cached_property)
            and _holds_tensor(value)
        ]
        require(
            not hidden,
            "what lasts is a parameter, a buffer or a submodule",
            f"tensors in plain attributes {shown(hidden)}",
            "use register_buffer, or a leading underscore for what can be recomputed",
        )
        content = save_tensors({k: v.detach().contiguous().clone() for k, v in method.state_dict().items()})
        fresh = seen.bench.build()
        fresh.rebuild(json.loads(json.dumps(method.structure(), sort_keys=True)))
        fresh.load_state_dict(load_tensors(content), strict=True)
        fresh.to(seen.bench.device)
        wrong = differing(method.state_dict(), fresh.state_dict())
        require(not wrong, "the state survives safetensors", f"{shown(wrong)} differ", "keep plain tensors")
        task, x = seen.asked(index), seen.bench.inputs(index)
        require(
            same(method.predict(x, task=task), fresh.predict(x, task=task)),
            "a method loaded from its structure and tensors predicts as before",
            "its logits differ",
            "keep all that predict uses in the state",
        )

    seen.each_task(after_task)


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, (Tensor, nn.Module)):
        return True
    if isinstance(value, Mapping):
        return any(_holds_tensor(v) for v in value.values())
    return isinstance(value, (list, tuple, set)) and any(_holds_tensor(v) for v in value)


@look
def state_moves(seen: Look) -> None:
    """A trained method predicts the same in float64, and on an accelerator where there is one."""

    def after_run() -> None:
        method, last = seen.method, seen.bench.stream.n_tasks - 1
        task, x = seen.asked(last), seen.bench.inputs(last)
        logits = method.predict(x, task=task)
        wide = copy.deepcopy(method).double()
        try:
            found = wide.predict(x.double(), task=task)
        except RuntimeError as error:
            raise CheckFailure(
                f"a method survives .double(); found: {error}; make new tensors like old ones."
            ) from error
        require(
            found.dtype == torch.float64
            and bool(torch.allclose(found.float(), logits, rtol=1e-3, atol=1e-4)),
            "a method predicts the same in float64",
            f"{found.dtype}, largest difference {_distance(found, logits):.3g}",
            "make new tensors in the type of old ones",
        )
        if torch.cuda.is_available():
            found = copy.deepcopy(method).to("cuda").predict(x.to("cuda"), task=task)
            require(
                found.device.type == "cuda"
                and bool(torch.allclose(found.cpu(), logits.cpu(), rtol=1e-2, atol=1e-2)),
                "a method predicts the same on another device",
                f"on {found.device}",
                "make new tensors on the device of old ones",
            )

    seen.end(after_run)


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a.detach().float() - b.detach()).nan_to_num().abs().max())
