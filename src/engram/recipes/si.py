"""Recipes of Synaptic Intelligence and of Riemannian Walk, with the baselines that belong beside them.

Choices of the authors that differ from our defaults stand here as options. What differs all the same: permuted MNIST
begins from PyTorch's initial weights here and from Glorot-uniform ones there; and split MNIST is judged on test images
here and on training images in the authors' notebook.
"""

from __future__ import annotations

from typing import Any

from engram.recipes.book import Recipe, Values, register

SI = "Zenke et al., ICML 2017 (arXiv 1703.04200)"
CODE = "the released code (ganguli-lab/pathint)"

# One output layer, softmax masked to the task, starting at 0; Adam afresh in every task.
_AUTHORS_HEAD = {"masked_head": True, "zero_head": True, "keep_optimiser": False}


def _fit(epochs: int, batch_size: int) -> dict[str, Any]:
    return {"epochs": epochs, "batch_size": batch_size, "optimiser": "adam", "lr": 1e-3}


@register
def si_splitmnist() -> Recipe:
    """Split MNIST as in Sec. 5.1; the other methods with a head a task."""
    fit = _fit(10, 64)
    methods: dict[str, Values] = {
        "si": {**fit, **_AUTHORS_HEAD, "c": 1.0, "xi": 1e-3},
        "finetune": {**fit, **_AUTHORS_HEAD},
        "joint": {**fit, "patience": None},
        **dict.fromkeys(("ewc", "mas", "lwf"), fit),
        "hat": {"epochs": 10, "batch_size": 64},
        # Ten epochs a task in all.
        "packnet": {**fit, "epochs": 7, "retrain_epochs": 3},
        "den": {**fit, "head_epochs": 2, "epochs": 4},  # up to 14 with one expansion and one split
        "ewc-online": fit,
        "pc": {**fit, "epochs": 5, "compress_epochs": 5},
        **dict.fromkeys(("piggyback", "pnn"), fit),
    }
    return Recipe(
        "si-splitmnist",
        "Split MNIST with task labels: 5 two-class tasks, a perceptron of 2 x 256 units, 10 epochs",
        f"{SI}, Sec. 5.1, head and optimiser as in {CODE}; methods without a setting there: ours",
        data={"data": "mnist", "scenario": "task", "tasks": 5},
        network="mlp",
        network_options={"hidden": (256, 256), "init": "glorot"},
        methods=methods,
    )


@register
def si_permuted() -> Recipe:
    """Permuted MNIST as in Sec. 5.2. EWC's strength is ours, chosen by a sweep over three tasks of three epochs."""
    fit = _fit(20, 256)
    kept = {**fit, "keep_optimiser": True}
    methods: dict[str, Values] = {
        "si": {**kept, "c": 0.1, "xi": 0.1, "first_reference": "zero"},
        "finetune": kept,
        "ewc": {**kept, "strength": 1e4},
        "joint": {**fit, "patience": None, "at": (1, 5, 10)},
    }
    return Recipe(
        "si-permuted",
        "Permuted MNIST: 10 tasks, a perceptron of 2 x 2000 units, 20 epochs; hours a seed on one thread",
        f"{SI}, Sec. 5.2, optimiser and first reference as in {CODE}; EWC's strength and joint training: ours",
        data={"data": "mnist", "scenario": "domain", "domain": "permuted", "tasks": 10},
        network="mlp",
        network_options={"hidden": (2000, 2000)},
        methods=methods,
    )


def _cifar(name: str, hundred: str, epochs: int, what: str) -> Recipe:
    parts = "+".join(f"{hundred}:{first}-{first + 9}" for first in range(0, 50, 10))
    fit = _fit(epochs, 256)
    return Recipe(
        name,
        f"CIFAR-10, then five ten-class parts of {what}, with task labels, {epochs} epochs",
        f"{SI}, Sec. 5.3, head, optimiser and c as in {CODE}"
        + ("" if epochs == 60 else "; fewer epochs and the stand-in: ours"),
        data={"data": f"cifar10+{parts}", "scenario": "task"},
        network="cifar-cnn",
        methods={
            "si": {**fit, **_AUTHORS_HEAD, "c": 0.01, "xi": 1e-3},
            "finetune": {**fit, **_AUTHORS_HEAD},
            "scratch": {**fit, "zero_head": True},
        },
    )


@register
def si_cifar() -> Recipe:
    """CIFAR-10, then CIFAR-100 in parts, as in Sec. 5.3."""
    return _cifar("si-cifar", "cifar100", 60, "CIFAR-100")


@register
def si_cifar_short() -> Recipe:
    """The same with 12 epochs, and 50 classes of Tiny ImageNet standing in for those of CIFAR-100."""
    return _cifar(
        "si-cifar-short",
        "tiny_imagenet_100_32px",
        12,
        "Tiny ImageNet (a stand-in for CIFAR-100, not CIFAR-100)",
    )


@register
def rwalk_s() -> Recipe:
    """The rows "-S" of DGM's Table 1: stored samples, one head, no task labels.

    One epoch: in ten the network learns the stored samples by heart and takes old classes for new ones. Strengths were
    chosen by sweeps on validation images of the first three tasks.
    """
    fit: dict[str, Any] = {
        **_fit(1, 64),
        "memory_per_class": 10,
        "memory_choice": "mean_of_features",
        "memory_weight": "classes",
    }
    return Recipe(
        "rwalk-s",
        "MNIST, 5 two-class tasks, one head, 10 stored samples a class in half of each batch, one epoch",
        "Chaudhry et al., ECCV 2018 (arXiv 1801.10112), as quoted in Ostapenko et al., CVPR 2019, Table 1; the loss "
        "weighted by class as in the released code (facebookresearch/agem); epochs, strengths and the share of stored "
        "samples: ours",
        data={"data": "mnist", "scenario": "class", "tasks": 5},
        network="mlp",
        network_options={"hidden": (256, 256)},
        methods={
            "ewc": {**fit, "strength": 1e4},
            "rwalk": {
                **fit,
                "strength": 100.0,
                "alpha": 0.9,
                "interval": 10,
                "damping": 1e-3,
                "normalise": True,
            },
            "si": {**fit, "c": 10.0, "xi": 1e-3},
            "finetune": fit,
            "icarl": {"epochs": 1, "memory_per_class": 10},
        },
    )
