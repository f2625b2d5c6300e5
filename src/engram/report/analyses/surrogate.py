"""Fig. 1 and 2 of the SI paper on a small problem: the surrogate loss beside the true one, along the path.

F. Zenke, B. Poole, S. Ganguli: "Continual Learning Through Synaptic Intelligence", ICML 2017 (arXiv 1703.04200), Sec.
3. The surrogate of a task that has ended is  L(theta~) + sum_k Omega_k (theta_k - theta~_k)^2,  with Omega from this
task alone and theta~ where it ended: the value and the place of its minimum are those of the path's end, and its drop
from the start of the path is that of the loss, up to xi and the step size. Away from the path it is a guess.

Departures: the paper's figures are sketches; this is a measurement, on the 8x8 digits and then their pixels in another
order, with a perceptron and full-batch gradient descent, so that the path integral is nearly exact.
Cost: some seconds on one core.

    python -m engram.report.analyses.surrogate DIR
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from engram.core.files import with_checksum, write_atomically
from engram.errors import EngramError
from engram.learning.loop import EpochEnd
from engram.methods.registry import method
from engram.methods.si import Si
from engram.networks import Mlp
from engram.protocols.session import Session, TaskEnd, resolve
from engram.report.analyses.paths import FILE, Paths, surrogate_figure
from engram.report.style import write
from engram.streams import Stream, load, permuted

__all__ = ["measure"]

State = dict[str, Tensor]


def measure(
    stream: Stream | None = None,
    *,
    hidden: tuple[int, ...] = (32,),
    c: float = 1.0,
    xi: float = 1e-3,
    lr: float = 0.2,
    steps: int = 300,
    seed: int = 0,
) -> Paths:
    """Learn two tasks with and without the penalty, and evaluate losses and surrogate after each step.

    Args:
        stream: domain-incremental, at least two tasks; by default the 8x8 digits and a permutation of them.
        hidden: widths of the perceptron.
        c, xi: of SI.
        lr, steps: of gradient descent on the whole task, each task.
        seed: of the run.
    """
    stream = stream if stream is not None else _digits()
    with_penalty, held, importance = _path(stream, hidden, c, xi, lr, steps, seed)
    without, _, _ = _path(stream, hidden, 0.0, xi, lr, steps, seed)
    data = [stream.train(i) for i in range(2)]

    def loss(state: State, task: int) -> float:
        with torch.no_grad():
            x = held.context.network.normalise(data[task].x)
            logits = torch.func.functional_call(held.net, state, (x, (0, stream.n_classes)))
            return float(F.cross_entropy(logits, data[task].y))

    end = with_penalty[steps]
    at_end = loss(end, 0)

    def surrogate(state: State) -> float:
        terms = (importance[k] * (state[k] - end[k]).square() for k in importance)
        return at_end + sum(float(t.double().sum()) for t in terms)

    first, second, free = with_penalty[: steps + 1], with_penalty[steps:], without[steps:]
    return Paths(
        c, xi, lr, steps, seed, stream.name,
        [loss(s, 0) for s in first], [surrogate(s) for s in first],
        [loss(s, 0) for s in second], [surrogate(s) for s in second], [loss(s, 1) for s in second],
        [loss(s, 0) for s in free], [loss(s, 1) for s in free],
    )  # fmt: skip


def _digits() -> Stream:
    return permuted(load("digits"), 2)


def _path(
    stream: Stream, hidden: tuple[int, ...], c: float, xi: float, lr: float, steps: int, seed: int
) -> tuple[list[State], Si, State]:
    """Parameters at the start and after each step of the first two tasks, the method, and Omega of the first task."""
    n = max(task.n_train for task in stream.tasks)
    options: dict[str, Any] = {
        "c": c,
        "xi": xi,
        "epochs": steps,
        "batch_size": n,
        "optimiser": "sgd",
        "lr": lr,
    }
    network, spec, protocol = resolve(stream, Mlp(hidden), method("si", options), "domain")
    states: list[State] = []
    importance: State = {}
    held: list[Si] = []

    def copy(tensors: Any) -> State:
        return {name.removeprefix("net."): t.detach().clone() for name, t in tensors}

    def seen(event: EpochEnd | TaskEnd) -> None:
        si = held[0]
        if isinstance(event, TaskEnd):
            if event.task == 0:
                importance.update(copy((k, si.importance[k]) for k in si.importance.names))
            return
        if not states:  # the reference of the first task is where it started
            states.append(copy((k, si.reference[k]) for k in si.reference.names))
        states.append(copy(si.named_parameters()))

    session = Session(
        stream, network, spec, protocol, seed=seed, device="cpu", out=None, resume=False, observer=seen
    )
    if not isinstance(session.method, Si):
        raise TypeError("the method must be SI")
    held.append(session.method)
    session.go(lambda event: isinstance(event, TaskEnd) and event.task == 1)
    return states, held[0], importance


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write ``surrogate.json`` and the figure; a report of the same folder shows it too."""
    parser = argparse.ArgumentParser(
        prog="python -m engram.report.analyses.surrogate", description=__doc__.split("\n")[0]
    )
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    try:
        paths = measure(steps=given.steps, seed=given.seed)
        given.folder.mkdir(parents=True, exist_ok=True)
    except (EngramError, OSError) as error:
        print(f"engram: {error}", file=sys.stderr)
        return 2
    write_atomically(given.folder / FILE, json.dumps(with_checksum(asdict(paths))).encode())
    write(surrogate_figure(paths), given.folder / "figures" / "surrogate")
    drop, claimed = (v[0] - v[-1] for v in (paths.first_true, paths.first_surrogate))
    print(f"task 1: drop of the loss {drop:.4f}, of the surrogate {claimed:.4f} nats")
    print(
        f"after task 2: loss of task 1 {paths.second_true[-1]:.4f}, without penalty {paths.free_true[-1]:.4f}"
    )
    print(f"Written: {given.folder / FILE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
