"""A trunk as layers in a row: linear layers and convolutions, and what is done to the signal between them.

For methods that act between layers. What a trunk computes is found by tracing (`torch.fx`), so that any network whose
forward is one straight line will do: each step reads what the step before it gave, and nothing else.

Shapes: layer i of n reads h_i and gives z_i; h_0 follows from the images, h_n are the features [B, F].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, fx, nn

from engram.errors import ConfigError
from engram.parts.tracing import trace

LAYERS = (nn.Linear, nn.Conv2d)


@dataclass(frozen=True)
class _Step:
    """One step between layers: a module by its path, a method of the tensor by its name, or a function."""

    op: str
    target: Any
    arguments: tuple[Any, ...]
    named: tuple[tuple[str, Any], ...]

    def __call__(self, trunk: nn.Module, h: Tensor) -> Tensor:
        if self.op == "call_module":
            return cast(Tensor, trunk.get_submodule(self.target)(h))
        function = getattr(type(h), self.target) if self.op == "call_method" else self.target
        return cast(Tensor, function(h, *self.arguments, **dict(self.named)))


class Ordered:
    """The order of a trunk's layers; no module, and it holds no tensors: each call is given a trunk of this kind.

    Args:
        trunk: traced here.
        owner: name of the method, for the error.

    Raises:
        ConfigError: the trunk cannot be traced, its steps are not in a row, or it has no layer.
    """

    def __init__(self, trunk: nn.Module, owner: str) -> None:
        #: Paths of the layers in the trunk.
        self.layers: list[str] = []
        self._between: list[list[_Step]] = [[]]
        held: fx.Node | None = None
        for node in trace(trunk, f"be run layer by layer by {owner}").nodes:
            if held is not None and (node.all_input_nodes != [held] or node.args[0] is not held):
                raise ConfigError(
                    f"{owner} needs a network with its layers in a row, {type(trunk).__name__} branches at {node}: use "
                    "one such as mlp or plain-cnn."
                )
            held = node
            if node.op == "call_module" and isinstance(trunk.get_submodule(str(node.target)), LAYERS):
                self.layers.append(str(node.target))
                self._between.append([])
            elif node.op not in ("placeholder", "output"):
                named = tuple(node.kwargs.items())
                target = str(node.target) if node.op != "call_function" else node.target
                self._between[-1].append(_Step(node.op, target, tuple(node.args[1:]), named))
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise ConfigError(
                f"{owner} needs a network of linear layers or convolutions, each called once, {type(trunk).__name__} "
                "is none: use one such as mlp or plain-cnn."
            )

    def __len__(self) -> int:
        return len(self.layers)

    def layer(self, trunk: nn.Module, i: int) -> nn.Linear | nn.Conv2d:
        """Layer ``i`` of ``trunk``."""
        return cast("nn.Linear | nn.Conv2d", trunk.get_submodule(self.layers[i]))

    def lead(self, trunk: nn.Module, i: int, z: Tensor) -> Tensor:
        """h_i from z_{i-1}; of images for i = 0."""
        for step in self._between[i]:
            z = step(trunk, z)
        return z
