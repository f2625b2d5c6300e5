"""Figures of the SI paper's authors, to be drawn beside ours and named for what they are.

Source: the stored results of ``ganguli-lab/pathint``, the code released with F. Zenke, B. Poole, S. Ganguli: "Continual
Learning Through Synaptic Intelligence", ICML 2017 (arXiv 1703.04200). Test accuracies in %.
"""

from __future__ import annotations

STORED = "authors' stored run, n = 1"
STORED_FIVE = "authors' stored runs, n = 5"

#: Mean over the tasks seen so far after 1 .. 10 tasks of permuted MNIST (Fig. 4): by c, with xi = 0.1.
PERMUTED_MNIST: dict[float, tuple[float, ...]] = {
    0.1: (98.30, 98.32, 98.27, 97.99, 97.89, 97.77, 97.56, 97.46, 97.12, 96.94),
    0.0: (98.13, 94.93, 84.59, 80.75, 77.43, 72.86, 66.70, 66.80, 58.50, 57.41),
}

#: Means of each task after the last, CIFAR-10 and then five ten-class parts of CIFAR-100 (Fig. 6), xi = 1e-3.
CIFAR: dict[str, tuple[float, ...]] = {
    "c = 0.01": (74.6, 71.8, 71.4, 74.4, 70.4, 78.6),
    "c = 0.1": (78.3, 74.3, 68.2, 71.9, 67.0, 72.5),
    "c = 0": (45.9, 54.9, 57.0, 68.7, 67.5, 81.0),
    "from scratch": (80.4, 69.0, 64.7, 73.3, 67.9, 71.3),
}
