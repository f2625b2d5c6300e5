"""engram beside Avalanche on split MNIST: the same net, batches and epochs, one thread: docs/benchmarks.md.

    python benchmarks/peer.py --avalanche VENV/bin/python [--methods naive lwf ewc] [--epochs 1] [--seeds 0 1 2]

Avalanche 0.6.0 lives in an environment of its own (``pip install avalanche-lib==0.6.0``), where this file runs itself
with ``--side avalanche``. Its torchvision needs compiled operators that do not load beside a CPU build of PyTorch: two
of its modules are stubs there, which nothing here calls. Its Synaptic Intelligence computes nothing on a CPU and is
left out. Both read the same MNIST from ENGRAM_DATA. Processor time of training alone, sides in turn; accuracies beside
it, so that nobody is fast by doing less.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import torch

OURS = {"naive": "finetune", "lwf": "lwf", "ewc": "ewc", "icarl": "icarl", "slda": "slda"}
BATCH, WIDTH, LR = 64, 256, 1e-3


def ours(name: str, epochs: int, seed: int) -> dict[str, float]:
    """engram's side."""
    from engram.learning.loop import EpochEnd
    from engram.methods.registry import about, method
    from engram.networks import Mlp
    from engram.protocols.session import TaskEnd, run
    from engram.streams import class_incremental
    from engram.streams.sources import load

    stream = class_incremental(load("mnist"), n_tasks=5, seed=0, class_order=tuple(range(10)))
    given = {"epochs": epochs, "batch_size": BATCH, "lr": LR, "optimiser": "adam"}
    known = {o.name for o in about(OURS[name]).options}
    spec = method(OURS[name], {k: v for k, v in given.items() if k in known})
    spent, since = 0.0, time.process_time()

    def note(event: EpochEnd | TaskEnd) -> None:
        nonlocal spent, since
        now = time.process_time()
        if isinstance(event, EpochEnd):  # evaluation comes between the last epoch and the task's end
            spent += now - since
        since = now

    entry = run(stream, Mlp((WIDTH, WIDTH)), spec, "class", seed=seed, observer=note)
    return {"seconds": spent, "accuracy": entry["final_average_accuracy"]}


def stubs() -> None:
    """torchvision without its compiled operators, where they do not load."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in (
            "torchvision.extension",
            "torchvision._meta_registrations",
            "torchvision._autograd_registrations",
        ):
            module = types.ModuleType(name)
            module._HAS_OPS = False  # type: ignore[attr-defined]
            module._has_ops = module._assert_has_ops = lambda: False  # type: ignore[attr-defined]
            sys.modules[name] = module


def theirs(name: str, epochs: int, seed: int) -> dict[str, float]:
    """Avalanche's side."""
    stubs()
    from avalanche.benchmarks import benchmark_from_datasets  # type: ignore[import-not-found]
    from avalanche.benchmarks.utils.classification_dataset import (  # type: ignore[import-not-found]
        _make_taskaware_tensor_classification_dataset as as_dataset,
    )
    from avalanche.training import EWC, LwF, Naive  # type: ignore[import-not-found]
    from avalanche.training.plugins import EvaluationPlugin  # type: ignore[import-not-found]
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    folder = Path(os.environ["PEER_DATA"])
    train, test = (
        {k: torch.from_numpy(np.load(folder / f"{split}_{k}.npy")) for k in "xy"}
        for split in ("train", "test")
    )

    def tasks(pair: dict[str, torch.Tensor]) -> list[object]:
        x, y = pair["x"].float().div(255), pair["y"]
        made = []
        for k in range(5):
            rows = (y // 2) == k
            made.append(as_dataset(x[rows], y[rows], task_labels=0))
        return made

    bench = benchmark_from_datasets(train=tasks(train), test=tasks(test))
    hidden = nn.Linear(784, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU()
    net = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(WIDTH, 10))
    how = {
        "model": net,
        "optimizer": torch.optim.Adam(net.parameters(), lr=LR),
        "criterion": nn.CrossEntropyLoss(),
        "train_mb_size": BATCH,
        "train_epochs": epochs,
        "eval_mb_size": 500,
        "device": "cpu",
        "evaluator": EvaluationPlugin(loggers=[]),
    }
    strategy = {
        "naive": lambda: Naive(**how),
        "lwf": lambda: LwF(alpha=1.0, temperature=2.0, **how),
        "ewc": lambda: EWC(ewc_lambda=100.0, **how),
    }[name]()
    began = time.process_time()
    for experience in bench.train_stream:
        strategy.train(experience, num_workers=0)
    seconds = time.process_time() - began
    x, y = test["x"].float().div(255), test["y"]
    with torch.no_grad():
        right = [float((net(x[y // 2 == k]).argmax(1) == y[y // 2 == k]).float().mean()) for k in range(5)]
    return {"seconds": seconds, "accuracy": sum(right) / 5}


def main() -> None:
    """Both in turn, or one side."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--avalanche", help="the Python of its environment")
    parser.add_argument("--methods", nargs="+", default=["naive", "lwf", "ewc"])
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--side", choices=("engram", "avalanche"))
    args = parser.parse_args()
    if args.side:
        found = (ours if args.side == "engram" else theirs)(args.methods[0], args.epochs, args.seeds[0])
        print(json.dumps(found))
        return
    import tempfile

    from engram.streams.sources import load

    data = load("mnist")
    with tempfile.TemporaryDirectory() as folder:
        for split in ("train", "test"):
            for k in "xy":
                np.save(Path(folder) / f"{split}_{k}.npy", getattr(data, f"{split}_{k}").numpy())
        for name in args.methods:
            found: dict[str, list[dict[str, float]]] = {"engram": [], "avalanche": []}
            for seed in args.seeds:
                for side, python in (("engram", sys.executable), ("avalanche", args.avalanche)):
                    words = [python, __file__, "--side", side, "--methods", name, "--seeds", str(seed)]
                    words += ["--epochs", str(args.epochs)]
                    env = {**os.environ, "PEER_DATA": folder, "OMP_NUM_THREADS": "1"}
                    if side == "avalanche":
                        env.pop("PYTHONPATH", None)
                    done = subprocess.run(words, env=env, check=True, capture_output=True, text=True)
                    found[side].append(json.loads(done.stdout.strip().splitlines()[-1]))
            ratio = [
                b["seconds"] / a["seconds"] for a, b in zip(found["engram"], found["avalanche"], strict=True)
            ]
            told = {
                side: (
                    statistics.median(o["seconds"] for o in of),
                    [round(100 * o["accuracy"], 1) for o in of],
                )
                for side, of in found.items()
            }
            print(
                f"{name:8} engram {told['engram']}, Avalanche {told['avalanche']}: "
                f"{statistics.median(ratio):.2f} times [{min(ratio):.2f}, {max(ratio):.2f}]",
                flush=True,
            )


if __name__ == "__main__":
    main()
