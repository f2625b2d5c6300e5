"""The scattering transform: equal to kymatio's, exported, and what its theory says of it."""

from __future__ import annotations

import pytest
import torch
from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D
from torch.export import Dim, export

from engram.networks.scattering import Scattering, mirrored


def images(n: int, *shape: int) -> torch.Tensor:
    return torch.rand((n, *shape), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("J", "L", "channels", "height", "width"),
    [(2, 8, 1, 32, 32), (2, 4, 3, 28, 28), (3, 6, 1, 32, 40), (1, 8, 1, 8, 8), (2, 5, 1, 17, 23)],
)
def test_coefficients_are_those_of_kymatio(J: int, L: int, channels: int, height: int, width: int):
    x = images(2, channels, height, width)
    ours = Scattering((channels, height, width), J, L)
    found = ours(x)
    assert tuple(found.shape[1:]) == ours.output_shape
    torch.testing.assert_close(found, ScatteringTorch2D(J, (height, width), L=L)(x), rtol=0, atol=1e-5)


def test_a_constant_image_has_nothing_but_its_average():
    found = Scattering((1, 16, 16), 2, 4)(torch.full((1, 1, 16, 16), 0.7))
    torch.testing.assert_close(found[:, :, 0], torch.full_like(found[:, :, 0], 0.7), atol=1e-3, rtol=0)
    assert found[:, :, 1:].abs().max() < 1e-5


def test_it_does_not_expand_and_hardly_sees_a_shift():
    x, y = images(2, 1, 32, 32).split(1)
    transform = Scattering((1, 32, 32), 3, 8)
    # Each coefficient stands for an area of 8 x 8 pixels.
    assert 8 * (transform(x) - transform(y)).norm() <= 1.1 * (x - y).norm()
    shifted = x.roll(1, -1)
    assert 8 * (transform(x) - transform(shifted)).norm() < 0.2 * (x - shifted).norm()


@pytest.mark.parametrize(("J", "L", "width"), [(2, 8, 32), (3, 5, 32), (2, 4, 28), (1, 6, 18)])
def test_a_mirror_image_has_the_same_coefficients_in_another_order(J: int, L: int, width: int):
    x = images(2, 1, 16, width)
    transform = Scattering((1, 16, width), J, L, centred=True)
    found, wanted = transform(x)[:, :, mirrored(J, L)].flip(-1), transform(x.flip(-1))
    assert (found - wanted).norm() < 0.01 * wanted.norm()  # but for aliasing
    assert (transform(x) - wanted).norm() > 0.05 * wanted.norm()


def test_it_exports_with_any_number_of_images():
    transform = Scattering((3, 16, 16), 2, 4)
    exported = export(transform, (images(2, 3, 16, 16),), dynamic_shapes=({0: Dim("n", min=1, max=64)},))
    x = images(5, 3, 16, 16)
    assert torch.equal(exported.module()(x), transform(x))


@pytest.mark.parametrize(("size", "channels", "angles"), [(28, 1, 4), (20, 3, 3), (8, 1, 8), (30, 1, 6)])
def test_the_bits_of_an_image_do_not_depend_on_its_place(size: int, channels: int, angles: int) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 255, (19, channels, size, size), dtype=torch.uint8, generator=g)
    transform = Scattering((channels, size, size), 2, angles, centred=True)
    first = transform(x[:16].float())
    for place in (1, 2, 3):
        assert torch.equal(transform(x[place : place + 16].float())[: 16 - place], first[place:])
