"""Importances of a task that ends, over its samples and the parameters of a method's network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engram import seeds
from engram.core.contract import Context, Samples, TaskInfo
from engram.core.options import Count
from engram.parts.classifier import Classifier
from engram.parts.fisher import Labels, Paths, diagonal_fisher, output_sensitivity, prove
from engram.parts.fitting import TrainOptions


@dataclass(frozen=True)
class FisherOptions(TrainOptions):
    """Options of plain training and of the Fisher information that each task leaves.

    Args:
        fisher_labels: the labels whose gradient is squared for the Fisher information: sampled (one label drawn from
            the prediction), exact (expectation over all labels), empirical (the true label), predicted (the most
            probable one).
        fisher_samples: training samples that the Fisher information is taken over, drawn at random; None for all.
    """

    fisher_labels: Labels = "sampled"
    fisher_samples: Count | None = None


class TaskImportance:
    """How a network's answers for a task depend on each parameter, at the present weights.

    Args:
        net: the method's ``net``. What is right for its trunk is proved here, before anything is trained.
        context: gives the network's range of pixels, and the seed of the draws.

    Both functions take parameters by their names in the method (``net.``...), the task, whose active labels are the
    outputs, its training samples, and how many of these to draw at random (None for all), and return a value [*] by
    the same names.
    """

    def __init__(self, net: Classifier, context: Context) -> None:
        self.net, self.context = net, context
        self.trunk = prove(net.trunk, torch.zeros(1, *context.image_shape))

    def fisher(
        self,
        parameters: Mapping[str, Tensor],
        task: TaskInfo,
        data: Samples,
        n_samples: int | None = None,
        labels: Labels = "sampled",
    ) -> dict[str, Tensor]:
        """F of Eq. 3 in Kirkpatrick et al. (PNAS 2017), in nats^2 per squared unit of the parameter.

        ``labels``: see :func:`engram.parts.fisher.diagonal_fisher`.
        """
        g = seeds.generator(self.context.seed, "fisher", task.index)
        seen = data.some(n_samples, g)
        more = {"labels": labels, "y": seen.y - task.active[0], "generator": g}
        return self._found(diagonal_fisher, parameters, task, seen, more)

    def sensitivity(
        self, parameters: Mapping[str, Tensor], task: TaskInfo, data: Samples, n_samples: int | None = None
    ) -> dict[str, Tensor]:
        """Omega of Sec. 4.1 in Aljundi et al. (ECCV 2018), in squared logits per unit of the parameter."""
        seen = data.some(n_samples, seeds.generator(self.context.seed, "importance", task.index))
        return self._found(output_sensitivity, parameters, task, seen, {})

    def _found(
        self,
        measure: Any,
        parameters: Mapping[str, Tensor],
        task: TaskInfo,
        seen: Samples,
        more: Mapping[str, Any],
    ) -> dict[str, Tensor]:
        own = {name.removeprefix("net."): p for name, p in parameters.items()}
        transform = self.context.network.normalise
        found = measure(self.net, own, seen.x, task.active, transform=transform, paths=self._paths(), **more)
        return {f"net.{name}": value for name, value in found.items()}

    def _paths(self) -> Paths:
        """Those of the whole network: a head is a linear layer, called once, on [B, F]."""
        layers = [f"trunk.{name}" if name else "trunk" for name in self.trunk.layers]
        heads = [f"head.parts.{i}" for i in range(len(self.net.head.parts))]
        return Paths((*layers, *heads), self.trunk.vectorised)
