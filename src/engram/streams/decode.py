"""Encoded images (PNG, JPEG, ...) to bytes of one size and one mode, with the faults named."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from engram.errors import DataError
from engram.streams.images import resize_pixels

Encoded = Iterable[
    tuple[str, bytes | Path]
]  # where it comes from (for messages), and the file or its content
Pixels = NDArray[np.uint8]

_GREY = {"1": "L", "L": "L", "LA": "L"}
_COLOUR = {"RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV", "La", "RGBa"}
_ORIENTED = {"JPEG", "MPO", "TIFF", "WEBP"}  # cameras store "turn me" beside the pixels in these


@dataclass
class Decoder:
    """Decodes the splits of one data set and remembers what a reader should be told.

    Args:
        image_size: resize each image to this many pixels squared; None demands that all have one size.
    """

    image_size: int | None = None
    _size: tuple[int, int] | None = None  # (H, W) of the first image, before any resizing
    _mixed: bool = False
    _seen: Counter[str] = field(default_factory=Counter)

    def read(self, images: Encoded) -> list[Pixels]:
        """Each image as [H, W] (grey) or [H, W, 3].

        Raises:
            DataError: an image cannot be decoded, has more than 8 bits a channel, or differs in size.
        """
        return [self._fit(where, self._open(where, content)) for where, content in images]

    def stack(self, images: list[Pixels]) -> Tensor:
        """uint8 [N, C, H, W]; C is 3 if any image read by this decoder is colour. Empties the list."""
        channels = 3 if self._seen["colour"] else 1
        if not images:
            return torch.empty((0, channels, *(self._size or (1, 1))), dtype=torch.uint8)
        out = np.empty((len(images), channels, *images[0].shape[:2]), dtype=np.uint8)
        for row, pixels in enumerate(images):
            out[row] = pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        images.clear()
        return torch.from_numpy(out)

    def notes(self) -> list[str]:
        """What was lost or changed on the way, one sentence each."""
        notes = []
        total = self._seen["grey"] + self._seen["colour"]
        if self._seen["JPEG"]:
            some = "" if self._seen["JPEG"] == total else f" in {self._seen['JPEG']} of {total} images"
            notes.append(f"pixels from lossy JPEG{some}: figures differ slightly from those on exact pixels")
        if self._seen["grey"] and self._seen["colour"]:
            notes.append(
                f"{self._seen['grey']} grey images converted to colour, as {self._seen['colour']} are colour"
            )
        if self._seen["alpha"]:
            notes.append(f"transparency dropped from {self._seen['alpha']} images")
        if self._mixed and self.image_size:
            notes.append(
                f"images of several sizes resized to {self.image_size}x{self.image_size} pixels (bilinear)"
            )
        elif self.image_size and self._size not in (None, (self.image_size, self.image_size)):
            height, width = self._size or (0, 0)
            size = f"{self.image_size}x{self.image_size}"
            notes.append(f"resized from {height}x{width} to {size} pixels (bilinear)")
        return notes

    def _open(self, where: str, content: bytes | Path) -> Pixels:
        try:
            with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as image:
                mode, kind = image.mode, image.format
                if mode not in _GREY and mode not in _COLOUR:
                    raise DataError(
                        f"{where}: images must have 8 bits a channel, got mode {mode}: convert them to 8 "
                        "bits."
                    )
                alpha = "A" in mode or "a" in mode or "transparency" in image.info
                turned = ImageOps.exif_transpose(image) if kind in _ORIENTED else image
                if alpha and mode == "P":
                    turned = turned.convert("RGBA")  # on the direct way Pillow warns
                target = _GREY.get(mode, "RGB")
                pixels = np.asarray(turned if mode == target else turned.convert(target))
        except DataError:
            raise
        except Exception as fault:  # Pillow's parsers raise almost any type on damaged bytes
            reason = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
            raise DataError(
                f"{where}: must be an image that Pillow can read, got {reason}: replace or remove it."
            ) from fault
        self._seen[kind or "unknown"] += 1
        self._seen["grey" if pixels.ndim == 2 else "colour"] += 1
        self._seen["alpha"] += alpha
        return pixels

    def _fit(self, where: str, pixels: Pixels) -> Pixels:
        size = (pixels.shape[0], pixels.shape[1])
        self._size = self._size or size
        self._mixed = self._mixed or size != self._size
        if self.image_size is None:
            if self._mixed:
                raise DataError(
                    f"all images must have one size, got {self._size[0]}x{self._size[1]} and, first at "
                    f"{where}, "
                    f"{size[0]}x{size[1]} (height x width): give image_size= to resize them."
                )
            return pixels
        if size == (self.image_size, self.image_size):
            return pixels
        planes = torch.from_numpy(np.array(pixels)).reshape(1, *size, -1).permute(0, 3, 1, 2)
        scaled = resize_pixels(planes, self.image_size)[0].permute(1, 2, 0).numpy()
        return np.ascontiguousarray(scaled.reshape(self.image_size, self.image_size, *pixels.shape[2:]))
