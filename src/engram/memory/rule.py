"""The rule by which images of any size and mode become what a memory learns from, stored with it."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from engram.core.samples import Shape
from engram.errors import ConfigError, DataError
from engram.streams.decode import Content, Decoder, Encoded, shorter_sides
from engram.streams.images import as_array, pixels_of

LARGEST = 32  # pixels squared, where neither the user nor a network says how many


@dataclass(frozen=True)
class Rule:
    """Images are turned upright as their Exif tag says, stretched to one size (bilinear) and made grey or colour.

    Args:
        shape: (C, S, S) of an image, or (D,) of a vector, which passes as it is.
    """

    shape: Shape

    def __str__(self) -> str:
        if len(self.shape) == 1:
            return f"vectors of {self.shape[0]} numbers"
        size = self.shape[1]
        return (
            f"{size}x{size} pixels, {'grey' if self.shape[0] == 1 else 'colour'}, upright by Exif, stretched"
        )

    def bring(self, images: Encoded) -> tuple[Tensor, list[str]]:
        """Images as uint8 [N, C, S, S], and notes on what was lost; ``DataError`` names those that cannot be used."""
        if len(self.shape) == 1:
            raise ConfigError(
                f"this memory learned {self}, not images, got images: give float32 [N, {self.shape[0]}]."
            )
        decoder = Decoder(image_size=self.shape[1], channels=self.shape[0])
        (pixels,) = decoder.decode([images])
        return pixels, decoder.notes()

    def check_vectors(self, x: Tensor) -> None:
        """``DataError`` unless these are vectors that fit."""
        if self.shape != tuple(x.shape[1:]):
            raise DataError(
                f"X has {x.shape[1]} features, but this memory is expecting {self}: give such ones."
            )


def rule_for(images: Callable[[], Encoded], size: int | None, channels: int | None) -> Rule:
    """The rule for images that come first; what is None is decided by them.

    Args:
        images: gives them, each time anew.
        size: pixels squared; by default the median of the shorter sides, at most `LARGEST`.
        channels: 1 or 3; by default 3 if any image is colour.

    Raises:
        DataError: no image can be used.
    """
    if size is None:
        size = min(median_side(images()), LARGEST)
    if channels is None:
        (pixels,) = Decoder(image_size=size).decode([images()])
        channels = pixels.shape[1]
    return Rule((channels, size, size))


def median_side(images: Encoded) -> int:
    """The median of the shorter sides of images, in pixels; `LARGEST` where none can be read, which is said later."""
    return int(statistics.median(shorter_sides(images) or [LARGEST]))


def given(images: Any) -> Tensor | list[tuple[str, Content]]:
    """Images in any form that Python has them in: float vectors as a tensor [N, D], all others one by one.

    Args:
        images: an array or tensor as :func:`engram.from_arrays` takes it; or a list of paths, pictures of Pillow's,
            encoded images (bytes), or arrays of one image each, in any mixture.

    Raises:
        ConfigError: one image alone, or none of these.
        DataError: as `from_arrays`.
    """
    if isinstance(images, (str, bytes, os.PathLike, Image.Image)):
        raise ConfigError(f"images must be a list or an array, got one {type(images).__name__}: give [it].")
    if isinstance(images, (list, tuple)) and any(map(is_single, images)):
        return [_single(f"image {place}", one) for place, one in enumerate(images)]
    if isinstance(images, Iterator):
        return given(list(images))
    found = pixels_of("images", as_array("images", images), None, None, [])
    return found if found.ndim == 2 else list(_rows(found))


def _rows(pixels: Tensor) -> Iterator[tuple[str, Content]]:
    for place, one in enumerate(pixels):
        yield f"image {place}", (one[0] if len(one) == 1 else one.permute(1, 2, 0)).numpy()


def is_single(one: Any) -> bool:
    """Whether this can only be an image by itself."""
    return isinstance(one, (str, bytes, os.PathLike, Image.Image)) or getattr(one, "ndim", 1) > 1


def _single(where: str, one: Any) -> tuple[str, Content]:
    if isinstance(one, (bytes, Image.Image)):
        return where, one
    if isinstance(one, (str, os.PathLike)):
        return os.fspath(one), Path(one)
    pixels = pixels_of(where, as_array(where, one)[None], None, None, [])
    return where, next(_rows(pixels))[1]
