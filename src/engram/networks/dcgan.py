"""The DCGAN pair of Ostapenko et al. (CVPR 2019, Sec. 4 and the released configuration), and its small sister.

Radford et al. (2015): strided convolutions, batch norm except at the critic's input and the generator's output, ReLU
in the generator, LeakyReLU(0.2) in the critic, weights N(0, 0.02^2). Images lie in [-1, 1].

Departures: ``dcgan8`` is ours, for the 8x8 digits: two masked layers up to 4x4, a critic of two convolutions.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from engram.core.network import Deconv, GeneratorShape, Masking, Network, Norm
from engram.core.options import Count
from engram.core.samples import Shape
from engram.networks.arranged import ArrangedConv2d


def _norm(norm: Norm, width: int) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm2d(width)
    if norm == "group":
        return nn.GroupNorm(min(8, width), width)
    return nn.Identity()


class ConvTrunk(nn.Module):
    """Strided convolutions, norm from the second on, LeakyReLU(0.2); [B, C, H, W] to [B, F].

    With a norm the convolutions have no bias and start at N(0, 0.02^2), as DCGAN. Without one nothing rescales such
    small weights, so they have biases and start at He et al. (ICCV 2015), N(0, 2 / ((1 + 0.2^2) fan_in)), biases 0.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        kernel: int,
        size: int,
        *,
        norm: Norm,
        negative_slope: float = 0.2,
        arranged: bool = False,
    ) -> None:
        super().__init__()
        make = ArrangedConv2d if arranged else nn.Conv2d
        self.linear = norm == "none"  # but for the kinks
        blocks: list[nn.Module] = []
        for i, (a, b) in enumerate(itertools.pairwise(channels)):
            blocks.append(make(a, b, kernel, stride=2, padding=kernel // 2, bias=norm == "none"))
            if i > 0:
                blocks.append(_norm(norm, b))
            blocks.append(nn.LeakyReLU(negative_slope))
            size = (size + 1) // 2
        self.blocks = nn.Sequential(*blocks)
        self.n_features = channels[-1] * size * size
        self.negative_slope = negative_slope
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew; norm scales N(1, 0.02^2), offsets 0, running statistics 0 and 1."""
        for m in self.blocks:
            if isinstance(m, nn.Conv2d):
                if m.bias is None:
                    nn.init.normal_(m.weight, 0.0, 0.02)
                else:
                    nn.init.kaiming_normal_(m.weight, self.negative_slope)
                    nn.init.zeros_(m.bias)
            elif isinstance(m, (nn.BatchNorm2d, nn.GroupNorm)):
                m.reset_parameters()
                nn.init.normal_(m.weight, 1.0, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x).flatten(1)

    def input_gradient(self, x: Tensor, grad: Tensor) -> Tensor:
        """Gradient [B, C, H, W] at ``x`` of the features times ``grad`` [B, F], of a trunk without a norm.

        A differentiable function of weights and ``grad``, with the bits of autograd. Between its kinks such a trunk is
        linear, so that its second derivatives are 0; autograd computes these zeros, and carries them back through
        all layers.
        """
        inputs = []
        with torch.no_grad():
            for block in self.blocks:
                inputs.append(x)
                x = block(x)
        grad = grad.view_as(x)
        for block, h in zip(reversed(self.blocks), reversed(inputs), strict=True):
            if isinstance(block, ArrangedConv2d):
                grad = block.input_gradient(h.shape, grad)
            elif isinstance(block, nn.Conv2d):
                grad = conv2d_input(h.shape, block.weight, grad, block.stride, block.padding)
            elif isinstance(block, nn.LeakyReLU):
                grad = torch.ops.aten.leaky_relu_backward(grad, h, block.negative_slope, False)
        return grad


@dataclass(frozen=True)
class Dcgan(Network):
    """The pair for 32x32 images: 3 masked transposed convolutions against 3 convolutions of 5x5.

    Args:
        n_f: base width of the generator (4, 2, 1 times it); None takes the paper's 6 for masks per weight and 20
            for masks per unit, and without masks the 32 of Wu et al. (NeurIPS 2018).
        n_d: base width of the critic (1, 2, 4 times it).
        n_z: noise entries, the label's one-hot included.
        upsample: how layers of a masked generator double the size: transposed convolutions of 4x4, as published, which
            leave a chequered pattern; or nearest, each pixel four times and a convolution of 3x3, which do not (Odena
            et al., Distill 2016).
        convolutions: library, as PyTorch computes them, or arranged for a processor: in critics and masked generators
            layers of one channel or position are matrix products, others have channels last: other bits, less time.
    """

    name: ClassVar[str] = "dcgan"
    image_size: ClassVar[int | None] = 32
    mean: ClassVar[float] = 0.5
    std: ClassVar[float] = 0.5
    n_f: Count | None = None
    n_d: Count = 32
    n_z: Count = 128
    upsample: Literal["transposed", "nearest"] = "transposed"
    convolutions: Literal["library", "arranged"] = "library"

    def trunk(self, image_shape: Shape, *, norm: Norm = "batch") -> nn.Module:
        """The critic's trunk, which is also the solver's: features [B, 64 n_d]."""
        self.check(image_shape)
        channels = (image_shape[0], self.n_d, 2 * self.n_d, 4 * self.n_d)
        return ConvTrunk(channels, 5, 32, norm=norm, arranged=self.convolutions == "arranged")

    def generator(self, image_shape: Shape, *, mask: Masking) -> GeneratorShape:
        """n_z -> 4 n_f at 4x4 -> 2 n_f at 8x8 -> n_f at 16x16 -> output at 32x32; without masks kernels of 5x5."""
        self.check(image_shape)
        n_f = self.n_f or {"weight": 6, "unit": 20, "none": 32}[mask]
        if mask == "none":
            second, third, output = (Deconv(n, 5, 2, 2, 1) for n in (2 * n_f, n_f, image_shape[0]))
            return GeneratorShape(self.n_z, (Deconv(4 * n_f, 4, 1, 0), second, third), output)
        nearest = self.upsample == "nearest"
        second, third, output = (
            Deconv(n, 3, 1, 1) if nearest else Deconv(n, 4, 2, 1) for n in (2 * n_f, n_f, image_shape[0])
        )
        arranged = self.convolutions == "arranged"
        layers = (Deconv(4 * n_f, 4, 1, 0), second, third)
        return GeneratorShape(self.n_z, layers, output, nearest=nearest, arranged=arranged)


@dataclass(frozen=True)
class Dcgan8(Network):
    """The pair for 8x8 images: 2 masked transposed convolutions up to 4x4 against 2 convolutions of 3x3.

    Args:
        n_f: base width of the generator (2 and 1 times it); None takes 12 for masks per weight, else 20.
        n_d: base width of the critic (1 and 2 times it).
        n_z: noise entries, the label's one-hot included.
    """

    name: ClassVar[str] = "dcgan8"
    image_size: ClassVar[int | None] = 8
    mean: ClassVar[float] = 0.5
    std: ClassVar[float] = 0.5
    n_f: Count | None = None
    n_d: Count = 32
    n_z: Count = 32

    def trunk(self, image_shape: Shape, *, norm: Norm = "batch") -> nn.Module:
        """The critic's trunk, which is also the solver's: features [B, 8 n_d]."""
        self.check(image_shape)
        return ConvTrunk((image_shape[0], self.n_d, 2 * self.n_d), 3, 8, norm=norm)

    def generator(self, image_shape: Shape, *, mask: Masking) -> GeneratorShape:
        """n_z -> 2 n_f at 2x2 -> n_f at 4x4 -> output at 8x8."""
        self.check(image_shape)
        n_f = self.n_f or {"weight": 12, "unit": 20, "none": 20}[mask]
        layers = (Deconv(2 * n_f, 2, 1, 0), Deconv(n_f, 4, 2, 1))
        return GeneratorShape(self.n_z, layers, Deconv(image_shape[0], 4, 2, 1))
