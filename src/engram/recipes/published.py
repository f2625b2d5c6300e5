"""Published figures, each with its paper and place: the only figures that engram prints as published.

Accuracies are in %, sizes in MB. Figures that we know from elsewhere than a paper's tables and its released results are
left out, as are those of the trade-offs of Lee et al. (AAAI 2020), whose tables are not known to us.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["CIFAR", "DGM", "PERMUTED_MNIST", "RESCL", "SI", "STORED", "STORED_FIVE", "TABLES", "Published"]

DGM = "Ostapenko et al., CVPR 2019 (arXiv 1904.03137)"
SI = "Zenke et al., ICML 2017 (arXiv 1703.04200)"
RESCL = "Lee et al., AAAI 2020 (arXiv 2002.06774)"

STORED = "authors' stored run, n = 1"
STORED_FIVE = "authors' stored runs, n = 5"


@dataclass(frozen=True)
class Published:
    """Figures of one table or figure.

    Args:
        paper: authors, venue, number.
        place: the table or figure.
        known: how they are known, and over how many runs.
        values: by row and column.
    """

    paper: str
    place: str
    known: str
    values: Mapping[str, Mapping[str, float]]


#: Mean over the tasks seen so far after 1 .. 10 tasks of permuted MNIST (SI, Fig. 4): by c, with xi = 0.1.
PERMUTED_MNIST: dict[float, tuple[float, ...]] = {
    0.1: (98.30, 98.32, 98.27, 97.99, 97.89, 97.77, 97.56, 97.46, 97.12, 96.94),
    0.0: (98.13, 94.93, 84.59, 80.75, 77.43, 72.86, 66.70, 66.80, 58.50, 57.41),
}

#: Means of each task after the last, CIFAR-10 and then five ten-class parts of CIFAR-100 (SI, Fig. 6), xi = 1e-3.
CIFAR: dict[str, tuple[float, ...]] = {
    "c = 0.01": (74.6, 71.8, 71.4, 74.4, 70.4, 78.6),
    "c = 0.1": (78.3, 74.3, 68.2, 71.9, 67.0, 72.5),
    "c = 0": (45.9, 54.9, 57.0, 68.7, 67.5, 81.0),
    "from scratch": (80.4, 69.0, 64.7, 73.3, 67.9, 71.3),
}

_NO_SPREAD = "number of runs and spread are not given"

#: By the name of the target that prints them.
TABLES: dict[str, Published] = {
    "dgm-table1": Published(
        DGM,
        "Table 1, MNIST; A5 and A10: average accuracy when 5 and 10 classes are known",
        f"{_NO_SPREAD}; the rows with stored samples are quoted there from Chaudhry et al. (ECCV 2018)",
        {
            "JT": {"A5": 97.66, "A10": 98.10},
            "iCaRL-S": {"A10": 55.8},
            "EWC-S": {"A10": 79.7},
            "RWalk-S": {"A10": 82.5},
            "PI-S": {"A10": 78.7},
            "EWC-M": {"A5": 70.62, "A10": 77.03},
            "DGR": {"A5": 90.39, "A10": 85.40},
            "MeRGAN": {"A5": 98.19, "A10": 97.00},
            "DGMw": {"A5": 98.75, "A10": 96.46},
            "DGMa": {"A5": 99.17, "A10": 97.92},
        },
    ),
    "dgm-table1-svhn": Published(
        DGM,
        "Table 1, SVHN",
        _NO_SPREAD,
        {
            "JT": {"A5": 85.30, "A10": 84.82},
            "EWC-M": {"A5": 39.84, "A10": 33.02},
            "DGR": {"A5": 61.29, "A10": 47.28},
            "MeRGAN": {"A5": 80.90, "A10": 66.78},
            "DGMw": {"A5": 83.93, "A10": 74.38},
            "DGMa": {"A5": 81.07, "A10": 66.89},
        },
    ),
    "dgm-table1-cifar10": Published(
        DGM,
        "Table 1, CIFAR-10",
        _NO_SPREAD,
        {
            "JT": {"A5": 82.20, "A10": 64.20},
            "DGMw": {"A5": 64.94, "A10": 51.70},
            "DGMa": {"A5": 62.50, "A10": 50.80},
        },
    ),
    "dgm-table2": Published(
        DGM,
        "Table 2, ImageNet-50; top-1 and top-5 after 30 and 50 classes",
        _NO_SPREAD,
        {
            "JT": {"A30": 57.35, "A50": 49.88, "top-5 A30": 84.70, "top-5 A50": 78.24},
            "iCaRL K=1000": {"A30": 29.38, "A50": 28.98, "top-5 A30": 69.98, "top-5 A50": 59.49},
            "iCaRL K=2000": {"A30": 39.38, "A50": 29.96, "top-5 A30": 70.57, "top-5 A50": 60.07},
            "DGMw K=1000": {"A30": 36.87, "A50": 18.84, "top-5 A30": 69.13, "top-5 A50": 43.12},
            "DGMw K=2000": {"A30": 41.93, "A50": 22.56, "top-5 A30": 69.20, "top-5 A50": 51.84},
            "DGMw r=0.75": {"A30": 50.80, "A50": 38.22, "top-5 A30": 78.27, "top-5 A50": 64.64},
            "DGMw r=0.5": {"A30": 48.80, "A50": 40.72, "top-5 A30": 79.40, "top-5 A50": 71.72},
            "DGMw r=0.25": {"A30": 46.93, "A50": 35.04, "top-5 A30": 75.80, "top-5 A50": 65.60},
            "DGMw r=0.1": {"A30": 41.67, "A50": 30.48, "top-5 A30": 71.80, "top-5 A50": 61.04},
            "DGMw r=0": {"A30": 32.14, "A50": 17.82, "top-5 A30": 62.53, "top-5 A50": 40.76},
        },
    ),
    "dgm-table3": Published(
        DGM,
        "Table 3, MNIST; its columns of sizes are not known to us",
        _NO_SPREAD,
        {"DGMw": {"A10": 96.46}, "MeRGAN": {"A10": 97.00}},
    ),
    "dgm-table4": Published(
        DGM,
        "Table 4, MNIST, disk space; masks in a sparse format",
        f"{_NO_SPREAD}; which columns are MNIST's is our reading",
        {
            "DGMa": {"weights": 6.7, "masks": 0.4, "in all": 7.1},
            "DGMw": {"weights": 1.1, "masks": 3.8, "in all": 4.9},
        },
    ),
    "dgm-fig2": Published(
        DGM,
        "Fig. 2, ImageNet-50, top-5; its values at 30 and 50 classes are those of Table 2",
        _NO_SPREAD,
        {
            "JT": {"top-5 A30": 84.70, "top-5 A50": 78.24},
            "DGMw r=0": {"top-5 A30": 62.53, "top-5 A50": 40.76},
        },
    ),
    "si-fig3": Published(
        SI,
        "Fig. 3, average over five tasks of split MNIST",
        "read off the plot of the authors' notebook, n = 10, training images",
        {"SI, c = 1": {"average": 99.0}, "c = 0": {"average": 86.0}},
    ),
    "si-fig4": Published(
        SI,
        "Fig. 4, average over ten tasks of permuted MNIST",
        STORED,
        {"SI, c = 0.1": {"average": 96.94}, "c = 0": {"average": 57.41}},
    ),
    "si-fig6": Published(
        SI,
        "Fig. 6, accuracy of each task after the last",
        STORED_FIVE,
        {label: {**{f"task {i}": v for i, v in enumerate(values, 1)}} for label, values in CIFAR.items()},
    ),
    "si-scan": Published(
        SI,
        "stored runs of permuted MNIST at four values of c",
        STORED,
        {
            "c = 0.1": {"average": 96.94},
            "c = 0.02": {"average": 93.91},
            "c = 0.01": {"average": 92.00},
            "c = 0": {"average": 57.41},
        },
    ),
}
