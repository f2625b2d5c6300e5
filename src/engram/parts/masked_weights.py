"""Masks per weight over a whole trunk: which weights they act on, and the trunk run with others in their place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn
from torch.func import functional_call

from engram.errors import ConfigError


def weight_names(trunk: nn.Module) -> list[str]:
    """Names of the weights of linear layers and convolutions, each once, in order.

    Raises:
        ConfigError: the trunk has none.
    """
    layers = ((n, m) for n, m in trunk.named_modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d)))
    parameters = dict(trunk.named_parameters())
    names = [name for n, _ in layers if (name := f"{n}.weight".lstrip(".")) in parameters]
    if not names:
        raise ConfigError(
            f"masks per weight need linear layers or convolutions, {type(trunk).__name__} has none: use a network "
            "such as mlp or preact-resnet."
        )
    return names


def run_with(trunk: nn.Module, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Features [B, F] of ``trunk`` with ``weights`` by name in place of its own."""
    return cast(Tensor, functional_call(trunk, dict(weights), (x,)))
