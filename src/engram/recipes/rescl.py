"""Recipes of trade-off curves and of Residual Continual Learning, the same training for every method.

The paper's data, schedules and tables are not known to us; the small setting follows a check of our own, the large ones
what is usual for pre-activation residual networks (He et al., ECCV 2016).
"""

from __future__ import annotations

from typing import Any

from engram.recipes.book import Recipe, Values, register

RESCL = "Lee et al., Residual Continual Learning, AAAI 2020 (arXiv 2002.06774)"
FITTED = (
    *("finetune", "frozen", "scratch", "rescl", "lwf", "l2sp", "ewc", "ewc-online", "si", "mas", "rwalk"),
    *("imm-mean", "imm-mode", "averaging"),
)


def _methods(fit: dict[str, Any]) -> dict[str, Values]:
    """The same training for all but joint training, whose SGD has no momentum: Adam, for as many epochs."""
    joint = {"epochs": fit["epochs"], "batch_size": fit["batch_size"], "optimiser": "adam", "lr": 1e-3}
    joint["patience"] = None
    return {**dict.fromkeys(FITTED, fit), "joint": {**joint, "schedule": fit["schedule"]}}


@register
def tradeoff_small() -> Recipe:
    """Minutes a run on one thread: the default of ``engram tradeoff``.

    Optimiser, rate and batch are the ones, of three tried, with which fine-tuning learned the target best on validation
    images of seed 0; the rate of ResCL's second phase is the better of two on the same images. LwF's loss is a convex
    combination and EWC's penalty a proximal step, since at this rate weights above 1 and strengths above 100 diverge
    otherwise.
    """
    fit = {
        "epochs": 5,
        "batch_size": 32,
        "optimiser": "sgd",
        "lr": 0.05,
        "momentum": 0.9,
        "schedule": "cosine",
    }
    methods = {
        **_methods(fit),
        "rescl": {**fit, "combine_lr": 0.005},
        "lwf": {**fit, "balance": "convex"},
        "ewc": {**fit, "penalty_step": "proximal"},
    }
    return Recipe(
        "tradeoff-small",
        "MNIST 0 to 4, then MNIST-M 5 to 9, with task labels: a small pre-activation residual network, 5 epochs",
        f"ours; the procedure of comparison: {RESCL}; MNIST-M is a stand-in for SVHN, not SVHN",
        data={
            "data": "mnist:0-4+mnist_m:5-9",
            "scenario": "task",
            "max_per_class": 2000,
            "valid_fraction": 0.1,
        },
        network="preact-resnet",
        network_options={"units": (1, 1, 1), "widths": (8, 16, 32)},
        methods=methods,
    )


@register
def rescl_pair() -> Recipe:
    """A pair of alike images whose source is worth keeping; minutes a run on one thread."""
    fit = {
        "epochs": 10,
        "batch_size": 64,
        "optimiser": "sgd",
        "lr": 0.05,
        "momentum": 0.9,
        "schedule": "cosine",
        "later_lr": 0.02,
    }
    return Recipe(
        "rescl-pair",
        "CIFAR-10 classes 0 to 4, then 5 to 9, with task labels: a small pre-activation residual network, 10 epochs",
        f"ours; the procedure of comparison: {RESCL}",
        data={
            "data": "cifar10:0-4+cifar10:5-9",
            "scenario": "task",
            "max_per_class": 2000,
            "valid_fraction": 0.1,
        },
        network="preact-resnet",
        network_options={"units": (1, 1, 1), "widths": (8, 16, 32)},
        methods={
            **_methods(fit),
            "rescl": {**fit, "combine_lr": 0.005},
            "lwf": {**fit, "balance": "convex"},
        },
    )


@register
def rescl_digits_three() -> Recipe:
    """Three tasks in sequence."""
    return Recipe(
        "rescl-digits-three",
        "8x8 digits in tasks of 4, 3 and 3 classes, with task labels: a small pre-activation residual network",
        "ours",
        data={"data": "digits", "scenario": "task", "groups": (4, 3, 3), "image_size": 8},
        network="preact-resnet",
        network_options={"units": (1, 1, 1), "widths": (8, 16, 32)},
        methods={name: {"epochs": 10, "batch_size": 64, "lr": 1e-3} for name in ("rescl", "lwf", "finetune")},
    )


def _cifar(name: str, summary: str, data: str, note: str) -> Recipe:
    fit = {
        "epochs": 200,
        "batch_size": 128,
        "optimiser": "sgd",
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "schedule": "step",
        "later_epochs": 60,
        "later_lr": 0.01,
    }
    return Recipe(
        name,
        summary,
        f"{RESCL}; its data pairs, depth and schedules are not known to us, these are ours{note}",
        data={"data": data, "scenario": "task", "valid_fraction": 0.1},
        network="preact-resnet",
        network_options={"units": (5, 5, 5), "widths": (16, 32, 64)},
        methods=_methods(fit),
    )


@register
def rescl_cifar() -> Recipe:
    """Three tasks from local copies; a trade-off takes two, named with ``--source`` and ``--target``."""
    return _cifar(
        "rescl-cifar",
        "CIFAR-10, then twice ten classes of Tiny ImageNet (a stand-in for CIFAR-100), 32 layers, 200 and 60 epochs",
        "cifar10+tiny_imagenet_100_32px:0-9+tiny_imagenet_100_32px:10-19",
        "; 100 classes of Tiny ImageNet are a stand-in for CIFAR-100, not CIFAR-100",
    )


@register
def rescl_cifar100() -> Recipe:
    """The pair from the hub."""
    return _cifar(
        "rescl-cifar100", "CIFAR-10, then CIFAR-100, 32 layers, 200 and 60 epochs", "cifar10+cifar100", ""
    )
