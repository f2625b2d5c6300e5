"""Arranged convolutions are the library's, with their gradients, to the digits of float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engram.networks import Dcgan
from engram.networks.arranged import ArrangedConv2d, ArrangedConvTranspose2d, conv_transpose2d
from engram.networks.masked import MaskedGenerator


@pytest.fixture(autouse=True)
def _double(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def close(a: list[Tensor], b: list[Tensor]) -> None:
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def with_gradients(layer: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    out = layer(x)
    push = torch.linspace(-1, 1, out.numel()).view_as(out)
    return [out, *torch.autograd.grad((out * push).sum(), [x, *layer.parameters()])]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "padding", "size"), [(5, 2, 2, 32), (3, 1, 1, 7), (4, 2, 0, 9)])
def test_convolution(channels: int, bias: bool, kernel: int, stride: int, padding: int, size: int) -> None:
    arranged = ArrangedConv2d(channels, 4, kernel, stride, padding, bias=bias)
    library = nn.Conv2d(channels, 4, kernel, stride, padding, bias=bias)
    library.load_state_dict(arranged.state_dict())
    x = torch.randn(3, channels, size, size)
    close(with_gradients(arranged, x), with_gradients(library, x))
    out = library(x.requires_grad_())
    push = torch.randn_like(out)
    close([arranged.input_gradient(x.shape, push)], list(torch.autograd.grad(out, x, push)))


@pytest.mark.parametrize("shape", [(5, 4, 1, 0, 1), (5, 1, 2, 1, 4), (5, 3, 2, 1, 4), (5, 1, 1, 1, 3)])
def test_transposed_convolution(shape: tuple[int, ...]) -> None:
    inputs, outputs, stride, padding, size = shape
    arranged = ArrangedConvTranspose2d(inputs, outputs, 4, stride, padding)
    library = nn.ConvTranspose2d(inputs, outputs, 4, stride, padding)
    library.load_state_dict(arranged.state_dict())
    x = torch.randn(2, inputs, size, size)
    close(with_gradients(arranged, x), with_gradients(library, x))
    w = library.weight
    close(
        [conv_transpose2d(x, w, stride, padding)], [F.conv_transpose2d(x, w, stride=stride, padding=padding)]
    )


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_trunk_and_generator_of_the_network(norm: str) -> None:
    x, found = torch.randn(2, 1, 32, 32), []
    for convolutions in ("library", "arranged"):
        network = Dcgan(n_d=4, n_z=12, convolutions=convolutions)
        torch.manual_seed(1)
        trunk = network.trunk((1, 32, 32), norm=norm)
        generator = MaskedGenerator(network.generator((1, 32, 32), mask="weight"), mask="weight")
        generator.begin(0)
        images = generator(x.flatten(1)[:, :12], 0, generator.soft_gates(1.0), statistics=True)
        penalty = trunk.input_gradient(x, torch.ones(2, trunk.n_features)) if norm == "none" else x
        found.append(
            [trunk(x), images, penalty, *torch.autograd.grad(trunk(images).sum(), list(trunk.parameters()))]
        )
    close(*found)
