"""What happens while a task is learned: losses, updates, and heads that grow."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from engram.checks.bench import Bench, Look, check, look
from engram.checks.comparing import (
    copied,
    differing,
    generators,
    running_statistics,
    same,
    set_generators,
    shown,
)
from engram.checks.failure import CheckFailure, require
from engram.checks.streams import tiny_stream
from engram.core.contract import Batch, Step, TaskInfo, Terms, Update
from engram.streams import Samples


@look
def phases_and_players_are_asked_freely(seen: Look) -> None:
    """Asking for phases or players sets nothing: the loop asks again after each phase and on resume."""
    method = seen.method

    def attributes() -> dict[str, Any]:
        return {
            f"{name}.{key}".lstrip("."): value
            for name, module in method.named_modules()
            for key, value in vars(module).items()
            if not key.startswith("_")
            and not isinstance(getattr(type(module), key, None), functools.cached_property)
        }

    def asked(function: Callable[..., Any], *arguments: Any) -> Any:
        state, held = copied(method.state_dict()), attributes()
        answer = function(*arguments)
        changed = [k for k, v in attributes().items() if k not in held or held[k] is not v]
        changed += differing(state, method.state_dict())
        require(
            not changed,
            "phases() and players() set nothing",
            f"changed: {shown(changed)}",
            "change state at the seven moments, ask step.task in a loss, name by an underscore what can be recomputed",
        )
        return answer

    seen.around("phases", asked)
    seen.around("players", asked)


@look
def losses_are_pure_and_finite(seen: Look) -> None:
    """Every loss gives the same finite terms twice and changes nothing but running statistics."""
    method = seen.method

    def twice(loss: Callable[..., Terms], update: Update, batch: Batch, step: Step) -> Terms:
        where = f"the loss of update {update.name!r} (task {step.task.index}, phase {step.phase!r})"
        before, rng = copied(method.state_dict()), generators()
        inputs = [batch.x, batch.y, *batch.noise.values()]
        held = [t.clone() for t in inputs]
        structure = json.dumps(method.structure(), sort_keys=True)
        first = {k: v.detach().clone() for k, v in loss(batch, step).items()}
        after = copied(method.state_dict())
        statistics = running_statistics(method)
        moved = [k for k in differing(before, after) if k not in statistics]
        require(
            not moved and structure == json.dumps(method.structure(), sort_keys=True),
            f"{where} changes no state but running statistics",
            f"changed: {shown(moved) or 'the structure'}",
            "change state at the seven moments only",
        )
        require(
            all(same(a, b) for a, b in zip(inputs, held, strict=True)),
            f"{where} leaves its batch as it is",
            "the batch was written to",
            "use out-of-place operations on batch.x, batch.y and noise",
        )
        with torch.no_grad():
            for name, buffer in statistics.items():
                buffer.copy_(before[name])
        set_generators(rng)
        terms = loss(batch, step)
        found = {k: v.detach() for k, v in terms.items()}
        require(
            set(first) == set(found) and all(same(first[k], found[k]) for k in found),
            f"{where} is a function of batch, step and state",
            f"{_numbers(first)} and then {_numbers(found)} for the same arguments",
            "draw from batch.noise, keep no counters",
        )
        require(
            all(v.dim() == 0 and bool(torch.isfinite(v)) for v in found.values()) and bool(found),
            f"{where} gives finite scalars",
            str(_numbers(found)),
            "guard logarithms, roots and divisions",
        )
        return terms

    seen.around_losses(twice)


def _numbers(terms: Mapping[str, Tensor]) -> dict[str, Any]:
    return {k: v.tolist() for k, v in terms.items()}


@look
def updates_move_their_player_only(seen: Look) -> None:
    """An update moves parameters of its player, and no others."""
    method = seen.method
    held: dict[str, Any] = {}

    def verify(allowed: Collection[str]) -> None:
        if not held:
            return
        now = {n: p.detach() for n, p in method.named_parameters()}
        moved = [n for n in differing(held["before"], now) if n not in allowed]
        require(
            not moved,
            f"update {held['update'].name!r} moves parameters of player {held['update'].player!r} only",
            f"moved: {shown(moved)}",
            "name in players() what an update may move, and change other state at the end moments",
        )
        held.clear()

    def begun(loss: Callable[..., Terms], update: Update, batch: Batch, step: Step) -> Terms:
        verify(())  # the update before this one did not step, so that nothing may have moved
        held.update(
            update=update,
            before={n: p.detach().clone() for n, p in method.named_parameters()},
            allowed=set(method.players(step.task, step.phase)[str(update.player)].parameters),
        )
        return loss(batch, step)

    def stepped(after_step: Callable[..., None], player: str, step: Step) -> None:
        after_step(player, step)
        verify(held["allowed"])

    seen.around_losses(begun)
    seen.around("after_step", stepped)


@look
def growing_keeps_old_logits(seen: Look) -> None:
    """When a new task begins, logits of the old classes are what they were."""

    def begun(begin: Callable[..., None], task: TaskInfo, data: Samples) -> None:
        if task.index == 0:
            begin(task, data)
            return
        x, old = seen.bench.inputs(0), seen.asked(0)
        before = seen.method.predict(x, task=old)
        begin(task, data)
        kept = seen.method.predict(x, task=old)[:, : before.shape[1]]
        require(
            kept.shape == before.shape and bool(torch.allclose(kept, before, rtol=1e-4, atol=1e-6)),
            "growing for new classes keeps the logits of the old ones",
            f"they changed when task {task.index} began",
            "append rows and keep the old ones, or name the reason in skip",
        )

    seen.around("begin_task", begun)


@check
def any_labels_and_task_sizes_work(bench: Bench) -> None:
    """Original labels may be any integers in any order, and tasks may differ in size."""
    if bench.stream.label_space == "shared":
        return
    # Tasks of a bench that differ in size show it already.
    if len({len(task.classes) for task in bench.stream.tasks}) == 1:
        other = tiny_stream((2, 1, 2), seed=3)
        if bench.stream.image_shape != other.image_shape:
            return
        bench = dataclasses.replace(bench, stream=other)
    must, advice = (
        "tasks may have any number of classes",
        "take the classes of a task from task.start and task.stop",
    )
    try:
        confusion = torch.tensor(bench.reference.result["confusion"])
    except CheckFailure:
        raise
    except (RuntimeError, ValueError, IndexError) as error:
        raise CheckFailure(f"{must}; found: {type(error).__name__}: {error}; {advice}.") from error
    y = torch.cat([bench.stream.test(t).y for t in range(bench.stream.n_tasks)])
    counts = y.bincount(minlength=bench.stream.n_classes)
    require(
        bool((confusion.sum(1) == counts).all()),
        "every test sample of every class seen gets an answer",
        f"{confusion.sum(1).tolist()} answers for {counts.tolist()} samples",
        "answer for all classes seen",
    )
