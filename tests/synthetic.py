"""Made-up results with every field of schema 1 filled, for tests of the report and for looking at it.

``python tests/synthetic.py DIR`` writes a comparison and builds its report.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from engram.core.files import checksum
from engram.protocols.entry import plain
from engram.studies.results import seed_result, write_entry, write_study
from engram.studies.variants import identity_of

N_TASKS = 5
EPOCHS = 12


def accuracy_matrix(rng: np.random.Generator, n_tasks: int, learn: float, keep: float) -> np.ndarray:
    """Lower triangle [T, T]: a task starts near `learn` and keeps the share `keep` at every later task."""
    matrix = np.full((n_tasks, n_tasks), np.nan)
    for i in range(n_tasks):
        for j in range(i + 1):
            matrix[i, j] = np.clip(learn * keep ** (i - j) + rng.normal(0, 0.02), 0, 1)
    return matrix


def _phase(rng: np.random.Generator, name: str, losses: dict[str, float], gates: bool) -> dict[str, Any]:
    epochs = []
    for epoch in range(EPOCHS):
        decay = np.exp(-epoch / 4)
        entry: dict[str, Any] = {
            "epoch": epoch,
            "losses": {k: v * (0.3 + decay) + rng.normal(0, 0.02) for k, v in losses.items()},
            "measures": {},
        }
        if gates:
            hard = epoch / (EPOCHS - 1)
            entry["measures"]["gates"] = {f"layer{i}": _gates(rng, hard, 0.15 + 0.15 * i) for i in range(3)}
        epochs.append(entry)
    return {"phase": name, "epochs": epochs}


def _gates(rng: np.random.Generator, hard: float, used: float) -> dict[str, Any]:
    target = (rng.random(600) < used).astype(float)
    values = (1 - hard) * 0.5 + hard * target + (1 - hard) * rng.normal(0, 0.08 * (0.2 + hard), 600)
    values = np.clip(values, 0, 1)
    hist = np.histogram(values, bins=10, range=(0, 1))[0]
    return {"mean": values.mean(), "on": (values >= 0.5).mean(), "hist": hist}


def _generative_task(rng: np.random.Generator, t: int) -> dict[str, Any]:
    weights = round(54912 * (1 + 0.55 * t))
    sizes = [weights // 2, weights // 4, weights - weights // 2 - weights // 4]
    return {
        "task": t,
        "seconds": 8.0 + t,
        "phases": [
            _phase(
                rng, "gan", {"critic/wasserstein": 4.0, "critic/penalty": 0.6, "generator/adv": 2.0}, True
            ),
            _phase(rng, "solver", {"solver/cross_entropy": 1.5}, False),
        ],
        "growth": {
            "widths": [24 + 9 * t, 12 + 5 * t, 6 + 2 * t],
            "weights": weights,
            "reserved": [int(size * 0.55 * (1 - 0.6 ** (t + 1))) for size in sizes],
            "widths_after": [33 + 9 * t, 17 + 5 * t, 8 + 2 * t],
            "weights_after": int(54912 * (1.55 + 0.55 * t)),
        },
        "mask_use": [
            {"layer": i, "size": sizes[i], "used": 4000 // 2**i, "newly": n, "reused": 4000 // 2**i - n}
            for i, n in ((i, int(4000 // 2**i * (0.25 + 0.75 * 0.6**t))) for i in range(3))
        ],
    }


def _plain_task(rng: np.random.Generator, t: int) -> dict[str, Any]:
    return {"task": t, "seconds": 2.0, "phases": [_phase(rng, "fit", {"net/cross_entropy": 1.8}, False)]}


def _confusion(rng: np.random.Generator, n: int, accuracy: float) -> np.ndarray:
    counts = rng.multinomial(round(40 * (1 - accuracy)), np.full(n, 1 / n), size=n)
    counts[np.arange(n), np.arange(n)] += 40 - counts.sum(axis=1)
    return counts


def _samples(path: Path, n_classes: int) -> None:
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.stack([data.images[data.target == c][:8] for c in range(n_classes)])
    noise = np.random.default_rng(3).normal(0, 12, images.shape)
    pixels = np.clip(images * 15.9 + noise, 0, 255).astype(np.uint8)[:, :, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"images": pixels, "labels": np.arange(n_classes, dtype=np.int64)}, path)


def result(method: str, *, n_seeds: int = 3, n_tasks: int = N_TASKS, failed: bool = False) -> dict[str, Any]:
    """A result of schema 1; `failed` adds a seed that diverged after two tasks."""
    learn, keep, stored = {
        "finetune": (0.97, 0.35, 0),
        "icarl": (0.95, 0.93, 200),
        "dgmw": (0.96, 0.97, 0),
    }.get(method, (0.9, 0.8, 0))
    generative = method == "dgmw"
    seeds = []
    for seed in range(n_seeds):
        rng = np.random.default_rng([len(method), seed])
        make = _generative_task if generative else _plain_task
        matrix = accuracy_matrix(rng, n_tasks, learn, keep)
        seeds.append(
            seed_result(
                seed,
                matrix,
                seconds=n_tasks * (4.0 + seed / n_tasks + 8 * generative),
                seconds_per_task=[4.0 + seed / n_tasks + 8 * generative] * n_tasks,
                peak_memory_bytes=300_000_000,
                stored_real_samples=stored,
                storage_bytes={
                    "weights": 4 * 54912 * (3 if generative else 1),
                    "masks": 41_000 * generative,
                    "norms_and_heads": 9_000,
                    "exemplars": stored * 64,
                    "other": 0,
                },
                acc_gen=[0.98 - 0.01 * t for t in range(n_tasks)] if generative else None,
                generated={"acc_rev": 0.92 + 0.01 * seed, "diversity": [0.9] * (2 * n_tasks - 1) + [0.7]}
                if generative
                else None,
                confusion=_confusion(rng, 2 * n_tasks, float(matrix[-1].mean())),
                tasks=[make(rng, t) for t in range(n_tasks)],
                samples=f"seed-{seed}/samples.safetensors" if generative and seed == 0 else None,
            )
        )
    if failed:
        error = "the loss of task 2, phase fit, step 17 is not finite: lower the learning rate."
        seeds.append(seed_result(n_seeds, [[0.97], [0.4, 0.95]], status="failed", error=error, seconds=5.0))
    classes = [[2 * t, 2 * t + 1] for t in range(n_tasks)]
    names = [f"digit {c}" for c in range(2 * n_tasks)]
    return {
        "engram": "0.1.0",
        "method": method,
        "label": method,
        "config": {
            "method": {"name": method, "epochs": EPOCHS, "lr": 1e-3},
            "data": {"name": "digits", "classes_per_task": 2},
            "seeds": list(range(n_seeds)),
        },
        "protocol": {
            "scenario": "class",
            "reads": "task + memory" if stored else "task",
            "selection": "last epoch",
        },
        "data": {
            "name": "digits",
            "fingerprint": "sha256:5d1c0ffee",
            "n_classes": 2 * n_tasks,
            "class_names": names,
            "image_shape": [1, 8, 8],
            "notes": ["Pixels scaled from 0..16 to 0..1."],
        },
        "tasks": [
            {
                "index": t,
                "name": f"{names[c[0]]}, {names[c[1]]}",
                "classes": c,
                "class_names": [names[k] for k in c],
                "n_train": 280,
                "n_test": 80,
            }
            for t, c in enumerate(classes)
        ],
        "device": {"class": "cpu", "threads": 1, "torch": "2.13.0"},
        "facts": {"solver": "separate (generated)" if generative else "same network"},
        "seeds": seeds,
    }


def write(root: Path, results: dict[str, dict[str, Any]]) -> Path:
    """Write a study with these results by folder; ``"."`` is that of a run. The data and tasks are the first one's."""
    variants = []
    first = next(iter(results.values()))
    for folder, made in results.items():
        kept = {k: made[k] for k in ("label", "method", "protocol", "device", "facts", "engram")}
        config = {k: v for k, v in made["config"].items() if k not in ("data", "seeds")}
        whole = {**kept, "config": {**config, "data": first["config"]["data"]}, "data": first["data"]}
        identity = checksum(plain(identity_of(whole)))
        for seed in made["seeds"]:
            write_entry(root / folder / f"seed-{seed['seed']}", identity, seed)
        numbers = [seed["seed"] for seed in made["seeds"]]
        variants.append({**kept, "config": config, "folder": folder, "identity": identity, "seeds": numbers})
    kind = "run" if list(results) == ["."] else "comparison"
    shared = {"data_settings": first["config"]["data"], "data": first["data"], "tasks": first["tasks"]}
    write_study(root, {"kind": kind, **shared, "variants": variants, "found": {}})
    return root


def write_comparison(directory: Path, *, n_seeds: int = 3, n_tasks: int = N_TASKS) -> Path:
    """Write three methods below `directory`: one with a failed seed, one with exemplars, one generative."""
    made = {
        method: result(method, n_seeds=n_seeds, n_tasks=n_tasks, failed=method == "finetune")
        for method in ("dgmw", "finetune", "icarl")
    }
    write(directory, made)
    _samples(directory / "dgmw" / "seed-0" / "samples.safetensors", min(10, 2 * n_tasks))
    return directory


def main(argv: list[str]) -> None:
    """Write a comparison to argv[0] and build its report."""
    from engram.report import write_report

    print(write_report(write_comparison(Path(argv[0]))))


if __name__ == "__main__":
    main(sys.argv[1:])
