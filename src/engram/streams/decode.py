"""Encoded pictures (PNG, JPEG, ...) to bytes of one size and one mode; whatever is lost is counted.

The same picture gives the same pixels in every format: turned as its orientation tag says, laid over black where
it is transparent, grey where it is saved as grey or its format cannot say so. More than 8 bits a channel are
refused, since which part of the range matters is not ours to guess.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from engram.errors import ConfigError, DataError, reason
from engram.streams.resizing import resize_pixels

Pixels = NDArray[np.uint8]
# An image: its file or the content of one, a picture of Pillow's, or pixels [H, W] or [H, W, 3]; None is no image.
Content = bytes | Path | Image.Image | Pixels | None
Encoded = Iterable[tuple[str, Content]]  # where it comes from, for messages

MAX_PIXELS = 40_000_000  # of one picture as decoded, by default; about 500 MB at work
DRAFT_PIXELS = 4_000_000  # larger JPEGs are decoded at a half, quarter or eighth where that is enough
_SHOWN = 20  # unusable pictures that a message names

# What Pillow decodes itself, in the order in which it is tried; no formats that start other programs, hold vectors,
# or have no mark by which they are known.
_FORMATS = ("PNG", "JPEG", "MPO", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF", "QOI")
_COLOUR_ONLY = ("WEBP", "AVIF", "QOI")  # grey pictures are saved as colour
_ORIENTATION = 0x0112  # the tag, in Exif and TIFF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@cache
def endings() -> frozenset[str]:
    """Endings of the names of files that are taken for pictures, such as ".png"."""
    return frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in _FORMATS)


@cache
def _formats() -> list[str]:
    Image.init()
    return [kind for kind in _FORMATS if kind in Image.OPEN]  # AVIF came late


@dataclass
class Decoder:
    """Decodes the splits of one data set and remembers what a reader should be told.

    Args:
        image_size: resize each image to this many pixels squared; None demands that all have one size.
        channels: 1 makes every image grey, 3 makes it colour; None makes all colour if any is.
    """

    image_size: int | None = None
    channels: int | None = None
    _size: tuple[int, int] | None = None  # (H, W) of the first image, before any resizing
    _mixed: bool = False
    _seen: Counter[str] = field(default_factory=Counter)

    def decode(self, splits: Iterable[Encoded]) -> list[Tensor]:
        """Each split as uint8 [N, C, H, W].

        Raises:
            DataError: images that cannot be used, all of them named; or images that differ in size.
        """
        limit = _max_pixels()
        faults: list[tuple[str, str]] = []
        with _plain_pillow():
            images = [
                [pixels for one in split for pixels in self._read(*one, limit, faults)] for split in splits
            ]
        if len(faults) == 1:
            raise DataError(
                f"{faults[0][0]} must be a usable image, got {faults[0][1]}: replace or remove it."
            )
        if faults:
            shown = "; ".join(f"{where}: {why}" for where, why in faults[:_SHOWN])
            more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
            raise DataError(
                f"all images must be usable, got {len(faults)} that are not ({shown}{more}): replace or "
                "remove them."
            )
        return [self._stack(split) for split in images]

    def notes(self) -> list[str]:
        """What was lost or changed on the way, one sentence each."""
        seen, notes = self._seen, []
        total = seen["grey"] + seen["colour"]
        lossy = seen["JPEG"] + seen["MPO"]
        if lossy:
            some = "" if lossy == total else f" in {lossy} of {total} images"
            notes.append(f"pixels from lossy JPEG{some}: figures differ slightly from those on exact pixels")
        if seen["draft"]:
            notes.append(
                f"{seen['draft']} JPEG images of more than {DRAFT_PIXELS:,} pixels decoded at a reduced size"
            )
        if self.channels == 1 and seen["colour"]:
            notes.append(f"{seen['colour']} colour images converted to grey")
        elif seen["grey"] and (seen["colour"] or self.channels == 3):
            why = f", as {seen['colour']} are colour" if seen["colour"] else ""
            notes.append(f"{seen['grey']} grey images converted to colour{why}")
        if seen["transparent"]:
            notes.append(f"transparency of {seen['transparent']} images laid over black")
        if seen["animated"]:
            notes.append(f"{seen['frames']} frames after the first left out of {seen['animated']} images")
        if self._mixed and self.image_size:
            notes.append(
                f"images of several sizes resized to {self.image_size}x{self.image_size} pixels (bilinear)"
            )
        elif self.image_size and self._size not in (None, (self.image_size, self.image_size)):
            height, width = self._size or (0, 0)
            size = f"{self.image_size}x{self.image_size}"
            notes.append(f"resized from {width}x{height} to {size} pixels (bilinear)")
        return notes

    def _read(
        self, where: str, content: Content, limit: int, faults: list[tuple[str, str]]
    ) -> Iterator[Pixels]:
        """The image's pixels, [H, W] (grey) or [H, W, 3]; none, and an entry in faults, where it is unusable."""
        try:
            pixels = self._open(content, limit)
        except UnidentifiedImageError:  # whose text shows an object of ours
            faults.append(
                (where, f"no image of a kind that is read ({', '.join(_FORMATS)}), or damage at its start")
            )
        except Exception as fault:  # Pillow's parsers raise almost any type on damaged bytes
            faults.append((where, reason(fault)))
        else:
            yield self._fit(where, pixels)

    def _open(self, content: Content, limit: int) -> Pixels:
        if isinstance(content, np.ndarray):
            self._seen["grey" if content.ndim == 2 else "colour"] += 1
            return content
        if isinstance(content, Image.Image):
            if content.mode[0] in "IF":
                raise ValueError(f"more than 8 bits a channel (mode {content.mode}; convert it to 8 bits)")
            pixels, transparent = _pixels(content)
            self._seen["grey" if pixels.ndim == 2 else "colour"] += 1
            self._seen["transparent"] += transparent
            return pixels
        with _opened(content) as (file, image):
            if _is_deep(image, file):
                raise ValueError(f"more than 8 bits a channel (mode {image.mode}; convert it to 8 bits)")
            kind, n_frames = image.format or "", getattr(image, "n_frames", 1)
            whole = image.size
            if self.image_size and kind in ("JPEG", "MPO") and math.prod(whole) > DRAFT_PIXELS:
                image.draft(None, (2 * self.image_size, 2 * self.image_size))
                self._seen["draft"] += image.size < whole
            # A progressive JPEG is held whole, as coefficients, before it is made smaller.
            width, height = whole if "progressive" in image.info else image.size
            if width * height > limit:
                raise ValueError(
                    f"{width}x{height} pixels, more than {limit:,} (set ENGRAM_MAX_PIXELS to allow more)"
                )
            pixels, transparent = _pixels(image)
        self._seen[kind] += 1
        self._seen["grey" if pixels.ndim == 2 else "colour"] += 1
        self._seen["transparent"] += transparent
        self._seen["animated"] += n_frames > 1
        self._seen["frames"] += n_frames - 1
        return pixels

    def _fit(self, where: str, pixels: Pixels) -> Pixels:
        if self.channels == 1 and pixels.ndim == 3:
            pixels = grey(pixels)
        size = (pixels.shape[0], pixels.shape[1])
        self._size = self._size or size
        self._mixed = self._mixed or size != self._size
        if self.image_size is None:
            if self._mixed:
                raise DataError(
                    f"all images must have one size, got {self._size[0]}x{self._size[1]} and, first at {where}, "
                    f"{size[0]}x{size[1]} (height x width): give image_size= to resize them."
                )
            return pixels
        if size == (self.image_size, self.image_size):
            return pixels
        planes = torch.from_numpy(np.array(pixels)).reshape(1, *size, -1).permute(0, 3, 1, 2)
        scaled = resize_pixels(planes, self.image_size)[0].permute(1, 2, 0).numpy()
        return np.ascontiguousarray(scaled.reshape(self.image_size, self.image_size, *pixels.shape[2:]))

    def _stack(self, images: list[Pixels]) -> Tensor:
        """One tensor of a split's images. Empties the list."""
        channels = self.channels or (3 if self._seen["colour"] else 1)
        if not images:
            return torch.empty((0, channels, *(self._size or (1, 1))), dtype=torch.uint8)
        out = np.empty((len(images), channels, *images[0].shape[:2]), dtype=np.uint8)
        for row, pixels in enumerate(images):
            out[row] = pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        images.clear()
        return torch.from_numpy(out)


def grey(pixels: Pixels) -> Pixels:
    """Colour [..., 3] to grey [...], as Pillow weighs the channels."""
    weighed = pixels.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
    found: Pixels = ((weighed + 0x8000) >> 16).astype(np.uint8)
    return found


def shorter_sides(images: Encoded) -> list[int]:
    """Pixels of the shorter side of each image whose head can be read; nothing is decoded."""
    found = []
    with _plain_pillow():
        for _, content in images:
            if isinstance(content, np.ndarray):
                found.append(min(content.shape[:2]))
            elif isinstance(content, Image.Image):
                found.append(min(content.size))
            else:
                with (
                    contextlib.suppress(Exception),
                    _opened(content) as (_, image),
                ):  # said when it is decoded
                    found.append(min(image.size))
    return found


@contextlib.contextmanager
def _opened(content: bytes | Path | None) -> Iterator[tuple[IO[bytes], Image.Image]]:
    """The file of an image and its picture, of which only the head is read."""
    if content is None:
        raise ValueError("no image")
    if isinstance(content, Path) and not content.is_file():  # a pipe would keep us waiting
        raise ValueError("a link that leads nowhere" if content.is_symlink() else "no regular file")
    with (
        io.BytesIO(content) if isinstance(content, bytes) else open(content, "rb") as file,
        Image.open(file, formats=_formats()) as image,
    ):
        yield file, image


def _max_pixels() -> int:
    given = os.environ.get("ENGRAM_MAX_PIXELS", str(MAX_PIXELS))
    if not given.isdecimal() or int(given) < 1:
        raise ConfigError(
            f"ENGRAM_MAX_PIXELS must be a whole number >= 1, got {given!r}: correct or unset it."
        )
    return int(given)


@contextlib.contextmanager
def _plain_pillow() -> Iterator[None]:
    """Pillow without its warnings about tags that nobody asked for, and without its own limit beside ours."""
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _is_deep(image: Image.Image, file: IO[bytes]) -> bool:
    """Whether the file holds more than 8 bits a channel, or signs; Pillow cuts many of these without a word."""
    if image.mode[0] in "IF":
        return True
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        return max(tags.get(258, (1,))) > 8 or max(tags.get(339, (1,))) != 1  # bits a sample, kind of sample
    if image.format in ("JPEG2000", "AVIF"):
        file.seek(0)
        content = file.read()
        if image.format == "AVIF":
            at = content.find(b"av1C")  # profile and level, then whether there are 10 or 12 bits
            return at >= 0 and bool(content[at + 6] & 0x40)
        # the sizes of the code stream hold the number of channels, then bits - 1 of each
        at = content.find(b"\xff\x4f\xff\x51") + 40
        return any(bits & 0x7F > 7 or bits & 0x80 for bits in content[at + 2 :: 3][: content[at + 1]])
    tiles = image.tile  # type: ignore[attr-defined]
    args = tiles[0].args if tiles else ""
    if image.format == "PPM":
        return isinstance(args, tuple) and isinstance(args[-1], int) and args[-1] > 255
    return ";16B" in str(args)


def _pixels(image: Image.Image) -> tuple[Pixels, bool]:
    """[H, W] or [H, W, 3], and whether any of it was transparent."""
    image.load()
    colour_only = image.mode in ("P", "PA") or image.format in _COLOUR_ONLY
    turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    if turn is not None:
        image = image.transpose(turn)
    grey = image.mode in ("1", "L", "LA")
    see_through = image.has_transparency_data
    mode = ("LA" if grey else "RGBA") if see_through else ("L" if grey else "RGB")
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    if see_through:
        pixels, alpha = pixels[..., :-1], pixels[..., -1:]
        see_through = bool(alpha.min() < 255)
        if see_through:
            pixels = ((pixels.astype(np.uint16) * alpha + 127) // 255).astype(np.uint8)
        pixels = pixels[..., 0] if grey else pixels
    if colour_only and not grey and bool((pixels == pixels[..., :1]).all()):
        pixels = pixels[..., 0]  # a palette, or a format that cannot say grey: the colours themselves tell
    return pixels, see_through
