"""A plain module as a network: anything that maps images [B, C, H, W], or vectors [B, D], to features [B, F].

Pixels come as floats in [0, 1]. The width F is found by one pass of two samples.
"""

from __future__ import annotations

import copy
import re
import weakref
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from engram.core.network import Network, Norm
from engram.core.origin import described
from engram.core.samples import Shape
from engram.errors import ConfigError, reason

_IN_USE: weakref.WeakSet[nn.Module] = weakref.WeakSet()


class ModuleTrunk(nn.Module):
    """A module and the width of its features, which it need not know itself."""

    def __init__(self, module: nn.Module, n_features: int) -> None:
        super().__init__()
        self.module, self.n_features = module, n_features

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.module(x)
        return features


@dataclass(frozen=True)
class OfModule(Network):
    """A network of one's own.

    ``given`` is a module, a class or a function that makes one. What makes one is called anew each time. A module is
    copied, and every part of it that owns parameters or statistics begins anew by its ``reset_parameters``.
    """

    given: ClassVar[Any]
    origin: ClassVar[dict[str, str] | None]  # as it was given

    def source(self) -> dict[str, str] | None:
        return self.origin

    def trunk(self, image_shape: Shape, *, norm: Norm = "batch") -> nn.Module:
        """The module; ``norm`` does not matter. ``ConfigError`` where it cannot be made, or gives no features."""
        module = self._reset() if isinstance(self.given, nn.Module) else self._made()
        widths = {self._width(module, n, image_shape) for n in (2, 3)}
        if len(widths) > 1:
            raise ConfigError(
                f"network {self.name} must give features of one width, it gives {sorted(widths)} by the batch."
            )
        return ModuleTrunk(module, widths.pop())

    def _width(self, module: nn.Module, n: int, image_shape: Shape) -> int:
        """That of the features of ``n`` samples; ``ConfigError`` where there are none."""
        training, shape = module.training, [n, *image_shape]
        try:
            with torch.no_grad():
                features = module.eval()(torch.zeros(shape))
        except Exception as error:
            raise ConfigError(
                f"network {self.name} must take samples {shape}, it stops with {reason(error)}."
            ) from error
        module.train(training)
        found = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != n:
            raise ConfigError(
                f"network {self.name} must give features [B, F], it gives {found} for samples {shape}: "
                "flatten them, as nn.Flatten() does."
            )
        if not features.is_floating_point():
            raise ConfigError(
                f"network {self.name} must give features that gradients reach, it gives {features.dtype}."
            )
        return features.shape[1]

    def _made(self) -> nn.Module:
        try:
            module = self.given()
        except Exception as error:
            raise ConfigError(
                f"network {self.name} must be made without arguments, it stops with {reason(error)}: give a function "
                "that makes it."
            ) from error
        if not isinstance(module, nn.Module) or module in _IN_USE:
            what = "the same one twice" if isinstance(module, nn.Module) else type(module).__name__
            raise ConfigError(f"network {self.name} must make a new torch module each time, it makes {what}.")
        _IN_USE.add(module)
        return module

    def _reset(self) -> nn.Module:
        module: nn.Module = copy.deepcopy(self.given)
        for name, part in module.named_modules():
            if not [*part.parameters(recurse=False), *part.buffers(recurse=False)]:
                continue
            if not hasattr(part, "reset_parameters"):
                raise ConfigError(
                    f"every layer of a module must have reset_parameters, so that each seed begins anew, "
                    f"{name or 'the module itself'} ({type(part).__name__}) of network {self.name} has none: give its "
                    "class, or a function that makes it."
                )
            part.reset_parameters()
        return module


def of_module(given: Any, place: str) -> type[OfModule]:
    """The network of a module, its class, or a function that makes one; ``ConfigError`` where it is none of these."""
    if not isinstance(given, nn.Module) and not callable(given):
        raise ConfigError(
            f"network {place} must be a Network, a torch module, its class or a function that makes one, "
            f"got {given!r}."
        )
    try:
        # Weights begin anew, so that of a module's tensors shapes alone count.
        kept = copy.deepcopy(given).to("meta") if isinstance(given, nn.Module) else given
    except Exception as error:
        raise ConfigError(
            f"network {place} must be a module that can be copied, it stops with {reason(error)}: give its class, or a "
            "function that makes it."
        ) from error
    named = given if hasattr(given, "__name__") else getattr(given, "func", type(given))
    name = re.sub(r"\W", "", str(named.__name__))
    summary = ((named.__doc__ or "").strip().splitlines() or [""])[0]
    made = {"name": name, "given": staticmethod(given), "origin": described(kept), "__doc__": summary}
    return type(name, (OfModule,), made)
