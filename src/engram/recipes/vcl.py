"""Recipes of variational continual learning (Nguyen et al., ICLR 2018), as its released code runs."""

from __future__ import annotations

from engram.recipes.book import Recipe, register

_ORIGIN = "Nguyen et al., ICLR 2018 (arXiv 1710.10628), as the released code (nvcuong/variational-continual-learning)"
_FIT = {"optimiser": "adam", "lr": 1e-3, "n_samples": 10, "n_predict": 100, "reparameterisation": "weights"}


@register
def vcl_splitmnist() -> Recipe:
    """Split MNIST with a head a task."""
    return Recipe(
        "vcl-splitmnist",
        "Split MNIST with task labels: 5 two-class tasks, a perceptron of 2 x 256 units, 120 steps of all samples",
        _ORIGIN,
        data={"data": "mnist", "scenario": "task", "tasks": 5},
        network="mlp",
        network_options={"hidden": (256, 256)},
        # One batch holds a task whole.
        methods={"vcl": {**_FIT, "epochs": 120, "batch_size": 60000, "coreset_size": 40}},
    )


@register
def vcl_permuted() -> Recipe:
    """Permuted MNIST with one head; five tasks as the script, ten in the paper's figure."""
    return Recipe(
        "vcl-permuted",
        "Permuted MNIST: 5 tasks, a perceptron of 2 x 100 units, 100 epochs; hours a seed with ten draws",
        _ORIGIN,
        data={"data": "mnist", "scenario": "domain", "domain": "permuted", "tasks": 5},
        network="mlp",
        network_options={"hidden": (100, 100)},
        methods={"vcl": {**_FIT, "epochs": 100, "batch_size": 256, "coreset_size": 200}},
    )
