"""Fisher information of a task that ends, as the methods of Elastic Weight Consolidation take it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from engram import seeds
from engram.core.contract import Context, Samples, TaskInfo
from engram.parts.classifier import Classifier
from engram.parts.fisher import Labels, Paths, diagonal_fisher
from engram.parts.training import some_of


def with_heads(net: Classifier, trunk: Paths) -> Paths:
    """Paths of the whole network from those proved for its trunk: a head is a linear layer, called once, on [B, F]."""
    layers = [f"trunk.{name}" if name else "trunk" for name in trunk.layers]
    heads = [f"head.parts.{i}" for i in range(len(net.head.parts))]
    return Paths((*layers, *heads), trunk.vectorised)


def task_fisher(
    net: Classifier,
    trunk: Paths,
    parameters: Mapping[str, Tensor],
    task: TaskInfo,
    data: Samples,
    context: Context,
    *,
    labels: Labels = "sampled",
    n_samples: int | None = None,
) -> dict[str, Tensor]:
    """F of Eq. 3 in Kirkpatrick et al. (PNAS 2017) at the present weights, over samples and active labels of the task.

    Args:
        net: the method's ``net``.
        trunk: paths proved for ``net.trunk`` when the method was built.
        parameters: those wanted, by their names in the method (``net.``...), each [*].
        task: its active labels are the softmax.
        data: its training samples.
        context: gives the network's range of pixels, and the seed of the draws.
        labels: see :func:`engram.parts.fisher.diagonal_fisher`.
        n_samples: of ``data``, drawn at random; None for all.
    Returns:
        By the names of ``parameters``, each [*], in nats^2 per squared unit of the parameter.
    """
    g = seeds.generator(context.seed, "fisher", task.index)
    seen = some_of(data, n_samples, g)
    found = diagonal_fisher(
        net,
        {name.removeprefix("net."): p for name, p in parameters.items()},
        seen.x,
        task.active,
        labels=labels,
        y=seen.y - task.active[0],
        generator=g,
        transform=context.network.normalise,
        paths=with_heads(net, trunk),
    )
    return {f"net.{name}": value for name, value in found.items()}
