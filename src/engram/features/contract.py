"""What fixed features are: a map of images to vectors that never changes once classes arrive.

A stream of images is seen through them as a stream of vectors (`engram.streams.stream.Stream.through`), so that every
method learns from features as it learns from images, and knows nothing of either.

Shape legend: ``N`` images, ``C`` channels, ``H`` and ``W`` pixels, ``D`` features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, is_dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from engram.core.contract import n_bytes
from engram.core.origin import described
from engram.core.samples import Samples, Shape
from engram.errors import ConfigError, reason


class Features(ABC):
    """A kind of features for images of any shape. Concrete ones are frozen dataclasses: their fields are options.

    Attributes:
        name: as given to ``--features``.
        image_size: pixels squared that images must have; None where any size will do.
        block: images that are computed together, always as many, so that no image's features depend on how many there
            are besides.
        learns: whether `fit` must see the training samples of the first task.
    """

    name: ClassVar[str]
    image_size: ClassVar[int | None] = None
    block: ClassVar[int] = 64
    learns: ClassVar[bool] = False

    @property
    def trained_on(self) -> str:
        """What is in them of any data, as it stands in tables: "nothing", "the first task", "ImageNet-1k"."""
        return "nothing"

    def describe(self) -> dict[str, Any]:
        """Name, options and what they were trained on, as JSON: equal descriptions give equal features."""
        return {
            "name": self.name,
            "options": asdict(self) if is_dataclass(self) else {},
            "trained_on": self.trained_on,
        }

    def source(self) -> dict[str, str] | None:
        """What code of one's own they are, see :func:`engram.core.origin.described`; None for engram's."""
        return described(type(self))

    @abstractmethod
    def module(self, image_shape: Shape) -> nn.Module:
        """What maps images uint8 [N, C, H, W] to float32 [N, ``n_features``], an integer attribute.

        Its parameters and buffers are all that must be kept; a buffer that follows from the options is not persistent.

        Raises:
            ConfigError: images of ``image_shape`` do not fit.
        """

    def fit(self, module: nn.Module, first: Samples) -> None:  # noqa: B027 - most learn nothing
        """Learn from the first task's training samples, where ``learns``; ``ConfigError`` where they will not do."""


def check_images(name: str, image_shape: Shape) -> tuple[int, int, int]:
    """(C, H, W), or ``ConfigError`` where samples are vectors."""
    if len(image_shape) != 3:
        raise ConfigError(
            f"features {name} are of images [C, H, W], samples have shape {list(image_shape)}: leave features out."
        )
    channels, height, width = image_shape
    return channels, height, width


def extract(module: nn.Module, images: Tensor, block: int) -> Tensor:
    """Features float32 [N, D] of images uint8 [N, C, H, W], on their device.

    Always ``block`` images at a time, the last ones filled up with black ones: the bits of an image's features are the
    same whatever is computed in the same call. ``ConfigError`` where the module gives something else, or not numbers.
    """
    d = int(module.n_features)  # type: ignore[arg-type]
    out = torch.empty((len(images), d), dtype=torch.float32, device=images.device)
    with torch.no_grad():
        for start in range(0, len(images), block):
            part = images[start : start + block]
            n = len(part)
            if n < block:
                part = torch.cat([part, part.new_zeros((block - n, *part.shape[1:]))])
            try:
                found = module(part)
                out[start : start + n] = found[:n]
            except Exception as error:  # whatever code of one's own raises
                if isinstance(error, ConfigError):
                    raise
                raise ConfigError(
                    f"features must map images {list(part.shape)} to vectors [{block}, {d}], they stop with "
                    f"{reason(error)}: mend them."
                ) from error
    if not out.isfinite().all():
        n_bad = int((~out.isfinite()).any(1).sum())
        raise ConfigError(
            f"features must be finite, those of {n_bad} of {len(out)} images are not: mend them."
        )
    return out


def kept_bytes(module: nn.Module) -> int:
    """Bytes that must be kept to compute the features again: 0 where they follow from their options."""
    return n_bytes(module.state_dict().values())
