"""What engram's loop costs beside the same mathematics written by hand (``limit/``): docs/benchmarks.md.

    python benchmarks/bench.py [--quick] [--only METHOD ...] [--eager] [--check] [--modes MODE ... [--cases PART ...]]
                                [--avalanche PYTHON] [--device cpu] [--out FILE]

Both train from the same weights on the same batches and noise, in one process on one thread, in blocks that
take turns: engram's own epochs through its real loop, then the hand-written one. A ratio is that of two
neighbouring blocks, by processor time. Reads MNIST where ENGRAM_DATA names a folder that holds it, random images of
the same shape otherwise.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast, get_args

import torch

try:
    import engram  # noqa: F401
except ModuleNotFoundError:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import peer
from duels import ENDS, SEED, TWINS, Duel, Subject, at_task, dgm_duel, duel, ending

from engram.core.contract import Method
from engram.core.network import Network
from engram.core.options import Compile, Precision
from engram.learning import compiling
from engram.learning.checkpoint import Checkpoints
from engram.learning.learner import check_device
from engram.learning.loop import run_phase
from engram.learning.precision import computing
from engram.learning.state import LoopState
from engram.networks import CifarCnn, Dcgan, Dcgan8, Mlp, PreactResnet
from engram.streams.builders import class_incremental, permuted
from engram.streams.images import ImageData, fingerprint
from engram.streams.sources import load

TARGETS = {"eager": 1.1, "compiled": 1.25}  # times the loop by hand; times the compiled bound
NAMES = ["dgmw", *TWINS]
MODES = ["eager", "inductor", "cudagraphs", "tf32", "bf16"]
PLAIN, ARRANGED = Dcgan(), Dcgan(convolutions="arranged")
BLOCKS = 6  # of a mode
MOST = 1.35  # of a check: a step half as slow again is above it, noise is not


def random_images(size: int, per_class: int = 6000, n_classes: int = 10, channels: int = 1) -> ImageData:
    """Random images with as many training samples a class as MNIST has, about."""
    g = torch.Generator().manual_seed(SEED)
    train_y, test_y = (torch.arange(n_classes).repeat(n) for n in (per_class, 10))
    train_x, test_x = (
        torch.randint(0, 256, (len(y), channels, size, size), dtype=torch.uint8, generator=g)
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


def colour_images() -> ImageData:
    """CIFAR-10 from ENGRAM_DATA, or random images, with a word."""
    root = os.environ.get("ENGRAM_DATA")
    if root and (Path(root) / "cifar10").is_dir():
        return load("cifar10")
    print("ENGRAM_DATA holds no cifar10: random images of the same shape are used.")
    return random_images(32, per_class=1000, channels=3)


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


def mode_cases(device: torch.device, quick: bool) -> dict[str, Callable[[], Subject]]:
    """What steps are timed in several modes: perceptrons, DGM, and convolutions that keep a device busy."""
    steps, blocks = (4 if quick else 20), BLOCKS
    digits = cache(lambda: class_incremental(images(32), n_tasks=10, seed=SEED).to(device))
    split = cache(lambda: class_incremental(images(None), n_tasks=5, seed=SEED).to(device))
    colour = cache(lambda: class_incremental(colour_images(), n_tasks=5, seed=SEED).to(device))
    dgm = {"label": "within_stream", "solver": "shared"}
    small = {
        "batch_size": 32,
        "critic_norm": "none",
        "penalty_every": 2,
        "average_g": 0.99,
        "solver": "discriminants",
        "solver_samples": 20,
    }

    def perceptron(name: str, **options: Any) -> Subject:
        return at_task(name, Mlp(), split(), 1, blocks=blocks, steps=100, scenario="task", **options)

    def generator(index: int, network: Network = PLAIN, **options: Any) -> Subject:
        return at_task("dgmw", network, digits(), index, blocks=blocks, steps=steps, **{**dgm, **options})

    cases: dict[str, Callable[[], Subject]] = {
        "SI, split MNIST": lambda: perceptron("si", masked_head=True, c=1.0),
        "fine-tuning, split MNIST": lambda: perceptron("finetune"),
        "EWC, split MNIST": lambda: perceptron("ewc"),
        "LwF, split MNIST": lambda: perceptron("lwf"),
        "DGM, MNIST, task 1": lambda: generator(0, batch_size=64),
        "DGM, MNIST, task 5": lambda: generator(4, batch_size=64),
        "DGM, MNIST, task 5, quick": lambda: generator(4, **small),
        "DGM, MNIST, task 5, quick, arranged": lambda: generator(4, ARRANGED, **small),
    }

    def convolutions(name: str, network: Network, **options: Any) -> Subject:
        own = {"batch_size": 256, **options}
        return at_task(name, network, colour(), 1, blocks=blocks, steps=steps, **own)

    cases["fine-tuning, CIFAR-10, CNN"] = lambda: convolutions("finetune", CifarCnn())
    cases["SI, CIFAR-10, CNN"] = lambda: convolutions("si", CifarCnn())
    if device.type == "cuda":  # seconds a step on a processor
        wide = PreactResnet(units=(2, 2, 2), widths=(64, 128, 256))
        for name, title in (("finetune", "fine-tuning"), ("si", "SI"), ("lwf", "LwF"), ("icarl", "iCaRL")):
            cases[f"{title}, CIFAR-10, wide ResNet"] = lambda name=name: convolutions(name, wide)
    return cases


def timed(subject: Subject, mode: str) -> tuple[list[float], list[str]]:
    """Seconds of each block of a phase in one mode, and what was said of its steps."""
    precision = cast(Precision, mode if mode in get_args(Precision) else "float32")
    graphs = cast(Compile, mode if mode in get_args(Compile) else "eager")
    device = subject.data.x.device

    def now() -> float:
        if device.type == "cpu":
            return time.process_time()  # which other programs disturb less
        torch.cuda.synchronize()
        return time.perf_counter()

    times = [now()]
    with warnings.catch_warnings(record=True) as said, computing(precision, device):
        warnings.simplefilter("always")
        run_phase(
            *(subject.method, subject.task, subject.phase, subject.data, subject.state),
            SEED,
            lambda event: times.append(now()),
            compile=graphs,
            precision=precision,
        )
    blocks = [b - a for a, b in itertools.pairwise(times)]
    return blocks, [str(w.message) for w in said if "not compiled" in str(w.message)]


def modes(device: torch.device, quick: bool, asked: list[str], only: list[str]) -> dict[str, Any]:
    """Engram's own steps in each mode: seconds an iteration, and how many times faster than the first mode."""
    rows = []
    for what, make in mode_cases(device, quick).items():
        if only and not any(part in what for part in only):
            continue
        for mode in asked:
            blocks, said = timed(subject := make(), mode)
            steps = subject.phase.steps_per_epoch or 1
            each = sorted(b / steps for b in blocks[1:])
            row = {"what": what, "mode": mode, "s": statistics.median(each), "min": each[0], "max": each[-1]}
            row |= {"first_block": blocks[0], "said": said, "steps_a_block": steps, "blocks": len(each)}
            row["times"] = (rows[-asked.index(mode)]["s"] if mode != asked[0] else row["s"]) / row["s"]
            rows.append(row)
            print(
                f"{what:32} {mode:10} {row['s']:.5f} [{row['min']:.5f}, {row['max']:.5f}] s, {row['times']:.2f} "
                f"times; first block {blocks[0]:.1f} s {' '.join(said)}",
                flush=True,
            )
    return {"modes": rows}


def check() -> int:
    """1 where a step takes half as long again as it should, beside the loop by hand."""
    split = class_incremental(random_images(28), n_tasks=5, seed=SEED)
    small = class_incremental(random_images(32, per_class=200), n_tasks=10, seed=SEED)
    slow = 0
    for what, pair in {
        "fine-tuning": duel("finetune", split, 1, 13, 60),
        "SI": duel("si", split, 1, 13, 60, c=1.0),
        "DGM, tiny nets": dgm_duel(small, 1, 13, 6, Dcgan(n_f=2, n_d=2), batch_size=8),
    }.items():
        pair.run()
        ratio = pair.row(what)["ratio"]
        slow += ratio > MOST
        above = "  TOO SLOW" if ratio > MOST else ""
        print(f"{what:16} {ratio:.3f} times the loop by hand, at most {MOST}{above}")
    return int(slow > 0)


def device_class(device: torch.device) -> str:
    """The kind of machine, no names."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{os.cpu_count()}-core {platform.machine().replace('_', '-')} CPU"


def spread(r: dict[str, Any]) -> str:
    """Median and range of a ratio."""
    return f"{r['ratio']:.3f} [{r['ratio_min']:.2f}, {r['ratio_max']:.2f}]"


def measure(device: torch.device, quick: bool, only: list[str], eager: bool) -> dict[str, Any]:
    """Everything, told row by row."""
    rows: list[dict[str, Any]] = []
    checkpoints: list[dict[str, Any]] = []
    pairs = 4 if quick else 12
    print(
        f"{'medians, seconds an iteration':36} {'engram':>9} {'by hand':>9} {'ratio [range]':>20} {'difference':>11}"
    )

    def told(r: dict[str, Any], mode: str = "eager") -> None:
        rows.append({**r, "mode": mode})
        behind = f"  plain loop / bound {spread(r['plain'])}" if "plain" in r else ""
        print(
            f"{r['what']:36} {r['engram_s']:9.5f} {r['limit_s']:9.5f} {spread(r):>20} {r['difference']:11.1e}"
            f"{behind}{'  ABOVE ' + str(TARGETS[mode]) if r['ratio'] > TARGETS[mode] else ''}",
            flush=True,
        )

    def fought(pair: Duel, what: str) -> None:
        pair.run()
        told(pair.row(what), "compiled" if pair.compiled else "eager")
        if not pair.compiled:
            checkpoints.append(checkpoint_row(what, pair.subject.method, pair.subject.state, 0, 5))
            if pair.name in ENDS:
                told({"what": f"{what}: its end", **ending(pair, 3 if pair.name == "icarl" else pairs)})

    if "dgmw" in only:
        stream = class_incremental(images(32), n_tasks=10, seed=SEED).to(device)
        for index in (0, 4, 9):
            pair = dgm_duel(stream, index, pairs + 1, 3 if quick else 8)
            fought(pair, f"DGM, MNIST 32x32, task {index + 1}")
            pair = dgm_duel(stream, index, pairs + 1, 3 if quick else 8, ARRANGED)
            fought(pair, f"DGM, task {index + 1}, arranged convolutions")
        # Arithmetic that hardly counts: what is left is what a step costs besides, the bound for fast devices.
        tiny = dgm_duel(stream, 4, 2 * pairs + 1, 10, Dcgan(n_f=2, n_d=2), batch_size=8)
        fought(tiny, "DGM, tiny nets, batch 8, task 5")
    stream = class_incremental(images(None), n_tasks=5, seed=SEED).to(device)
    why = "they were not asked for" if eager else compiling.why_not("inductor", device)
    modes = [False] if why else [False, True]
    if why:
        print(f"No compiled rows: {why}.")
    for name, title, index in (
        ("finetune", "fine-tuning", 1),
        ("si", "SI", 1),  # from the second task on the penalty acts
        ("ewc", "EWC", 1),
        ("ewc", "EWC", 4),
        ("lwf", "LwF", 1),
        ("icarl", "iCaRL", 1),
    ):
        for compiled in modes if name in only else []:
            mode = ", compiled" if compiled else ""
            what = f"{title}, split MNIST, task {index + 1}{mode}"
            fought(duel(name, stream, index, 2 * pairs + 1, 100, compiled=compiled), what)
    if "slda" in only:
        fought(duel("slda", stream, 1, 2 * pairs + 1, None), "discriminants, split MNIST, task 2")
    stream = permuted(images(None), 2, seed=SEED).to(device)
    for compiled in modes if "si" in only else []:
        options = {"network": Mlp((2000, 2000)), "batch_size": 256, "c": 0.1, "xi": 0.1}
        what = f"SI, permuted MNIST, task 2{', compiled' if compiled else ''}"
        fought(duel("si", stream, 1, pairs + 1, 8, compiled=compiled, **options), what)
    if device.type == "cpu" and "dgmw" in only:
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
    """Measure and print; 1 where a median ratio is above its target."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="a minute: whether a step got half as slow again"
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter blocks")
    parser.add_argument("--only", nargs="+", default=NAMES, choices=NAMES, help="methods; by default all")
    parser.add_argument("--eager", action="store_true", help="no compiled steps")
    parser.add_argument(
        "--modes",
        nargs="+",
        choices=MODES,
        help="nothing else than engram's own steps in these modes, such as eager cudagraphs",
    )
    parser.add_argument("--cases", nargs="+", default=[], help="of --modes: parts of names, such as DGM")
    parser.add_argument("--avalanche", help="the Python of an environment with Avalanche: it is measured too")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.check:
        return check()
    device = check_device(args.device)
    print(f"{device_class(device)}, PyTorch {torch.__version__}, 1 thread\n")
    result = (
        modes(device, args.quick, args.modes, args.cases)
        if args.modes
        else measure(device, args.quick, args.only, args.eager)
    )
    if args.avalanche:
        print()
        result["peer"] = peer.measure(args.avalanche, per_class=1000)
    above = [r for r in result.get("rows", []) if r["ratio"] > TARGETS[r["mode"]]]
    if args.out:
        facts = {"device": device_class(device), "threads": 1, "torch": torch.__version__, "targets": TARGETS}
        args.out.write_text(json.dumps({**facts, **result}, indent=1) + "\n")
    return int(bool(above))


if __name__ == "__main__":
    sys.exit(main())
