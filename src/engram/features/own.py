"""Features of one's own: a torch module from images to vectors, in a Python file, with its weights in another.

The module is given pixels as floats in [0, 1], float32 [N, C, H, W], and gives vectors [N, D] (or anything that
flattens to them). Whatever else the weights expect of pixels, such as another mean, it must do itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from engram import seeds
from engram.core.files import digest, read_regular
from engram.core.origin import described
from engram.core.samples import Shape
from engram.core.sources import load_object
from engram.core.values import made_of_defaults
from engram.errors import ConfigError, reason
from engram.features.contract import Features, check_images


class OfPixels(nn.Module):
    """A module that is given pixels in [0, 1]."""

    def __init__(self, module: nn.Module, n_features: int) -> None:
        super().__init__()
        self.module, self.n_features = module, n_features

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.module(images.float() / 255)
        return found.flatten(1)


class Own(Features):
    """Features of a torch module.

    Args:
        name: what they are called.
        make: a module, its class, or a function that makes it.
        weights: bytes of a safetensors file; None leaves the module as it is made.
        trained_on: what the weights were trained on.
        origin: what the code is, see :func:`engram.core.origin.described`.
        file: of the weights, for messages.
    """

    def __init__(
        self,
        name: str,
        make: Any,
        weights: bytes | None,
        trained_on: str,
        origin: dict[str, str] | None,
        file: str = "",
    ) -> None:
        self.name = name  # type: ignore[misc]
        self.make, self.weights, self.on, self.origin, self.file = make, weights, trained_on, origin, file

    @property
    def trained_on(self) -> str:
        return self.on

    def describe(self) -> dict[str, Any]:
        weights = None if self.weights is None else digest(self.weights)
        return {"name": self.name, "options": {"weights": weights}, "trained_on": self.on}

    def source(self) -> dict[str, str] | None:
        return self.origin

    def module(self, image_shape: Shape) -> nn.Module:
        shape = check_images(self.name, image_shape)
        with seeds.seeded(0, "features"):  # what begins at random does so in the same way every time
            module = self._made(shape)
        if self.weights is not None:
            load_weights(module, self.weights, self.name, self.file)
        return OfPixels(module.eval(), width_of(module, shape, self.name))

    def _made(self, shape: Shape) -> nn.Module:
        if isinstance(self.make, nn.Module):
            return self.make
        try:
            module = self.make()
        except Exception as error:
            raise ConfigError(
                f"features {self.name} must be made without arguments, they stop with {reason(error)}: give a function "
                "that makes them."
            ) from error
        if not isinstance(module, nn.Module):
            raise ConfigError(f"features {self.name} must be a torch module, got {type(module).__name__}.")
        return module


def width_of(module: nn.Module, shape: Shape, name: str) -> int:
    """D, found by one pass; ``ConfigError`` where the module takes no such images, or gives no vectors."""
    try:
        with torch.no_grad():
            found = module.eval()(torch.zeros(2, *shape))
    except Exception as error:
        raise ConfigError(
            f"features {name} must take images {[2, *shape]}, they stop with {reason(error)}: give --image-size."
        ) from error
    if not isinstance(found, Tensor) or found.ndim < 2 or len(found) != 2 or found.dtype != torch.float32:
        got = f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ConfigError(f"features {name} must give float32 [N, D], they give {got} for two images.")
    return found[0].numel()


def load_weights(module: nn.Module, content: bytes, name: str, file: str) -> None:
    """Fill a module with the tensors of a safetensors file; ``ConfigError`` where they are not just those it has."""
    try:
        module.load_state_dict(load(content))
    except (RuntimeError, SafetensorError, KeyError) as error:
        said = " ".join(str(error).split()).partition(": ")[2] or reason(error)
        raise ConfigError(
            f"weights must be a safetensors file that fits {name}, {file} does not ({said:.200}): give those saved "
            "from it."
        ) from error


def read_weights(path: str | None) -> bytes | None:
    """The content of a file of weights; ``ConfigError`` where it cannot be read."""
    if path is None:
        return None
    try:
        return read_regular(Path(path).expanduser())
    except OSError as error:
        raise ConfigError(f"weights must be a readable file, got {path}: {error.strerror}.") from error


def of(place: str, weights: str | None, trained_on: str | None) -> Features:
    """The features at ``FILE.py:NAME``; errors as :func:`engram.features.make`."""
    given = load_object(place)
    if isinstance(given, type) and issubclass(given, Features):
        if weights is not None:
            raise ConfigError(
                f"weights are of a torch module, {place} is a kind of features: leave them out."
            )
        found: Features = made_of_defaults(given, f"features {place}")
        return found
    return _of(given, place.rpartition(":")[2], weights, trained_on)


def of_object(given: Any) -> Features:
    """Features of a torch module, its class, or a function that makes it, given as an object."""
    if isinstance(given, type) and issubclass(given, Features):
        found: Features = made_of_defaults(given, f"features {given.__name__}")
        return found
    return _of(given, getattr(given, "__name__", type(given).__name__), None, None)


def _of(given: Any, name: str, weights: str | None, trained_on: str | None) -> Features:
    if not isinstance(given, nn.Module) and not callable(given):
        raise ConfigError(
            f"features must be a torch module, its class, a function that makes it, or a subclass of Features, got "
            f"{given!r}."
        )
    content = read_weights(weights)
    return Own(name, given, content, trained_on or "not said", described(given), weights or "")
