"""The only training loop. It names no method.

A step runs the phase's updates in order; an update is: batch and noise, loss, gradient of its sum with respect to its
player's parameters, ``after_backward``, optimiser step, ``after_step``. Nothing else.

Everything random is a function of (seed, task, phase, epoch), so an epoch is the unit of resume: a checkpoint holds
tensors and three integers, no generator state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from engram import seeds
from engram.core.contract import Batch, Method, Phase, Player, Samples, Step, TaskInfo, Terms, Update
from engram.core.options import Compile, Precision
from engram.errors import ConfigError, DivergedError
from engram.learning.capturing import TakeStep
from engram.learning.compiling import Compiled
from engram.learning.feeder import Feeder
from engram.learning.optimisers import Stepper
from engram.learning.precision import lowered
from engram.learning.state import LoopState


@dataclass(frozen=True)
class EpochEnd:
    """Told after each epoch: mean losses over its steps by ``update/term``, and the method's own measures."""

    task: int
    phase: str
    phase_index: int
    epoch: int
    n_epochs: int
    losses: dict[str, float]
    measures: dict[str, Any]


def _laid_out_as(p: Tensor, g: Tensor) -> Tensor:
    """The gradient with the parameter's strides: fused optimisers read both in order of memory.

    ``torch.autograd.grad`` returns what the kernels left, which for the double backward of a convolution is permuted.
    """
    return g if g.stride() == p.stride() else torch.empty_like(p).copy_(g)


def gradients(
    update: Update, player: Player, batch: Batch, step: Step
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Terms (detached) and the gradient of their sum by parameter name, for one update."""
    terms = update.loss(batch, step)
    total = terms[next(iter(terms))] if len(terms) == 1 else torch.stack(list(terms.values())).sum()
    parameters = list(player.parameters.values())
    raw = torch.autograd.grad(total, parameters, allow_unused=True)
    grads = {
        name: (torch.zeros_like(p) if g is None else _laid_out_as(p, g))
        for (name, p), g in zip(player.parameters.items(), raw, strict=True)
        if g is not None or player.zero_unused
    }
    return {k: v.detach() for k, v in terms.items()}, grads


def take_step(
    method: Method, update: Update, player: Player, optimiser: Stepper, batch: Batch, step: Step
) -> Terms:
    """One update: loss, gradient, ``after_backward``, optimiser step, ``after_step``. Returns the terms."""
    moved, (terms, grads) = cast(str, update.player), gradients(update, player, batch, step)
    method.after_backward(moved, grads, step)
    if update.step:
        if player.clip_norm is not None:
            clip(grads, player.clip_norm)
        optimiser.step(grads)
        method.after_step(moved, step)
    return terms


def clip(grads: dict[str, Tensor], bound: float) -> None:
    """Scale all gradients together, in place, so that their joint norm is at most ``bound``."""
    values = list(grads.values())
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(values)))
    torch._foreach_mul_(values, (bound / (norm + 1e-6)).clamp(max=1.0))


def train_task(
    method: Method,
    task: TaskInfo,
    data: Samples,
    state: LoopState,
    seed: int,
    *,
    on_epoch: Callable[[EpochEnd], None] | None = None,
    compile: Compile = "eager",
    precision: Precision = "float32",
) -> None:
    """Learn one task, or what is left of it according to ``state.cursor``.

    Args:
        method: moved in place.
        task: its numbers.
        data: its training samples, on the method's device.
        state: cursor and optimiser states, moved in place; when the task is learned its cursor stands at the next.
        seed: of the run.
        compile: how steps are made graphs, see :mod:`engram.learning.compiling`.
        precision: of the losses, see :mod:`engram.learning.precision`.
        on_epoch: told after each epoch, when ``state`` and ``method`` are ready to be stored.

    Raises:
        DivergedError: a loss or a parameter is not finite after an epoch; ``state`` and files are left as they were.
    """
    cursor = state.cursor
    if cursor.phase == 0 and cursor.epochs == 0:
        method.begin_task(task, data)
        _settled(method, data)
    phases = method.phases(task, len(data))
    while cursor.phase < len(phases):
        phase = phases[cursor.phase]
        if cursor.epochs == 0:
            method.begin_phase(task, phase.name)
            _settled(method, data)
        run_phase(method, task, phase, data, state, seed, on_epoch, compile=compile, precision=precision)
        method.end_phase(task, phase.name)
        _settled(method, data)
        cursor.phase, cursor.epochs = cursor.phase + 1, 0
        phases = _asked_again(method, task, phases[: cursor.phase], len(data))
    method.end_task(task, data)
    _settled(method, data)
    cursor.task, cursor.phase, cursor.epochs = cursor.task + 1, 0, 0


def _settled(method: Method, data: Samples) -> None:
    """After a moment: what it made is moved to the data's device, what was cached is forgotten."""
    method.to(data.x.device)
    method.forget_cached()


def _asked_again(
    method: Method, task: TaskInfo, done: tuple[Phase, ...], n_samples: int
) -> tuple[Phase, ...]:
    """The task's phases, of which those that are done must be the same as before."""
    phases = method.phases(task, n_samples)
    before, now = ([p.name for p in some] for some in (done, phases[: len(done)]))
    if before != now:
        raise ConfigError(
            f"phases that are done must stay first when phases() is asked again, got {now} after {before}: change "
            "later phases only."
        )
    return phases


def run_phase(
    method: Method,
    task: TaskInfo,
    phase: Phase,
    data: Samples,
    state: LoopState,
    seed: int,
    on_epoch: Callable[[EpochEnd], None] | None,
    *,
    compile: Compile = "eager",
    precision: Precision = "float32",
) -> None:
    """The epochs of one phase that are not done yet."""
    cursor, phase = state.cursor, lowered(phase, precision)
    players = method.players(task, phase.name)
    optimisers = {name: Stepper.of(p) for name, p in players.items()}
    for name, player in players.items():
        if cursor.epochs > 0 or player.keep_state:
            optimisers[name].load(state.optimisers.get(name, {}))
    takes = take_step if compile == "eager" else Compiled(take_step, compile, phase, data.x.device)
    pools: dict[str, Samples] = {}
    while cursor.epochs < phase.epochs:
        if cursor.epochs and phase.until is not None and phase.until():
            break
        epoch = cursor.epochs
        names = (task.index, phase.name, epoch)
        if not pools or phase.refresh == "epoch":
            # Drawn once a phase: named by epoch 0, so that a resume in the middle draws the same.
            drawn = epoch if phase.refresh == "epoch" else 0
            pools = {"task": data, **method.pools(task, phase.name, drawn, data)}
        feeder = Feeder(phase, pools, method.context.network.normalise, seed, names)
        for name, player in players.items():
            optimisers[name].lr = player.optimiser.rate(epoch, phase.epochs)
        at = Step(task, phase.name, epoch, phase.epochs, 0, feeder.n_steps)
        with seeds.seeded(seed, "epoch", *names):
            sums = _epoch(method, phase, players, optimisers, feeder, at, takes)
        losses = {key: value / feeder.n_steps for key, value in sums.items()}
        _check_finite(method, losses, players, task, phase, epoch)
        cursor.epochs = epoch + 1
        state.optimisers.update({name: optimiser.state for name, optimiser in optimisers.items()})
        done = replace(at, step=feeder.n_steps - 1)
        method.end_epoch(done, data)
        _settled(method, data)
        if on_epoch is not None:
            on_epoch(
                EpochEnd(
                    task.index, phase.name, cursor.phase, epoch, phase.epochs, losses, method.measures(done)
                )
            )
    for name, player in players.items():
        if not player.keep_state:  # moments of gradients are not needed again, and can show single images
            state.optimisers.pop(name, None)


def _epoch(
    method: Method,
    phase: Phase,
    players: Mapping[str, Player],
    optimisers: Mapping[str, Stepper],
    feeder: Feeder,
    at: Step,
    takes: TakeStep,
) -> dict[str, float]:
    sums: dict[str, Tensor] = {}
    method.train()
    for i in range(feeder.n_steps):
        step = replace(at, step=i)
        for update in phase.updates:
            batch = feeder.batch(update, i)
            if update.player is None:
                with torch.no_grad():
                    terms = update.loss(batch, step)
            else:
                player, optimiser = players[update.player], optimisers[update.player]
                terms = takes(method, update, player, optimiser, batch, step)
            method.forget_cached()
            for key, value in terms.items():
                key = f"{update.name}/{key}"
                sums[key] = sums[key] + value if key in sums else value
    # Chunks of one pool share a name; the mean is over steps and chunks.
    count: dict[str, int] = {}
    for update in phase.updates:
        count[update.name] = count.get(update.name, 0) + 1
    return {key: float(value) / count[key.split("/")[0]] for key, value in sums.items()}


def _check_finite(
    method: Method,
    losses: Mapping[str, float],
    players: Mapping[str, Player],
    task: TaskInfo,
    phase: Phase,
    epoch: int,
) -> None:
    bad = [key for key, value in losses.items() if not math.isfinite(value)]
    if not bad:
        # Those that move: a method may keep a network for each task.
        named = {name: p for player in players.values() for name, p in player.parameters.items()}
        finite = [torch.isfinite(p).all() for p in named.values()]
        # One question: an accelerator is waited for with each.
        if finite and not bool(torch.stack(finite).all()):
            bad = [n for n, good in zip(named, finite, strict=True) if not good]
    if bad:
        shown = ", ".join(bad[:3]) + (", ..." if len(bad) > 3 else "")
        option = method.tradeoff.option if method.tradeoff is not None and task.index else None
        lower = "the learning rate" + (f", or the option {option}" if option else "")
        raise DivergedError(
            f"losses and parameters must be finite, {shown} are not after epoch {epoch + 1} of phase {phase.name!r} "
            f"of task {task.index + 1}: lower {lower}."
        )
