"""Engram's phases and the loops written by hand (``limit/``) in turns, from the same weights, over the same rows."""

from __future__ import annotations

import copy
import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from limit import dgm as limit_dgm
from limit import ewc as limit_ewc
from limit import finetune as limit_finetune
from limit import icarl as limit_icarl
from limit import lwf as limit_lwf
from limit import si as limit_si
from limit import slda as limit_slda
from limit.compiled import Compiled
from torch import Tensor

from engram import seeds
from engram.core.contract import Context, Phase, Scenario, TaskInfo
from engram.core.network import Network
from engram.learning.loop import EpochEnd, run_phase, train_task
from engram.learning.state import LoopState
from engram.methods.registry import method as method_named
from engram.networks import Dcgan, Mlp
from engram.protocols.protocol import Protocol
from engram.streams import Samples, Stream

SEED = 0
Pairs = list[tuple[Tensor, Tensor]]


@dataclass
class Subject:
    """A method that stands at the start of a phase, as the loop leaves it there."""

    method: Any
    task: TaskInfo
    phase: Phase
    data: Samples
    state: LoopState


def at_task(
    name: str,
    network: Network,
    stream: Stream,
    index: int,
    *,
    blocks: int,
    steps: int | None,
    scenario: Scenario = "class",
    **options: Any,
) -> Subject:
    """A method at the start of task ``index``: each earlier task was trained for two steps.

    Args:
        blocks: epochs of the phase to come.
        steps: its steps an epoch; None for whole passes.
        scenario: what the method is told of a sample's task.
        options: of the method.
    """
    spec = method_named(name, options)
    fits = hasattr(spec.config, "epochs")  # otherwise the method reads its samples once
    short = method_named(name, {**options, "epochs": 1, "steps_per_epoch": 2}) if fits else spec
    protocol = Protocol(scenario)
    context = Context(network, stream.image_shape, stream.n_classes, scenario, SEED)
    method = short.make(short.config, context).to(stream.device)
    state = LoopState()
    for i in range(index):
        train_task(method, protocol.task(stream, i), stream.train(i), state, SEED)
    if fits:
        method.config = dataclasses.replace(short.config, epochs=blocks, steps_per_epoch=steps)
    task, data = protocol.task(stream, index), stream.train(index)
    method.begin_task(task, data)
    phase = dataclasses.replace(method.phases(task, len(data))[-1], epochs=blocks)
    method.begin_phase(task, phase.name)
    return Subject(method, task, phase, data, state)


def rows_of(pool: str, n: int, needed: int, names: tuple[object, ...]) -> Tensor:
    """The rows that engram's feeder reads from a pool in an epoch."""
    g = seeds.generator(SEED, "order", pool, *names)
    return torch.cat([torch.randperm(n, generator=g) for _ in range(math.ceil(needed / n))])[:needed]


class DgmTwin:
    """The hand-written loop with the weights of a subject, fed with the same rows and noise."""

    def __init__(self, subject: Subject) -> None:
        method, task, data = subject.method, subject.task, subject.data
        pools = method.pools(task, "gan", 0, data)
        g, critic = method.generator, method.critic
        reserved = list(g.reserved)
        self.subject, self.pools = subject, ["task", *pools]
        self.sizes = [len(data), *(len(p) for p in pools.values())]
        n_d = critic.trunk.n_features // 64
        replay = [p.x for p in pools.values()]
        self.limit = limit_dgm.Dgm(task.index, g.widths[-1], g.widths[0], reserved, data.x, replay, n_d)
        with torch.no_grad():
            for ours, theirs in self.pairs():
                theirs.copy_(ours)

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Parameters and running statistics of both, engram's first."""
        g, critic, t = self.subject.method.generator, self.subject.method.critic, self.subject.task.index
        limit = self.limit
        pairs = [
            *zip(g.weights, limit.weights, strict=True),
            *zip(g.embeddings, limit.embeddings, strict=True),
        ]
        modules = (
            (g.norms[t], limit.norms),
            (g.outputs[t], limit.output),
            (critic.trunk, limit.trunk),
            (critic.adversarial, limit.adversarial),
            (critic.classes, limit.classes),
        )
        for ours, theirs in modules:
            pairs += zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
        return pairs

    def block(self, epoch: int) -> dict[str, float]:
        """One epoch by hand; the mean losses."""
        phase, task = self.subject.phase, self.subject.task
        device = self.subject.data.x.device
        names = (task.index, phase.name, epoch)
        noise = seeds.generator(SEED, "noise", *names, device=device)
        shuffle = seeds.generator(SEED, "chunks", *names)
        size, steps = phase.batch_size, phase.steps_per_epoch or math.ceil(self.sizes[0] / phase.batch_size)
        stop = steps * size if phase.steps_per_epoch else self.sizes[0]
        rows = {
            p: rows_of(p, n, steps * size, names)[:stop].to(device)
            for p, n in zip(self.pools, self.sizes, strict=True)
        }
        in_order = [*self.pools[1:], "task"]
        sums: dict[str, Tensor] = {}
        for i in range(steps):
            slopes = limit_dgm.slopes(epoch, phase.epochs, i, steps)
            batch = [rows[p][i * size : (i + 1) * size] for p in in_order]
            for key, value in self.limit.iteration(batch, slopes, noise, shuffle).items():
                sums[key] = sums.get(key, 0.0) + value
        return {key: float(value) / steps for key, value in sums.items()}


class Twin:
    """A loop written by hand with the state of a subject, fed with the same rows of the pool that its phase reads.

    Args:
        subject: to take the state of.
        limit: has ``labels`` int64 [N] of the pool and ``epoch(rows)``, the mean loss.
        pairs: state of both, engram's first.
    """

    def __init__(self, subject: Subject, limit: Any, pairs: Callable[[], Pairs]) -> None:
        self.subject, self.limit, self.pairs = subject, limit, pairs
        with torch.no_grad():
            for ours, theirs in pairs():
                theirs.copy_(ours)

    def block(self, epoch: int) -> dict[str, float]:
        """One epoch by hand; the mean loss."""
        phase, n = self.subject.phase, len(self.limit.labels)
        needed = phase.steps_per_epoch * phase.batch_size if phase.steps_per_epoch else n
        names = (self.subject.task.index, phase.name, epoch)
        rows = rows_of(phase.primary, n, needed, names) if phase.shuffle else torch.arange(needed)
        return {"sum": float(self.limit.epoch(rows.to(self.limit.labels.device)))}


def perceptron(subject: Subject, make: Callable[..., Any], *more: Any, **options: Any) -> Any:
    """A loop by hand for a perceptron as the subject's, on its samples."""
    width, data = subject.method.context.network.hidden[0], subject.data
    return make(data.x, data.y, *more, width=width, batch=subject.phase.batch_size, **options)


def weights(subject: Subject, limit: Any) -> Pairs:
    """Of both."""
    return list(zip(subject.method.net.parameters(), limit.net.parameters(), strict=True))


def finetune_twin(subject: Subject) -> Twin:
    """Fine-tuning."""
    limit = perceptron(subject, limit_finetune.Finetune, subject.task.n_seen)
    return Twin(subject, limit, lambda: weights(subject, limit))


def si_twin(subject: Subject) -> Twin:
    """Synaptic Intelligence: path integrals, importances and references too."""
    method, task, c = subject.method, subject.task, subject.method.config
    limit = perceptron(subject, limit_si.Si, method.net.head.n_outputs, task.active, c=c.c, xi=c.xi)
    names = [name for name, _ in method.named_parameters()]

    def pairs() -> Pairs:
        tables = [
            (method.omega, limit.omega),
            (method.importance, limit.importance),
            (method.reference, limit.reference),
        ]
        held = [pair for t, by_hand in tables for pair in zip(t.pick(names), by_hand, strict=True)]
        return weights(subject, limit) + held

    return Twin(subject, limit, pairs)


def ewc_twin(subject: Subject) -> Twin:
    """Elastic Weight Consolidation: Fisher information and weights of each earlier task too."""
    method, active, strength = subject.method, subject.task.active, subject.method.config.strength
    limit = perceptron(subject, limit_ewc.Ewc, method.net.head.n_outputs, active, strength=strength)
    names = [name for name, _ in method.named_parameters()]
    held: Pairs = []
    for tables, by_hand in ((method.fishers, limit.fishers), (method.anchors, limit.anchors)):
        for table in tables:
            by_hand.append([t.clone() for t in table.pick(names)])
            held += zip(table.pick(names), by_hand[-1], strict=True)
    return Twin(subject, limit, lambda: weights(subject, limit) + held)


def lwf_twin(subject: Subject) -> Twin:
    """Learning without Forgetting: the network before the task too."""
    old, c = subject.method.teacher.net, subject.method.config
    outputs = (subject.task.n_seen, old.head.n_outputs)
    how = {"strength": c.strength, "temperature": c.temperature}
    limit = perceptron(subject, limit_lwf.Lwf, *outputs, **how)
    before = list(zip(old.parameters(), limit.teacher.parameters(), strict=True))
    return Twin(subject, limit, lambda: weights(subject, limit) + before)


def icarl_twin(subject: Subject) -> Twin:
    """iCaRL: the network before the task too; exemplars are given."""
    method, old, memory = subject.method, subject.method.teacher.net, subject.method.memory
    given = [memory.images[memory.labels == k] for k in range(old.head.n_outputs)]
    budget = method.config.memory_budget
    limit = perceptron(subject, limit_icarl.Icarl, given, subject.task.n_seen, budget=budget)
    before = list(zip(old.parameters(), limit.teacher.parameters(), strict=True))
    return Twin(subject, limit, lambda: weights(subject, limit) + before)


def slda_twin(subject: Subject) -> Twin:
    """Linear discriminants of pixels: counts, means and scatter."""
    kept, c, data = subject.method.statistics, subject.method.config, subject.data
    limit = limit_slda.Slda(data.x, data.y, subject.task.n_seen, batch=c.batch_size, eps=c.eps)
    return Twin(
        subject,
        limit,
        lambda: [(kept.mass, limit.counts), (kept.means, limit.means), (kept.within(), limit.scatter)],
    )


@dataclass
class Duel:
    """Engram's epochs and the twin's blocks in turns; the first pair warms up and shows that both agree."""

    name: str
    subject: Subject
    twin: DgmTwin | Twin
    compiled: bool = False  # steps of engram's
    plain: Twin | None = None  # the plain loop, where the twin is the compiled bound
    plains: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    limit: list[float] = field(default_factory=list)
    losses: list[tuple[dict[str, float], dict[str, float]]] = field(default_factory=list)
    difference: float = 0.0

    def run(self) -> None:
        """All epochs of the phase."""
        s = self.subject
        self.began = self.now()
        run_phase(
            s.method,
            s.task,
            s.phase,
            s.data,
            s.state,
            SEED,
            self.on_epoch,
            compile="inductor" if self.compiled else "eager",
        )

    def now(self) -> float:
        """Seconds: of the processor, which other programs disturb less; by the clock where a device does the work."""
        if not self.subject.data.x.is_cuda:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def on_epoch(self, event: EpochEnd) -> None:
        """Engram has just done an epoch: the twin's turn."""
        between = self.now()
        losses = self.twin.block(event.epoch)
        end = self.now()
        self.losses.append(({**event.losses, "sum": sum(event.losses.values())}, losses))
        if event.epoch == 0:
            self.difference = max(float((a - b).detach().abs().max()) for a, b in self.twin.pairs())
        else:
            self.ours.append(between - self.began)
            self.limit.append(end - between)
        if self.plain is not None:
            began = self.now()
            self.plain.block(event.epoch)
            if event.epoch:
                self.plains.append(self.now() - began)
        self.began = self.now()

    def row(self, what: str) -> dict[str, Any]:
        """The result, in seconds an iteration."""
        phase = self.subject.phase
        steps = phase.steps_per_epoch or math.ceil(len(self.subject.data) / phase.batch_size)
        row = {"what": what, **compared(self.ours, self.limit, steps), "difference": self.difference}
        if self.plains:
            row["plain"] = compared(self.plains, self.limit, steps)
        return row


def compared(ours: list[float], limit: list[float], steps: int = 1) -> dict[str, Any]:
    """Medians, and ratios of neighbours."""
    ratios = [a / b for a, b in zip(ours, limit, strict=True)]
    return {
        "engram_s": statistics.median(ours) / steps,
        "limit_s": statistics.median(limit) / steps,
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "blocks": len(ratios),
        "steps_a_block": steps,
    }


def dgm_duel(
    stream: Stream,
    index: int,
    blocks: int,
    steps: int | None,
    network: Network | None = None,
    batch_size: int = 64,
) -> Duel:
    """DGM with masks per weight and the shared solver at task ``index``."""
    options = {"solver": "shared", "label": "within_stream", "batch_size": batch_size}
    subject = at_task("dgmw", network or Dcgan(), stream, index, blocks=blocks, steps=steps, **options)
    return Duel("dgmw", subject, DgmTwin(subject))


def duel(
    name: str,
    stream: Stream,
    index: int,
    blocks: int,
    steps: int | None,
    *,
    network: Network | None = None,
    compiled: bool = False,
    **options: Any,
) -> Duel:
    """A method on a perceptron at task ``index``.

    Tasks of the same classes are domains; EWC and SI are told the task otherwise, and mask one head to it.

    Args:
        compiled: engram with compiled steps against the compiled bound, the plain loop beside them.
    """
    same = stream.tasks[0].classes == stream.tasks[-1].classes
    masked = name in ("ewc", "si") and not same
    scenario: Scenario = "domain" if same else "task" if masked else "class"
    options = {**options, **({"masked_head": True} if masked else {}), **FIXED.get(name, {})}
    network = network or Mlp()
    s = at_task(name, network, stream, index, blocks=blocks, steps=steps, scenario=scenario, **options)
    twin = TWINS[name](s)
    if not compiled:
        return Duel(name, s, twin)
    bound = TWINS[name](s)
    return Duel(name, s, Twin(s, Compiled(bound.limit), bound.pairs), compiled=True, plain=twin)


TWINS = {
    "finetune": finetune_twin,
    "si": si_twin,
    "ewc": ewc_twin,
    "lwf": lwf_twin,
    "icarl": icarl_twin,
    "slda": slda_twin,
}
FIXED: dict[str, dict[str, Any]] = {"lwf": {"warmup_epochs": 0}}


# What a task's end takes: of engram's method, then by hand; both return what must be equal.
Ends = tuple[Callable[[Subject, Any], list[Tensor]], Callable[[Subject, Any], list[Tensor]]]


def ewc_end(s: Subject, method: Any) -> list[Tensor]:
    """Fisher information, a value a parameter."""
    method.end_task(s.task, s.data)
    return method.fishers[-1].values()


def ewc_end_by_hand(s: Subject, limit: Any) -> list[Tensor]:
    """Fisher information, a value a parameter, with the same draws."""
    g = seeds.generator(SEED, "fisher", s.task.index)
    limit.end(torch.rand((len(s.data), 1), generator=g, dtype=torch.float64).to(s.data.x.device))
    return limit.fishers[-1]


def icarl_end(s: Subject, method: Any) -> list[Tensor]:
    """Means of exemplars."""
    with torch.no_grad():
        method.end_task(s.task, s.data)
        return [method.means]


ENDS: dict[str, Ends] = {
    "ewc": (ewc_end, ewc_end_by_hand),
    "icarl": (icarl_end, lambda _, limit: [limit.end()]),
    "slda": (lambda _, method: list(method.discriminants), lambda _, limit: list(limit.end())),
}


def ending(duel: Duel, n: int) -> dict[str, Any]:
    """Seconds of what a task ends with, engram's and by hand in turns, ``n`` times from the same state."""
    s, ours, limit = duel.subject, [], []
    end, by_hand = ENDS[duel.name]
    for _ in range(n):
        method, hand = copy.deepcopy(s.method), copy.deepcopy(duel.twin.limit)
        times = [duel.now()]
        found = end(s, method)
        times.append(duel.now())
        wanted = by_hand(s, hand)
        times.append(duel.now())
        ours.append(times[1] - times[0])
        limit.append(times[2] - times[1])
        difference = max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True))
    return {**compared(ours, limit), "difference": difference}
