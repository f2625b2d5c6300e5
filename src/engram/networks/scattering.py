"""Wavelet scattering of order two as a fixed feature extractor: nothing is trained, nothing of any data set is in it.

S. Mallat: "Group Invariant Scattering", CPAM 65(10), 2012; J. Bruna, S. Mallat: "Invariant Scattering Convolution
Networks", PAMI 35(8), 2013, arXiv 1203.1513 ("BM"). Here: the windowed scattering of BM Eq. 8 with Morlet wavelets, of
orders 0, 1 and 2 along frequency-decreasing paths.

Departures: none known; constants of the wavelets (bandwidth 0.8, centre 3 pi / 4, slant 4 / L) and the padding are
those of the package kymatio, to whose coefficients these are equal (tested).
Cost: no weights; the matrices of the Fourier transforms and the wavelets in the frequency plane, some hundred KiB.

Everything is real: a Fourier transform is two products with cosines and two with sines, so that the transform exports
as matrix products. Convolutions are circular on the padded image.

Shapes: B images, C channels, H and W pixels, P padded size, J scales, L angles.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

SIGMA, CENTRE = 0.8, 0.75 * math.pi

Colours = Literal["rgb", "opponent", "grey"]

# Rows: intensity, red against green, yellow against blue; of van de Sande et al., PAMI 32(9), 2010, scaled to [-1, 1].
OPPONENT = ((1 / 3, 1 / 3, 1 / 3), (1 / 2, -1 / 2, 0), (1 / 4, 1 / 4, -1 / 2))


def gabor(size: tuple[int, int], sigma: float, angle: float, centre: float, slant: float) -> Tensor:
    """A Gabor filter, complex128 [H, W], over five periods each way; BM Sec. 2.2, with a Gaussian envelope."""
    c, s = math.cos(angle), math.sin(angle)
    a = (c * c + slant**2 * s * s) / (2 * sigma**2)
    b = (1 - slant**2) * c * s / (2 * sigma**2)
    d = (s * s + slant**2 * c * c) / (2 * sigma**2)
    out = torch.zeros(size, dtype=torch.complex128)
    h, w = size
    for i in range(-2, 3):
        for j in range(-2, 3):
            y = (torch.arange(h, dtype=torch.float64) + i * h)[:, None]
            x = (torch.arange(w, dtype=torch.float64) + j * w)[None, :]
            envelope = torch.exp(-(a * y * y + 2 * b * y * x + d * x * x))
            out += torch.polar(envelope, centre * (c * y + s * x))
    return out * slant / (2 * 3.1415 * sigma**2)


def morlet(size: tuple[int, int], scale: int, angle: float, slant: float) -> Tensor:
    """Fourier transform of a Morlet wavelet at scale 2^``scale``, real float64 [H, W]; its mean is zero."""
    sigma, centre = SIGMA * 2**scale, CENTRE / 2**scale
    wave, window = gabor(size, sigma, angle, centre, slant), gabor(size, sigma, angle, 0.0, slant)
    return torch.fft.fft2(wave - wave.sum() / window.sum() * window).real


def folded(filter: Tensor, k: int, dims: tuple[int, ...]) -> Tensor:
    """A filter in the frequency plane for a signal of every k-th place: its low frequencies, aliased."""
    for dim in dims if k > 1 else ():
        n = filter.shape[dim]
        kept = torch.ones(n, dtype=filter.dtype)
        kept[n // (2 * k) : n // (2 * k) + n - n // k] = 0
        shape = [1] * filter.dim()
        shape[dim] = n
        filter = (filter * kept.view(shape)).unflatten(dim, (k, n // k)).sum(dim)
    return filter


def smoother(n: int, padded: int, scales: int, step: int, shift: float) -> Tensor:
    """Convolve with the Gaussian of scale 2^J, take every 2^J-th place, drop the padding; float64 [n, P / step].

    Rows act on a signal of P / ``step`` places; the Gaussian is separable, so the same matrix serves both axes. Places
    begin ``shift`` pixels from the first one.
    """
    sigma = SIGMA * 2 ** (scales - 1)
    x = torch.arange(padded, dtype=torch.float64) + shift
    kernel = torch.stack([torch.exp(-((x + i * padded) ** 2) / (2 * sigma**2)) for i in range(-2, 3)]).sum(0)
    low = torch.fft.fft(kernel / (math.sqrt(2 * 3.1415) * sigma))
    low = torch.complex(folded(low.real, step, (0,)), folded(low.imag, step, (0,)))
    smooth = torch.fft.ifft(
        low[:, None] * torch.fft.fft(torch.eye(padded // step, dtype=torch.float64), dim=0), dim=0
    )
    return smooth.real[:: 2**scales // step][1 : 1 + n]


def fourier(n: int, *, inverse: bool = False) -> Tensor:
    """The transform of n complex numbers, written as real and imaginary parts in one row: float64 [2 n, 2 n]."""
    grid = torch.arange(n, dtype=torch.float64)
    angle = 2 * math.pi * grid[:, None] * grid / n
    c, s = torch.cos(angle), torch.sin(angle) * (1 if inverse else -1)
    both = torch.cat([torch.cat([c, s], 1), torch.cat([-s, c], 1)])
    return both / n if inverse else both


class Scattering(nn.Module):
    """Scattering coefficients [B, C, 1 + J L + L^2 J (J - 1) / 2, H / 2^J, W / 2^J] of images [B, C, H, W].

    Args:
        image_shape: (C, H, W).
        scales: J >= 1; 2^J < min(H, W), or an image is too small to be padded by its reflection.
        angles: L.
        centred: coefficients stand for the centres of squares of 2^J pixels, so that a mirrored image has those of the
            image in another order (but for aliasing), see :func:`mirrored`; otherwise for their first pixels, as in
            kymatio.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        scales: int = 2,
        angles: int = 8,
        *,
        centred: bool = False,
    ) -> None:
        super().__init__()
        self.scales = scales
        size, step = image_shape[1:], 2**scales
        n_paths = 1 + scales * angles + angles**2 * scales * (scales - 1) // 2
        self.output_shape = (image_shape[0], n_paths, *(n // step for n in size))
        padded = tuple(((n + step) // step + 1) * step for n in size)
        before = [(p - n) // 2 for p, n in zip(padded, size, strict=True)]
        after = [p - n - b for p, n, b in zip(padded, size, before, strict=True)]
        self.padding = (before[1], after[1], before[0], after[0])
        turns = [(int(angles / 2 - 1) - t) * math.pi / angles for t in range(angles)]
        for j in range(scales):
            waves = torch.stack([morlet(padded, j, t, 4 / angles) for t in turns])
            for i in range(max(j, 1)):  # of images that were subsampled by 2^i
                wave = folded(waves, 2**i, (1, 2))
                self._keep(f"wave_{j}_{i}", wave / 4 ** (j - i))
        for i in range(scales):
            for axis, (n, p) in enumerate(zip(size, padded, strict=True)):
                self._keep(f"to_{i}_{axis}", fourier(p >> i))
                self._keep(f"from_{i}_{axis}", fourier(p >> i, inverse=True))
                centre = before[axis] + (n - (n // step - 1) * step - 1) / 2 - step if centred else 0.0
                low = smoother(n // step, p, scales, 2**i, centre).T
                self._keep(f"low_{i}_{axis}", nn.functional.pad(low, (0, -low.shape[1] % 8)))

    def _keep(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value.float().contiguous(), persistent=False)

    # Images are held transposed, [..., w, h], and spectra as [..., h, 2, w]: products then find numbers in a row.
    def _spectrum(self, x: Tensor, i: int) -> Tensor:
        """Transform of real signals [..., w, h]: [..., h, 2, w], real and imaginary part."""
        w, h = x.shape[-2:]
        z = (x @ self.get_buffer(f"to_{i}_0")[:h]).unflatten(-1, (2, h))  # [..., w, 2, h]
        z = z.transpose(-1, -3).flatten(-2) @ self.get_buffer(f"to_{i}_1")
        return z.unflatten(-1, (2, w))

    def _modulus(self, z: Tensor, i: int) -> Tensor:
        """Modulus of the inverse transform of [..., h, 2, w]: [..., w, h]."""
        h, _, w = z.shape[-3:]
        z = (z.flatten(-2) @ self.get_buffer(f"from_{i}_1")).unflatten(-1, (2, w))
        z = z.transpose(-1, -3).flatten(-2) @ self.get_buffer(f"from_{i}_0")  # [..., w, 2 h]
        re, im = z[..., :h], z[..., h:]
        return torch.addcmul(re * re, im, im).sqrt()

    @staticmethod
    def _filtered(z: Tensor, wave: Tensor, k: int) -> Tensor:
        """Spectra [..., h, 2, w] times filters, of every k-th place: [..., h / k, 2, w / k]."""
        h, w = z.shape[-3] // k, z.shape[-1] // k
        out: Tensor | None = None
        for a in range(k):
            for b in range(k):
                rows, columns = slice(a * h, (a + 1) * h), slice(b * w, (b + 1) * w)
                zz, ww = z[..., rows, :, columns], wave[..., rows, :, columns]
                out = zz * ww if out is None else torch.addcmul(out, zz, ww)
        assert out is not None  # k >= 1
        return out

    def _smooth(self, x: Tensor, i: int) -> Tensor:
        """Local averages of [..., w, h]: [..., H / 2^J, W / 2^J]."""
        height, width = self.output_shape[2:]
        x = (x @ self.get_buffer(f"low_{i}_0"))[..., :height]
        return (x.transpose(-1, -2) @ self.get_buffer(f"low_{i}_1"))[..., :width]

    def forward(self, x: Tensor) -> Tensor:
        b, c = x.shape[:2]
        x = (
            nn.functional.pad(x, self.padding, mode="reflect")
            .flatten(0, 1)[:, None]
            .transpose(-1, -2)
            .contiguous()
        )
        first, second = [], []
        z = self._spectrum(x, 0)
        for j in range(self.scales):
            wave = self.get_buffer(f"wave_{j}_0")[:, :, None]
            u = self._modulus(self._filtered(z, wave, 2**j), j)  # |x * psi_1|, [BC, L, p, p]
            first.append(self._smooth(u, j))
            if j + 1 < self.scales:
                zu = self._spectrum(u, j)[:, :, None]
                deeper = []
                for i in range(j + 1, self.scales):
                    wave = self.get_buffer(f"wave_{i}_{j}")[:, :, None]
                    deeper.append(self._smooth(self._modulus(self._filtered(zu, wave, 2 ** (i - j)), i), i))
                second.append(torch.stack(deeper, 2).flatten(1, 3))
        s = torch.cat([self._smooth(x, 0), *first, *second], 1)
        return s.unflatten(0, (b, c))


class ScatteringVectors(nn.Module):
    """Coefficients of images [N, C, H, W] with values 0 to 255, in rows, [N, D].

    Args:
        image_shape, J, L, centred: as for :class:`Scattering`.
        colours: of three channels: as they are, opponent (van de Sande et al., PAMI 32(9), 2010), or intensity alone.
        floor: the floor of the logarithm log(1 + |S| / floor); 0 for none.
        mirror: average with those of the mirror image, and keep the half that says it all; ``centred`` only.
        coarse: opponent colours beside the intensity are averaged over so many places squared.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        J: int,
        L: int,
        colours: Colours,
        floor: float,
        *,
        centred: bool = False,
        mirror: bool = False,
        coarse: int = 1,
    ) -> None:
        super().__init__()
        channels = image_shape[0]
        mix = torch.eye(channels)
        if channels == 3 and colours != "rgb":
            mix = torch.tensor(OPPONENT)[: 1 if colours == "grey" else 3]
        self.register_buffer("mix", mix / 255, persistent=False)
        self.register_buffer("paths", mirrored(J, L), persistent=False)
        self.transform = Scattering((len(mix), *image_shape[1:]), J, L, centred=centred)
        self.floor, self.mirror = floor, mirror
        self.coarse = coarse if channels == 3 and colours == "opponent" else 1
        self.n_features = self._vectors(torch.zeros(1, *self.transform.output_shape)).shape[1]

    def forward(self, images: Tensor) -> Tensor:
        x = torch.einsum("kc,nchw->nkhw", self.get_buffer("mix"), images.float())
        return self._vectors(self.transform(x))

    def _vectors(self, s: Tensor) -> Tensor:
        """Rows [N, D] of coefficients [N, C, paths, h, w]."""
        if self.floor:
            s = torch.log1p(s.abs() / self.floor)
        if self.mirror:
            s = (s + s[:, :, self.get_buffer("paths")].flip(-1)) / 2
        maps = [s]
        if self.coarse > 1:
            rest = nn.functional.avg_pool2d(s[:, 1:].flatten(0, 1), self.coarse, ceil_mode=True)
            maps = [s[:, :1], rest.unflatten(0, (-1, 2))]
        if self.mirror:
            maps = [part[..., : (part.shape[-1] + 1) // 2] for part in maps]
        return torch.cat([part.flatten(1) for part in maps], 1)


def mirrored(scales: int, angles: int) -> Tensor:
    """The paths of a mirrored image by those of the image: int64 [1 + J L + L^2 J (J - 1) / 2]; columns turn around.

    A wavelet of angle t becomes one of angle -t, which is one of the same L.
    """
    turns = [int(angles / 2 - 1) - t for t in range(angles)]
    other = torch.tensor([next(i for i, a in enumerate(turns) if (a + t) % angles == 0) for t in turns])
    paths, first = [torch.zeros(1, dtype=torch.int64)], 1
    for _ in range(scales):
        paths.append(first + other)
        first += angles
    for deeper in reversed(range(1, scales)):
        grid = first + torch.arange(angles * deeper * angles).view(angles, deeper, angles)
        paths.append(grid[other][:, :, other].flatten())
        first += grid.numel()
    return torch.cat(paths)
