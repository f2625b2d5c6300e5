"""Data sets by short name, and where the Hugging Face hub has them; read without torch."""

from __future__ import annotations

SHORT_NAMES: dict[str, str] = {
    "mnist": "ylecun/mnist",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "svhn": "ufldl-stanford/svhn@cropped_digits",
}
