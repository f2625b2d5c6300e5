"""Augmentation of image batches on their device, from noise that the loop drew."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from engram.core.contract import Noise
from engram.core.samples import Shape
from engram.errors import ConfigError


@dataclass(frozen=True)
class Augmentation:
    """What is done to each training image at random.

    Args:
        shift: pixels, at most, in either direction.
        rotate: degrees, at most, in either direction.
        mirror: left and right change places in every second image.
        colour: strength of :func:`recoloured`.
        blur: passes of :func:`blurred`: each image is mixed with its blurred twin, in parts drawn for it.
        noise: largest standard deviation of Gaussian noise; each image has its own, uniform from 0 on.
        cut: side of a square whose pixels become 0, of pixels; its centre lies anywhere in the image.
    """

    shift: float = 0.0
    rotate: float = 0.0
    mirror: bool = False
    colour: float = 0.0
    blur: int = 0
    noise: float = 0.0
    cut: int = 0

    def check(self, shape: Shape, prefix: str = "") -> None:
        """``ConfigError`` where samples of ``shape`` are vectors; ``prefix`` is that of the options' names."""
        if len(shape) != 3 and self != Augmentation():
            asked = ", ".join(f"{prefix}{f.name}={v}" for f in fields(self) if (v := getattr(self, f.name)))
            raise ConfigError(f"samples must be images for {asked}, they are vectors: leave it out.")
        if self.cut > min(shape[-2:]):
            raise ConfigError(
                f"{prefix}cut must be at most the shorter side of the images, {min(shape[-2:])}, got {self.cut}: "
                "a third of it, say."
            )

    def drawn(self, shape: Shape) -> dict[str, Noise]:
        """What an update must draw for samples of ``shape``."""
        wanted = {
            "move": (self.shift or self.rotate, Noise((3,), "uniform")),
            "mirror": (self.mirror, Noise((1, 1, 1), "uniform")),
            "colour": (self.colour, Noise((2, shape[0], 1, 1), "uniform")),
            "blur": (self.blur, Noise((1, 1, 1), "uniform")),
            "loudness": (self.noise, Noise((1, 1, 1), "uniform")),
            "grain": (self.noise, Noise(shape)),
            "cut": (self.cut, Noise((2,), "uniform")),
        }
        return {name: noise for name, (asked, noise) in wanted.items() if asked}

    def __call__(self, x: Tensor, noise: Mapping[str, Tensor]) -> Tensor:
        """Images [B, C, H, W] of images; ``x`` itself where nothing is asked for."""
        if "move" in noise:
            x = shift_and_rotate(x, noise["move"], pixels=self.shift, degrees=self.rotate)
        if "mirror" in noise:
            x = torch.where(noise["mirror"] < 0.5, x.flip(3), x)
        if "colour" in noise:
            x = recoloured(x, noise["colour"], self.colour)
        if "blur" in noise:
            x = x.lerp(blurred(x, self.blur).to(x.dtype), noise["blur"])
        if "grain" in noise:
            x = x + self.noise * noise["loudness"] * noise["grain"]
        return cut_out(x, noise["cut"], self.cut) if "cut" in noise else x


def blurred(x: Tensor, passes: int) -> Tensor:
    """Images [B, C, H, W] after ``passes`` of the binomial filter 1 2 1 in both directions; the border is repeated."""
    down, right = (_binomial(n, passes, x) for n in x.shape[2:])
    return down @ x @ right.T


def _binomial(n: int, passes: int, like: Tensor) -> Tensor:
    """The filter on a line of ``n`` pixels, a matrix [n, n]: two products are far cheaper than poolings."""
    m = torch.eye(n, dtype=like.dtype, device=like.device)
    for _ in range(passes):
        m = torch.cat([m[:1], m, m[-1:]])
        m = (m[:-2] + 2.0 * m[1:-1] + m[2:]) / 4.0
    return m


def cut_out(x: Tensor, u: Tensor, side: int) -> Tensor:
    """Set a square of each image to 0 (DeVries & Taylor, 2017, arXiv 1708.04552).

    Args:
        x: images [B, C, H, W].
        u: uniform numbers [B, 2] in [0, 1): the place of the square's centre; what lies outside the image is lost.
        side: of the square, in pixels.
    """
    inside = []
    for k, n in enumerate(x.shape[2:]):
        place = torch.arange(n, device=x.device) + 0.5
        inside.append((place - n * u[:, k : k + 1]).abs() < side / 2)
    return x.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0.0)


def recoloured(x: Tensor, u: Tensor, strength: float) -> Tensor:
    """Give each channel of each image another contrast, 1 - ``strength`` to 1 + ``strength``, and another brightness.

    Args:
        x: images [B, C, H, W].
        u: uniform numbers [B, 2, C, 1, 1] in [0, 1): contrast, and brightness, which moves by up to ``strength`` times
            the standard deviation of the image's own pixels; 0.5 leaves either.
        strength: in [0, 1].
    """
    contrast, brightness = (strength * (2.0 * u - 1.0)).unbind(1)
    mean, deviation = x.mean((2, 3), keepdim=True), x.std((1, 2, 3), keepdim=True)
    return mean + (1.0 + contrast) * (x - mean) + brightness * deviation


def shift_and_rotate(x: Tensor, u: Tensor, *, pixels: float = 0.0, degrees: float = 0.0) -> Tensor:
    """Shift and rotate each image at random, bilinearly; what moves in repeats the border.

    Args:
        x: images [B, C, H, W].
        u: uniform numbers [B, 3] in [0, 1): vertical shift, horizontal shift, rotation; 0.5 leaves an image in place.
        pixels: largest shift in either direction; need not be whole.
        degrees: largest rotation in either direction, about the centre.

    Returns:
        Images [B, C, H, W]; ``x`` itself where both bounds are 0.
    """
    if pixels == 0 and degrees == 0:
        return x
    v = 2.0 * u - 1.0
    angle = v[:, 2] * math.radians(degrees)
    cos, sin = angle.cos(), angle.sin()
    # The grid is in units of half a side: turning in pixels needs the sides' ratio.
    ratio = x.shape[2] / x.shape[3]
    down, right = v[:, 0] * (2.0 * pixels / x.shape[2]), v[:, 1] * (2.0 * pixels / x.shape[3])
    rows = (torch.stack([cos, -sin * ratio, right], 1), torch.stack([sin / ratio, cos, down], 1))
    grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
