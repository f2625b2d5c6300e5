"""The part of a run that comes before its method's trade-off option matters, trained once for several runs.

A *common start* is a run like any other that ends at the fork: when the second task would begin, or after all epochs
of the phase that the method names (see :class:`engram.core.contract.Tradeoff`). Its checkpoints carry the identity of
a run without the option, so that any run that differs from it in the option only can begin from them. What follows is
bit for bit what it would have been, as after any resume, and so is the record. Seconds of the common start count in
each run's own, since each would have needed them.

Departures: none (no paper). Cost: a process, and a checkpoint more for each run.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.core.contract import Tradeoff
from engram.errors import CheckpointError
from engram.learning.checkpoint import Checkpoints
from engram.learning.state import Cursor
from engram.streams.guard import Guard

if TYPE_CHECKING:
    from engram.protocols.session import Session


def common_identity(tradeoff: Tradeoff, identity: Mapping[str, Any]) -> dict[str, Any]:
    """A run's identity without the trade-off option, and with the fork."""
    method = identity["method"]
    options = {k: v for k, v in method["options"].items() if k != tradeoff.option}
    fork = {"option": tradeoff.option, "after": tradeoff.after}
    return {**identity, "method": {**method, "options": options}, "common": fork}


def at_fork(session: Session) -> bool:
    """Whether the run stands where the option begins to matter, or beyond; asked between epochs and tasks.

    Where the second task has no phase of the name that the method gives, the fork is where that task begins.
    """
    cursor, tradeoff = session.state.cursor, session.method.tradeoff
    if cursor.task == 0 or tradeoff is None:
        return False
    if tradeoff.after is None or cursor.task >= session.stream.n_tasks or cursor.task > 1:
        return True
    task, method = session.protocol.task(session.stream, 1), session.method
    guard = Guard(session.stream, method.reads)
    guard.begin(1)
    data = guard.training_data(1)
    if cursor.phase == 0 and cursor.epochs == 0:
        # Phases are known when a task has begun, and the loop begins it: a copy is asked.
        method = copy.deepcopy(method)
        method.begin_task(task, data)
    phases = method.phases(task, len(data))
    names = [phase.name for phase in phases]
    if tradeoff.after not in names:
        return True
    before = phases[cursor.phase : names.index(tradeoff.after) + 1]
    return sum(phase.epochs for phase in before) <= cursor.epochs


def n_tasks(session: Session) -> int:
    """Tasks that a common start begins."""
    tradeoff = session.method.tradeoff
    begun = 1 if tradeoff is None or tradeoff.after is None else 2
    return min(begun, session.stream.n_tasks)


def learn_start(session: Session) -> None:
    """Train up to the fork, if the run does not stand there."""
    if not at_fork(session):
        session.go(lambda event: at_fork(session))


def open_start(session: Session, folder: Path) -> None:
    """Have a session that has not begun keep its checkpoints as a common start's, and continue one that is there.

    A start whose checkpoints are damaged, or another run's, begins anew; that is said.
    """
    session.checkpoints = _checkpoints(session, folder)
    try:
        session.restore(session.checkpoints)
    except CheckpointError as error:
        warnings.warn(_unusable(error, "it begins anew"), stacklevel=2)


def begin_from(session: Session, folder: Path) -> None:
    """Let a run that has no checkpoint begin where the common start in ``folder`` stands, and write its first one.

    A common start that was cut off gives what it has. One that is damaged, or another run's, gives nothing: the run
    begins from nothing, and that is said.
    """
    if session.state.cursor != Cursor():
        return
    try:
        if session.restore(_checkpoints(session, folder), shared=True):
            session.save()
    except CheckpointError as error:
        warnings.warn(_unusable(error, "the run begins from nothing"), stacklevel=2)


def _unusable(error: CheckpointError, what_now: str) -> str:
    why, _, _ = str(error).rpartition(": ")  # its advice is for a run's own checkpoints
    return f"a common start must be whole and of the same run, it is not ({why}): {what_now}."


def _checkpoints(session: Session, folder: Path) -> Checkpoints:
    tradeoff, own = session.method.tradeoff, session.checkpoints
    if tradeoff is None or own is None:
        raise CheckpointError(
            f"a common start needs a method with a trade-off option, {type(session.method).__name__} has none."
        )
    return Checkpoints(folder / "checkpoints", common_identity(tradeoff, own.identity))
