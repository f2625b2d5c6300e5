"""The trunk of a network trained on the first task, then frozen: features that know the first classes and no others.

The usual fixed features where nothing is pre-trained, for example those of analytic learning (Zhuang et al., "ACIL",
NeurIPS 2022) and of FeTrIL (Petit et al., WACV 2023), which give it half of all classes.

Departures: none, no paper fixes the training. Cost: training on one task, and the trunk's weights are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from engram import networks
from engram.core.network import Network, n_features
from engram.core.options import Count, CountOrZero, Positive
from engram.core.samples import Samples, Shape
from engram.core.values import check
from engram.errors import ConfigError
from engram.features.contract import Features, check_images
from engram.learning.learner import Learner
from engram.methods.registry import method


class FrozenTrunk(nn.Module):
    """The features [N, D] that a network's trunk has of images uint8 [N, C, H, W]."""

    def __init__(self, network: Network, image_shape: Shape) -> None:
        super().__init__()
        self.network, self.trunk = network, network.trunk(image_shape)
        self.n_features = n_features(self.trunk)

    def forward(self, images: Tensor) -> Tensor:
        return self.trunk(self.network.normalise(images)).flatten(1)


@dataclass(frozen=True)
class FirstTask(Features):
    """The trunk of a network trained on the first task, frozen.

    Args:
        network: the trunk's network by name, see engram list; none for the one that fits the images.
        epochs: passes over the first task.
        lr: learning rate of Adam at its start; it falls to 0 as a cosine.
        batch_size: images in a step of the trunk's training.
        seed: seed of the trunk's initial weights and of the order of images.

    Raises:
        ConfigError: a value out of range, or no such network.
    """

    name: ClassVar[str] = "first-task"
    learns: ClassVar[bool] = True
    network: str | None = None
    epochs: Count = 20
    lr: Positive = 1e-3
    batch_size: Count = 64
    seed: CountOrZero = 0

    def __post_init__(self) -> None:
        check(self)
        if self.network is not None:
            try:
                networks.check_name(self.network)
            except ConfigError as error:
                raise ConfigError(f"{self.name}.{error}") from None

    @property
    def trained_on(self) -> str:
        return "the first task"

    def _network(self, image_shape: Shape) -> Network:
        found = (
            networks.default_for(image_shape) if self.network is None else networks.by_name(self.network)()
        )
        found.check(image_shape)
        return found

    def module(self, image_shape: Shape) -> nn.Module:
        return FrozenTrunk(self._network(check_images(self.name, image_shape)), image_shape)

    def fit(self, module: nn.Module, first: Samples) -> None:
        n = int(first.y.max()) + 1
        if n < 2:
            raise ConfigError(
                "features first-task need a first task of at least two classes to tell apart, it has one: give larger "
                "first --groups, fewer --tasks, or other features."
            )
        options = {"epochs": self.epochs, "lr": self.lr, "batch_size": self.batch_size, "schedule": "cosine"}
        image_shape = tuple(first.x.shape[1:])
        learner = Learner(
            method("finetune", options),
            self._network(image_shape),
            image_shape=image_shape,
            seed=self.seed,
            device=str(first.x.device),
        )
        learner.learn(first, [str(k) for k in range(n)])
        module.trunk.load_state_dict(learner.method.net.trunk.state_dict())  # type: ignore[union-attr]
