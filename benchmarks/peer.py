"""engram beside Avalanche on split MNIST: the same net, batches and epochs, one thread: docs/benchmarks.md.

    python benchmarks/peer.py --avalanche VENV/bin/python [--methods naive lwf ewc icarl slda] [--epochs 1]
                              [--per-class 6000] [--seeds 0 1 2] [--engram PYTHON]

Avalanche 0.6.0 lives in an environment of its own (``pip install avalanche-lib==0.6.0``), where this file runs itself
with ``--side avalanche``. Its torchvision needs compiled operators that do not load beside a CPU build of PyTorch:
three of its modules are stubs there, which nothing here calls. Its Synaptic Intelligence computes nothing on a CPU and
is left out. Both read the same MNIST from ENGRAM_DATA. Processor time of training alone, sides in turn; beside it the
accuracy among all classes, the one among the two of a task, and what shows that a side did a method's work, so that
nobody is fast by doing less. ``--engram`` names another Python for engram's side, so that both have one PyTorch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

OURS = {"naive": "finetune", "lwf": "lwf", "ewc": "ewc", "icarl": "icarl", "slda": "slda"}
METHODS = tuple(OURS)
BATCH, WIDTH, LR, MEMORY = 64, 256, 1e-3, 2000
Pair = tuple[Tensor, Tensor]
#: Where the two would differ: no warm-up, as many exemplars; engram's EWC has a factor 1/2 in its penalty.
SAME: dict[str, dict[str, Any]] = {
    "lwf": {"strength": 1.0, "temperature": 2.0, "warmup_epochs": 0},
    "ewc": {"strength": 200.0},
    "icarl": {"memory_budget": MEMORY},
    "slda": {"shrinkage": "absolute", "eps": 1e-4, "batch_size": BATCH},
}


def tasks_of(split: str) -> list[Pair]:
    """Images float [N, 784] and labels int64 [N] of the five tasks."""
    folder = Path(os.environ["PEER_DATA"])
    x, y = (torch.from_numpy(np.load(folder / f"{split}_{k}.npy")) for k in "xy")
    return [(x[y // 2 == k], y[y // 2 == k]) for k in range(5)]


def accuracies(answer: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """Mean over the tasks, among all classes and among a task's own; ``answer`` gives logits [B, 10]."""
    among = {"accuracy": 0.0, "accuracy_in_task": 0.0}
    with torch.no_grad():
        for k, (x, y) in enumerate(tasks_of("test")):
            logits = answer(x)
            own = logits[:, 2 * k : 2 * k + 2].argmax(1) + 2 * k
            among["accuracy"] += float((logits.argmax(1) == y).float().mean()) / 5
            among["accuracy_in_task"] += float((own == y).float().mean()) / 5
    return among


def ours(name: str, epochs: int, seed: int) -> dict[str, Any]:
    """engram's side."""
    from engram.learning.learner import Learner
    from engram.methods.registry import about, method
    from engram.networks import Mlp
    from engram.streams import Samples

    fit = {"epochs": epochs, "batch_size": BATCH, "lr": LR, "optimiser": "adam", **SAME.get(name, {})}
    known = {o.name for o in about(OURS[name]).options}
    spec = method(OURS[name], {k: v for k, v in fit.items() if k in known})
    learner = Learner(spec, Mlp((WIDTH, WIDTH)), image_shape=(1, 28, 28), seed=seed)
    tasks = tasks_of("train")
    began = time.process_time()
    for k, (x, y) in enumerate(tasks):
        learner.learn(Samples(x, y), [str(2 * k), str(2 * k + 1)])
    seconds = time.process_time() - began
    found = learner.method
    worked = {
        "ewc": lambda: sum(float(f.sum()) > 0 for table in found.fishers for f in table.values()),
        "lwf": lambda: len(found.teacher.net.stops),
        "icarl": lambda: len(found.memory),
        "slda": lambda: int(found.statistics.counts.sum()),
    }.get(name, lambda: 0)()
    normalise = learner.method.context.network.normalise
    return {"seconds": seconds, "worked": worked, **accuracies(lambda x: found.predict(normalise(x)))}


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


def theirs(name: str, epochs: int, seed: int) -> dict[str, Any]:
    """Avalanche's side."""
    stubs()
    from avalanche.benchmarks import nc_benchmark  # type: ignore[import-not-found]
    from avalanche.benchmarks.utils.classification_dataset import (  # type: ignore[import-not-found]
        _make_taskaware_tensor_classification_dataset as as_dataset,
    )
    from avalanche.training import (  # type: ignore[import-not-found]
        EWC,
        ICaRL,
        LwF,
        Naive,
        StreamingLDA,
    )
    from avalanche.training.plugins import EvaluationPlugin  # type: ignore[import-not-found]

    torch.manual_seed(seed)

    def whole(split: str) -> object:
        parts = tasks_of(split)
        x, y = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
        return as_dataset(x.float().div(255), y)

    bench = nc_benchmark(
        whole("train"), whole("test"), n_experiences=5, task_labels=False, fixed_class_order=list(range(10))
    )
    hidden = nn.Linear(784, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU()
    trunk, head = nn.Sequential(nn.Flatten(), *hidden), nn.Linear(WIDTH, 10)
    net = nn.Sequential(*trunk, head)
    how = {
        "train_mb_size": BATCH,
        "train_epochs": epochs,
        "eval_mb_size": 500,
        "device": "cpu",
        "evaluator": EvaluationPlugin(loggers=[]),
    }
    fits = {**how, "optimizer": torch.optim.Adam(net.parameters(), lr=LR)}
    plain = {**fits, "model": net, "criterion": nn.CrossEntropyLoss()}
    strategy = {
        "naive": lambda: Naive(**plain),
        "lwf": lambda: LwF(alpha=1.0, temperature=2.0, **plain),
        "ewc": lambda: EWC(ewc_lambda=100.0, **plain),
        "icarl": lambda: ICaRL(
            feature_extractor=trunk,
            classifier=head,
            memory_size=MEMORY,
            buffer_transform=None,
            fixed_memory=True,
            **fits,
        ),
        "slda": lambda: StreamingLDA(
            slda_model=nn.Flatten(),
            criterion=nn.CrossEntropyLoss(),
            input_size=784,
            num_classes=10,
            **how,
        ),
    }[name]()
    began = time.process_time()
    for experience in bench.train_stream:
        strategy.train(experience, num_workers=0)
    seconds = time.process_time() - began
    plugins = {type(p).__name__: p for p in strategy.plugins}
    worked = {
        "ewc": lambda: sum(
            float(i.data.sum()) > 0 for of in plugins["EWCPlugin"].importances.values() for i in of.values()
        ),
        "lwf": lambda: len(plugins["LwFPlugin"].lwf.prev_classes_by_task[0]),
        "icarl": lambda: sum(len(x) for x in plugins["_ICaRLPlugin"].x_memory),
        "slda": lambda: int(strategy.num_updates),
    }.get(name, lambda: 0)()
    strategy.model.eval()
    answer = strategy.predict if name == "slda" else strategy.model
    found = accuracies(
        lambda x: answer(x.float().div(255).flatten(1) if name == "slda" else x.float().div(255))
    )
    return {"seconds": seconds, "worked": worked, **found}


def measure(
    avalanche: str,
    methods: tuple[str, ...] = METHODS,
    *,
    epochs: int = 1,
    per_class: int = 6000,
    seeds: tuple[int, ...] = (0,),
    engram: str = sys.executable,
) -> list[dict[str, Any]]:
    """Both in turn, each in a process of its own; a line a method."""
    from engram.streams.sources import load

    data = load("mnist")
    rows = []
    print(
        f"{'split MNIST, seconds of training':34} {'engram':>8} {'Avalanche':>9} {'times':>19} "
        "accuracy among all, in task (worked)"
    )
    with tempfile.TemporaryDirectory() as folder:
        for split in ("train", "test"):
            x, y = getattr(data, f"{split}_x"), getattr(data, f"{split}_y")
            if split == "train":
                kept = torch.cat([(y == k).nonzero().flatten()[:per_class] for k in range(10)])
                x, y = x[kept], y[kept]
            np.save(Path(folder) / f"{split}_x.npy", x.numpy())
            np.save(Path(folder) / f"{split}_y.npy", y.numpy())
        for name in methods:
            found: dict[str, list[dict[str, Any]]] = {"engram": [], "avalanche": []}
            for seed in seeds:
                for side, python in (("engram", engram), ("avalanche", avalanche)):
                    words = [python, __file__, "--side", side, "--methods", name, "--seeds", str(seed)]
                    words += ["--epochs", str(epochs)]
                    env = {**os.environ, "PEER_DATA": folder, "OMP_NUM_THREADS": "1"}
                    if side == "avalanche":
                        env.pop("PYTHONPATH", None)
                    done = subprocess.run(words, env=env, capture_output=True, text=True)
                    if done.returncode:
                        raise SystemExit(f"{side}'s side of {name} failed:\n{done.stderr[-2000:]}")
                    found[side].append(json.loads(done.stdout.strip().splitlines()[-1]))
            ratios = [
                b["seconds"] / a["seconds"] for a, b in zip(found["engram"], found["avalanche"], strict=True)
            ]
            middle = {side: statistics.median(o["seconds"] for o in of) for side, of in found.items()}
            told = "; ".join(
                ", ".join(f"{100 * o['accuracy']:.1f} {100 * o['accuracy_in_task']:.1f}" for o in of)
                + f" ({of[0]['worked']})"
                for of in found.values()
            )
            print(
                f"{name:34} {middle['engram']:8.2f} {middle['avalanche']:9.2f} "
                f"{statistics.median(ratios):6.2f} [{min(ratios):.2f}, {max(ratios):.2f}] {told}",
                flush=True,
            )
            rows.append({"what": name, "ratio": statistics.median(ratios), **found})
    return rows


def main() -> None:
    """Both in turn, or one side."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--avalanche", help="the Python of its environment")
    parser.add_argument("--engram", default=sys.executable, help="the Python of engram's side")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--per-class", type=int, default=6000, help="training images of each class")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--side", choices=("engram", "avalanche"))
    args = parser.parse_args()
    if args.side:
        torch.set_num_threads(1)
        side = ours if args.side == "engram" else theirs
        print(json.dumps(side(args.methods[0], args.epochs, args.seeds[0])))
        return
    if not args.avalanche:
        parser.error("--avalanche must name the Python of an environment that has avalanche-lib 0.6.0.")
    chosen = {"epochs": args.epochs, "per_class": args.per_class, "seeds": tuple(args.seeds)}
    measure(args.avalanche, tuple(args.methods), engram=args.engram, **chosen)


if __name__ == "__main__":
    main()
