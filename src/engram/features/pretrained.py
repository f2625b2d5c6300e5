"""Networks of the package timm as features: ``timm:NAME``.

timm is an extra (``pip install engram[timm]``) and needs torchvision. Pixels are normalised as the network's own
configuration says; images must have the size that it was made for (``--image-size``), where it takes no other.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

import engram.features as registry
from engram.core.files import digest
from engram.core.samples import Shape
from engram.errors import ConfigError, reason
from engram.features.contract import Features, check_images
from engram.features.own import OfPixels, load_weights, read_weights, width_of


class Normalised(nn.Module):
    """A network that is given (pixels - mean) / std."""

    def __init__(self, network: nn.Module, mean: Any, std: Any) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.network((x - self.get_buffer("mean")) / self.get_buffer("std"))
        return found


class Timm(Features):
    """A network of timm without its head; weights from a file, or those that timm fetches."""

    def __init__(self, model: str, weights: bytes | None, trained_on: str | None, file: str) -> None:
        self.name = registry.TIMM + model  # type: ignore[misc]
        self.model, self.weights, self.on, self.file = model, weights, trained_on, file
        try:
            self.timm = importlib.import_module("timm")
        except Exception as error:  # without torchvision it fails in ways of its own
            raise ConfigError(
                f"features {self.name} need the package timm, which does not load ({reason(error)}): "
                "pip install 'engram[timm]', or give FILE.py:NAME with --weights."
            ) from error
        if not self.timm.is_model(model):
            raise ConfigError(
                f"features timm:NAME must name a network of timm, got {model!r}: see timm.list_models()."
            )

    @property
    def trained_on(self) -> str:
        return self.on or (
            "not said" if self.weights is not None else "what timm's weights of this name were"
        )

    def describe(self) -> dict[str, Any]:
        weights = "timm's" if self.weights is None else digest(self.weights)
        options = {"weights": weights, "timm": self.timm.__version__}
        return {"name": self.name, "options": options, "trained_on": self.trained_on}

    def module(self, image_shape: Shape) -> nn.Module:
        shape = check_images(self.name, image_shape)
        network = self.timm.create_model(
            self.model, pretrained=self.weights is None, num_classes=0, in_chans=shape[0]
        )
        if self.weights is not None:
            load_weights(network, self.weights, self.name, self.file)
        known = self.timm.data.resolve_data_config({}, model=network)
        mean, std = ([sum(v) / len(v)] if shape[0] == 1 else v for v in (known["mean"], known["std"]))
        module = Normalised(network, mean, std).eval()
        return OfPixels(module, width_of(module, shape, self.name))


def of(name: str, weights: str | None, trained_on: str | None) -> Features:
    """The features ``timm:NAME``; errors as :func:`engram.features.make`."""
    return Timm(name.removeprefix(registry.TIMM), read_weights(weights), trained_on, weights or "")
