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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engram.core.files import write_atomically
from engram.errors import EngramError
from engram.report.style import COLOURS, LINES, WIDTH, new_figure, save, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from engram.methods.si import Si
    from engram.streams import Stream

__all__ = ["FILE", "Paths", "measure", "read", "surrogate_figure"]

FILE = "surrogate.json"
State = dict[str, "Tensor"]


@dataclass(frozen=True)
class Paths:
    """Losses in nats after each step, the start included; ``first`` and ``second`` name the task being trained.

    Args:
        c, xi, lr, steps, seed: of the runs.
        data: what was learned.
        first_true, first_surrogate: loss of task 1 and its surrogate while task 1 is trained.
        second_true, second_surrogate: the same while task 2 is trained with the penalty.
        second_new: loss of task 2 in that run.
        free_true, free_new: losses of tasks 1 and 2 in a run without penalty (c = 0).
    """

    c: float
    xi: float
    lr: float
    steps: int
    seed: int
    data: str
    first_true: list[float]
    first_surrogate: list[float]
    second_true: list[float]
    second_surrogate: list[float]
    second_new: list[float]
    free_true: list[float]
    free_new: list[float]


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
    # A report shows what was measured, without torch.
    import torch
    from torch.nn import functional as F

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
    from engram.streams import load, permuted

    return permuted(load("digits"), 2)


def _path(
    stream: Stream, hidden: tuple[int, ...], c: float, xi: float, lr: float, steps: int, seed: int
) -> tuple[list[State], Si, State]:
    """Parameters at the start and after each step of the first two tasks, the method, and Omega of the first task."""
    from engram.learning.loop import EpochEnd
    from engram.methods.registry import method
    from engram.methods.si import Si
    from engram.networks import Mlp
    from engram.protocols.session import Session, TaskEnd, resolve

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


@styled
def surrogate_figure(paths: Paths) -> Figure:
    """Left: while task 1 is trained. Right: while task 2 is trained, with and without the penalty."""
    note = (
        f"{paths.data}; full-batch gradient descent, rate {paths.lr:g}, {paths.steps} steps a task; c = {paths.c:g}, "
        f"xi = {paths.xi:g}; 1 seed. Losses on training images, of task 1."
    )
    figure = new_figure(WIDTH + 0.6, 3.8, "Surrogate and true loss of task 1 along the path", note)
    left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    left.plot(paths.first_true, color=COLOURS[0], label="true loss")
    left.plot(paths.first_surrogate, color=COLOURS[1], linestyle=LINES[1], label="surrogate")
    left.set_title("while task 1 is trained")
    right.plot(paths.second_true, color=COLOURS[0], label=f"true loss, c = {paths.c:g}")
    right.plot(
        paths.second_surrogate, color=COLOURS[1], linestyle=LINES[1], label=f"surrogate, c = {paths.c:g}"
    )
    right.plot(paths.free_true, color=COLOURS[6], linestyle=LINES[2], label="true loss, c = 0")
    right.set_title("while task 2 is trained")
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.set_ylabel("loss [nats]")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        axes.legend(fontsize=8)
    return figure


def read(path: Path) -> Paths:
    """What `main` wrote.

    Raises:
        EngramError: one line, where the file is missing or something else.
    """
    try:
        return Paths(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise EngramError(
            f"{path} is not a file of the surrogate analysis ({error}): write it anew with "
            "python -m engram.report.analyses.surrogate DIR."
        ) from error


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
    write_atomically(given.folder / FILE, json.dumps(asdict(paths)).encode())
    save(surrogate_figure(paths), given.folder / "figures" / "surrogate")
    drop, claimed = (v[0] - v[-1] for v in (paths.first_true, paths.first_surrogate))
    print(f"task 1: drop of the loss {drop:.4f}, of the surrogate {claimed:.4f} nats")
    print(
        f"after task 2: loss of task 1 {paths.second_true[-1]:.4f}, without penalty {paths.free_true[-1]:.4f}"
    )
    print(f"Written: {given.folder / FILE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
