"""What engram's loop costs beside the same mathematics written by hand (``limit/``): docs/benchmarks.md.

    python benchmarks/bench.py [--quick] [--check] [--modes] [--device cpu] [--out FILE]

Both train from the same weights on the same batches and noise, in one process on one thread, in blocks that
take turns: engram's own epochs through its real loop, then the hand-written one. A ratio is that of two
neighbouring blocks. Reads MNIST where ENGRAM_DATA names a folder that holds it, random images of the same
shape otherwise.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

try:
    import engram  # noqa: F401
except ModuleNotFoundError:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from limit import dgm as limit_dgm
from limit import finetune as limit_finetune
from limit import si as limit_si

from engram import seeds
from engram.core.contract import Context, Method, Phase, Scenario, TaskInfo
from engram.core.network import Network
from engram.learning import compiling
from engram.learning.checkpoint import Checkpoints
from engram.learning.loop import EpochEnd, run_phase, train_task
from engram.learning.state import LoopState
from engram.methods.registry import method as method_named
from engram.networks import Dcgan, Dcgan8, Mlp
from engram.protocols.protocol import Protocol
from engram.streams import Samples, Stream
from engram.streams.builders import class_incremental, permuted
from engram.streams.images import ImageData, fingerprint
from engram.streams.sources import load

TARGET = 1.25
MOST = 1.35  # of a check, in processor time: a step half as slow again is above it, noise is not
SEED = 0


def random_images(size: int, per_class: int = 6000, n_classes: int = 10) -> ImageData:
    """Random grey images with as many training samples a class as MNIST has, about."""
    g = torch.Generator().manual_seed(SEED)
    train_y, test_y = (torch.arange(n_classes).repeat(n) for n in (per_class, 10))
    train_x, test_x = (
        torch.randint(0, 256, (len(y), 1, size, size), dtype=torch.uint8, generator=g)
        for y in (train_y, test_y)
    )
    names = tuple(str(k) for k in range(n_classes))
    print_ = fingerprint(train_x, train_y, test_x, test_y)
    return ImageData("random images", train_x, train_y, test_x, test_y, names, print_)


def images(size: int | None) -> ImageData:
    """MNIST from ENGRAM_DATA, or random images, with a word."""
    root = os.environ.get("ENGRAM_DATA")
    if root and (Path(root) / "mnist").is_dir():
        return load("mnist", image_size=size)
    print("ENGRAM_DATA holds no mnist: random images of the same shape are used.")
    return random_images(size or 28)


@dataclass
class Subject:
    """A method that stands at the start of a phase, as the loop leaves it there."""

    method: Method
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
    short = method_named(name, epochs=1, steps_per_epoch=2, **options)
    protocol = Protocol(scenario)
    context = Context(network, stream.image_shape, stream.n_classes, scenario, SEED)
    method = short.make(short.config, context).to(stream.device)
    state = LoopState()
    for i in range(index):
        train_task(method, protocol.task(stream, i), stream.train(i), state, SEED)
    method.config = dataclasses.replace(short.config, epochs=blocks, steps_per_epoch=steps)
    task, data = protocol.task(stream, index), stream.train(index)
    method.begin_task(task, data)
    (phase,) = method.phases(task, len(data))
    return Subject(method, task, phase, data, state)


def rows_of(pool: str, n: int, needed: int, names: tuple[object, ...]) -> Tensor:
    """The rows that engram's feeder reads from a pool in an epoch."""
    g = seeds.generator(SEED, "order", pool, *names)
    return torch.cat([torch.randperm(n, generator=g) for _ in range(math.ceil(needed / n))])[:needed]


def fit_rows(subject: Subject, epoch: int) -> Tensor:
    """The rows of the task's samples that an ordinary phase reads in an epoch, on the device."""
    n, phase = len(subject.data), subject.phase
    needed = phase.steps_per_epoch * phase.batch_size if phase.steps_per_epoch else n
    return rows_of("task", n, needed, (subject.task.index, phase.name, epoch)).to(subject.data.x.device)


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


class FinetuneTwin:
    """The hand-written perceptron with the weights of a subject, fed with the same rows."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        n_outputs = subject.method.net.head.n_outputs
        self.limit = limit_finetune.Finetune(subject.data.x, subject.data.y, n_outputs)
        with torch.no_grad():
            for ours, theirs in self.pairs():
                theirs.copy_(ours)

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Parameters of both, engram's first."""
        return list(zip(self.subject.method.parameters(), self.limit.net.parameters(), strict=True))

    def block(self, epoch: int) -> dict[str, float]:
        """One epoch by hand; the mean loss."""
        return {"net/ce": float(self.limit.epoch(fit_rows(self.subject, epoch)))}


class SiTwin:
    """The hand-written perceptron with the weights, importances and reference of a subject, fed with the same rows."""

    def __init__(self, subject: Subject, *, compiled: bool = False) -> None:
        self.subject, method = subject, subject.method
        config = method.config
        self.limit = (limit_si.CompiledSi if compiled else limit_si.Si)(
            subject.data.x,
            subject.data.y,
            method.net.head.n_outputs,
            subject.task.active,
            width=method.context.network.hidden[0],
            batch=config.batch_size,
            c=config.c,
            xi=config.xi,
        )
        with torch.no_grad():
            for ours, theirs in self.pairs():
                theirs.copy_(ours)

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Parameters, path integrals, importances and references of both, engram's first."""
        method, limit = self.subject.method, self.limit
        names = [name for name, _ in method.named_parameters()]
        pairs = list(zip(method.parameters(), limit.theta, strict=True))
        for table, tensors in (
            (method.omega, limit.omega),
            (method.importance, limit.importance),
            (method.reference, limit.reference),
        ):
            pairs += zip(table.pick(names), tensors, strict=True)
        return pairs

    def block(self, epoch: int) -> dict[str, float]:
        """One epoch by hand; the mean loss."""
        return {"net/ce": float(self.limit.epoch(fit_rows(self.subject, epoch)))}


@dataclass
class Duel:
    """Engram's epochs and the twin's blocks in turns; the first pair warms up and shows that both agree."""

    subject: Subject
    twin: DgmTwin | FinetuneTwin | SiTwin
    compiled: bool = False  # steps of engram's
    plain: SiTwin | None = None  # the plain loop, where the twin is the compiled bound
    plains: list[float] = field(default_factory=list)  # of processor time, as shares of the twin's
    ours: list[float] = field(default_factory=list)
    limit: list[float] = field(default_factory=list)
    busy: list[float] = field(
        default_factory=list
    )  # ratios of processor time, which other programs disturb less
    losses: list[tuple[dict[str, float], dict[str, float]]] = field(default_factory=list)
    difference: float = 0.0

    def run(self) -> None:
        """All epochs of the phase."""
        self.began, self.busy_began = self.now(), time.process_time()
        run_phase(
            *(
                self.subject.method,
                self.subject.task,
                self.subject.phase,
                self.subject.data,
                self.subject.state,
            ),
            SEED,
            self.on_epoch,
            compile=self.compiled,
        )

    def now(self) -> float:
        """Seconds, once the device has done its work."""
        if self.subject.data.x.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def on_epoch(self, event: EpochEnd) -> None:
        """Engram has just done an epoch: the twin's turn."""
        between, busy_between = self.now(), time.process_time()
        losses = self.twin.block(event.epoch)
        end, busy_end = self.now(), time.process_time()
        self.losses.append((event.losses, losses))
        if event.epoch == 0:
            self.difference = max(float((a - b).detach().abs().max()) for a, b in self.twin.pairs())
        else:
            self.ours.append(between - self.began)
            self.limit.append(end - between)
            self.busy.append((busy_between - self.busy_began) / (busy_end - busy_between))
        if self.plain is not None:
            began = time.process_time()
            self.plain.block(event.epoch)
            if event.epoch:
                self.plains.append((time.process_time() - began) / (busy_end - busy_between))
        self.began, self.busy_began = self.now(), time.process_time()

    def row(self, what: str) -> dict[str, Any]:
        """The result, in seconds an iteration."""
        steps = self.subject.phase.steps_per_epoch or math.ceil(
            len(self.subject.data) / self.subject.phase.batch_size
        )
        ratios = [a / b for a, b in zip(self.ours, self.limit, strict=True)]
        return {
            "what": what,
            "engram_s": statistics.median(self.ours) / steps,
            "limit_s": statistics.median(self.limit) / steps,
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
            "ratio_processor_time": statistics.median(self.busy),
            **({"plain_to_limit": statistics.median(self.plains)} if self.plains else {}),
            "blocks": len(ratios),
            "steps_a_block": steps,
            "difference": self.difference,
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
    return Duel(subject, DgmTwin(subject))


def finetune_duel(stream: Stream, index: int, blocks: int, steps: int | None = None) -> Duel:
    """Fine-tuning of the perceptron at task ``index``."""
    subject = at_task("finetune", Mlp(), stream, index, blocks=blocks, steps=steps)
    return Duel(subject, FinetuneTwin(subject))


def si_duel(
    stream: Stream,
    index: int,
    blocks: int,
    steps: int,
    network: Network | None = None,
    compiled: bool = False,
    **options: Any,
) -> Duel:
    """Synaptic Intelligence on a perceptron at task ``index``; one masked head where tasks differ in their classes.

    Args:
        compiled: engram with compiled steps against the compiled bound, the plain loop beside them.
    """
    first, last = stream.tasks[0].classes, stream.tasks[-1].classes
    domain = first == last
    subject = at_task(
        "si",
        network or Mlp(),
        stream,
        index,
        blocks=blocks,
        steps=steps,
        scenario="domain" if domain else "task",
        masked_head=not domain,
        **options,
    )
    if not compiled:
        return Duel(subject, SiTwin(subject))
    return Duel(subject, SiTwin(subject, compiled=True), compiled=True, plain=SiTwin(subject))


def median_seconds(f: Callable[[], object], n: int) -> float:
    """Of ``n`` calls."""
    times = []
    for _ in range(n):
        began = time.perf_counter()
        f()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def checkpoint_row(what: str, method: Method, state: LoopState, history: int, n: int) -> dict[str, Any]:
    """Seconds and bytes of the checkpoint that an epoch ends with, its record holding ``history`` epochs."""
    epoch = {
        "epoch": 0,
        "losses": {f"generator/{k}": 0.123456789012345 + k for k in range(5)},
        "measures": {
            "slope": 9900.000000990098,
            "gates": {
                f"layer{i}": {"mean": 0.123456, "on": 0.654321, "hist": [12345] * 10} for i in range(2)
            },
        },
    }
    tasks = [{"task": i, "phases": [{"name": "gan", "epochs": [epoch] * 101}]} for i in range(history // 101)]
    record = {"rows": [], "tasks": tasks, "phases": {"gan": [epoch] * (history % 101)}}
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), {"method": what})
        checkpoints.save(method, state, record)
        seconds = median_seconds(lambda: checkpoints.save(method, state, record), n)
        size = sum(p.stat().st_size for p in Path(folder).glob(f"{checkpoints.number:08d}.*"))
    return {"what": what, "seconds": seconds, "bytes": size}


def digits_checkpoints(n: int) -> list[dict[str, Any]]:
    """DGM on the digits: small tensors, so what counts is the record, which grows with the epochs done."""
    stream = class_incremental(load("digits"), n_tasks=10, seed=SEED)
    subject = at_task("dgmw", Dcgan8(), stream, 9, blocks=2, steps=None, solver="shared")
    epochs: list[float] = [time.perf_counter()]
    run_phase(
        *(subject.method, subject.task, subject.phase, subject.data, subject.state),
        SEED,
        lambda event: epochs.append(time.perf_counter()),
    )
    rows = []
    for tasks in (0, 5, 10):
        what = f"DGM, digits, {tasks} tasks of 101 epochs done"
        row = checkpoint_row(what, subject.method, subject.state, tasks * 101, n)
        rows.append({**row, "epoch_s": epochs[-1] - epochs[-2]})
    return rows


def modes(device: torch.device, quick: bool) -> dict[str, Any]:
    """Engram's own steps, as they are and compiled: seconds an iteration."""
    steps, blocks = (4 if quick else 20), 6
    digits = class_incremental(images(32), n_tasks=10, seed=SEED).to(device)
    split = class_incremental(images(None), n_tasks=5, seed=SEED).to(device)
    dgm = {"solver": "shared", "label": "within_stream", "batch_size": 64}
    cases: dict[str, Callable[[], Subject]] = {
        "SI, split MNIST, task 2": lambda: at_task(
            "si", Mlp(), split, 1, blocks=blocks, steps=100, scenario="task", masked_head=True, c=1.0
        ),
        **{
            f"{name}, MNIST, task 2": lambda name=name: at_task(
                name, Mlp(), split, 1, blocks=blocks, steps=100, scenario="task"
            )
            for name in ("finetune", "ewc", "lwf")
        },
        **{
            f"DGM, MNIST 32x32, task {index + 1}": lambda index=index: at_task(
                "dgmw", Dcgan(), digits, index, blocks=blocks, steps=steps, **dgm
            )
            for index in (0, 4)
        },
    }
    rows = []
    for what, make in cases.items():
        row: dict[str, Any] = {"what": what}
        for mode in ("eager", "compiled"):
            subject = make()
            times: list[float] = []

            def now(subject: Subject = subject) -> float:
                if not subject.data.x.is_cuda:
                    return time.process_time()  # which other programs disturb less
                torch.cuda.synchronize()
                return time.perf_counter()

            began = now()
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                run_phase(
                    *(subject.method, subject.task, subject.phase, subject.data, subject.state),
                    SEED,
                    lambda event, times=times, now=now: times.append(now()),
                    compile=mode == "compiled",
                )
            between = [b - a for a, b in itertools.pairwise(times)]
            row[f"{mode}_s"] = statistics.median(between) / (subject.phase.steps_per_epoch or 1)
            row[f"{mode}_first_s"] = times[0] - began
            row["said"] = [str(w.message) for w in said if "not compiled" in str(w.message)]
        row["gain"] = row["eager_s"] / row["compiled_s"]
        rows.append(row)
        print(
            f"{what:32} eager {row['eager_s']:.5f}, compiled {row['compiled_s']:.5f} ({row['gain']:.2f} times), first "
            f"block {row['compiled_first_s']:.1f} s {' '.join(row['said'])}",
            flush=True,
        )
    return {"modes": rows}


def check() -> int:
    """1 where a step takes half as long again as it should, by the processor's time, beside the loop by hand."""
    split = class_incremental(random_images(28), n_tasks=5, seed=SEED)
    small = class_incremental(random_images(32, per_class=200), n_tasks=10, seed=SEED)
    duels = {
        "fine-tuning": finetune_duel(split, 1, 13, 60),
        "SI": si_duel(split, 1, 13, 60, c=1.0),
        "DGM, tiny nets": dgm_duel(small, 1, 13, 6, Dcgan(n_f=2, n_d=2), batch_size=8),
    }
    slow = 0
    for what, duel in duels.items():
        duel.run()
        ratio = duel.row(what)["ratio_processor_time"]
        slow += ratio > MOST
        print(
            f"{what:16} {ratio:.3f} times the loop by hand, at most {MOST}{'  TOO SLOW' if ratio > MOST else ''}"
        )
    return int(slow > 0)


def device_class(device: torch.device) -> str:
    """The kind of machine, no names."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{os.cpu_count()}-core {platform.machine().replace('_', '-')} CPU"


def measure(device: torch.device, quick: bool) -> dict[str, Any]:
    """Everything, told row by row."""
    rows, checkpoints = [], []
    pairs = 4 if quick else 12
    columns = (
        f"{'engram':>9} {'limit':>9} {'ratio':>6} {'[min, max]':>14} {'processor':>10} {'difference':>11}"
    )
    print(f"{'seconds an iteration':32} {columns}")

    def told(duel: Duel, what: str) -> None:
        duel.run()
        r = duel.row(what)
        rows.append(r)
        spread = f"[{r['ratio_min']:.2f}, {r['ratio_max']:.2f}]"
        print(
            f"{what:32} {r['engram_s']:9.5f} {r['limit_s']:9.5f} {r['ratio']:6.3f} {spread:>14} "
            f"{r['ratio_processor_time']:10.3f} {r['difference']:11.1e}"
            + (f"  plain loop / bound {r['plain_to_limit']:.2f}" if "plain_to_limit" in r else ""),
            flush=True,
        )
        checkpoints.append(checkpoint_row(what, duel.subject.method, duel.subject.state, 0, 5))

    stream = class_incremental(images(32), n_tasks=10, seed=SEED).to(device)
    for index in (0, 4, 9):
        told(dgm_duel(stream, index, pairs + 1, 3 if quick else 8), f"DGM, MNIST 32x32, task {index + 1}")
    # Arithmetic that hardly counts: what is left is what a step costs besides, the bound for fast devices.
    duel = dgm_duel(stream, 4, 2 * pairs + 1, 10, Dcgan(n_f=2, n_d=2), batch_size=8)
    told(duel, "DGM, tiny nets, batch 8, task 5")
    stream = class_incremental(images(None), n_tasks=5, seed=SEED).to(device)
    for index in (0, 4):
        told(finetune_duel(stream, index, 2 * pairs + 1), f"fine-tuning, MNIST, task {index + 1} of 5")
    # From the second task on the penalty acts.
    told(si_duel(stream, 1, 2 * pairs + 1, 100, c=1.0), "SI, split MNIST, task 2")
    compiles = not compiling.why_not()
    if compiles:
        told(si_duel(stream, 1, 2 * pairs + 1, 100, compiled=True, c=1.0), "SI, split MNIST, compiled")
    stream = permuted(images(None), 2, seed=SEED).to(device)
    wide = Mlp((2000, 2000))
    permuting = {"batch_size": 256, "c": 0.1, "xi": 0.1}
    told(si_duel(stream, 1, pairs + 1, 8, wide, **permuting), "SI, permuted MNIST, task 2")
    if compiles:
        told(si_duel(stream, 1, pairs + 1, 8, wide, True, **permuting), "SI, permuted MNIST, compiled")
    if device.type == "cpu":
        checkpoints += digits_checkpoints(5 if quick else 15)
    print(f"\n{'checkpoint of an epoch':44} {'seconds':>9} {'kB':>8}")
    for r in checkpoints:
        share = (
            f"  {r['seconds'] / r['epoch_s']:.1%} of the epoch's {r['epoch_s']:.3f} s"
            if "epoch_s" in r
            else ""
        )
        print(f"{r['what']:44} {r['seconds']:9.5f} {r['bytes'] / 1000:8.0f}{share}")
    return {"rows": rows, "checkpoints": checkpoints}


def main() -> int:
    """Measure and print; 1 where a median ratio is above the target."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="a minute: whether a step got half as slow again"
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter blocks")
    parser.add_argument(
        "--modes", action="store_true", help="engram's steps as they are and compiled, nothing else"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.check:
        return check()
    device = torch.device(args.device)
    print(f"{device_class(device)}, PyTorch {torch.__version__}, 1 thread\n")
    if args.modes:
        result = modes(device, args.quick)
        if args.out:
            args.out.write_text(json.dumps({"device": device_class(device), **result}, indent=1) + "\n")
        return 0
    result = measure(device, args.quick)
    worst = max(r["ratio"] for r in result["rows"])
    print(f"\nlargest median ratio {worst:.3f}, target {TARGET}")
    if args.out:
        facts = {"device": device_class(device), "threads": 1, "torch": torch.__version__, "target": TARGET}
        args.out.write_text(json.dumps({**facts, **result}, indent=1) + "\n")
    return int(worst > TARGET)


if __name__ == "__main__":
    sys.exit(main())
