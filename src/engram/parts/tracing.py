"""What a network computes, as a graph, and the linear stretches in it (see `engram.parts.combining`)."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import cast

from torch import Tensor, fx, nn

from engram.errors import ConfigError

MIXING = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
POOLS = {  # axes of what they read; with one less they would take the batch for channels
    nn.AvgPool1d: 3,
    nn.AvgPool2d: 4,
    nn.AvgPool3d: 5,
    nn.AdaptiveAvgPool1d: 3,
    nn.AdaptiveAvgPool2d: 4,
    nn.AdaptiveAvgPool3d: 5,
}
PASSING = (nn.Identity, *POOLS)
RESERVED = frozenset(dir(nn.ParameterDict()))  # names that its entries cannot have
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


@dataclass(frozen=True)
class Stretch:
    """One linear stretch of the network: the nodes of the trace from ``first`` to ``last``, by module.

    Args:
        nodes: consecutive nodes, each the only reader of the one before it.
        layers: paths of those modules that have parameters, in order.
        channels: length of alpha.
        axis: of the channels in the output, counted from the end where it begins with a layer that mixes them (-1 of
            a linear layer, -3 of a Conv2d), otherwise 1.
    """

    nodes: tuple[fx.Node, ...]
    layers: tuple[str, ...]
    channels: int
    axis: int

    @property
    def name(self) -> str:
        """Name of its pair of alphas; a layer may be called as a method of `nn.ParameterDict` is."""
        name = "+".join(self.layers).replace(".", "/")
        return f"{name}/" if name in RESERVED else name


def check_alike(source: nn.Module, target: nn.Module) -> None:
    """Raise ``ConfigError`` unless both networks have the same tensors with the same shapes."""
    a, b = ({k: tuple(v.shape) for k, v in net.state_dict().items()} for net in (source, target))
    if a != b:
        key = next(k for k in [*a, *b] if a.get(k) != b.get(k))
        raise ConfigError(
            "two networks must have the same layers and shapes to be combined, "
            f"{key} is {a.get(key, 'absent')} in the source and {b.get(key, 'absent')} in the target: build the target "
            "from the source."
        )


def check_same_computation(graph: fx.Graph, source: nn.Module, target: nn.Module) -> None:
    """Raise ``ConfigError`` unless the target computes what ``graph``, the source's trace, says, with layers as there.

    Batch norms may differ in eps and momentum, dropout in its rate.
    """
    advice = "build the target from the source."
    for node in graph.nodes:
        if node.op != "call_module":
            continue
        path = str(node.target)
        try:
            a, b = source.get_submodule(path), target.get_submodule(path)
        except AttributeError:
            raise ConfigError(
                f"two networks must have the same layers to be combined, {path} is absent in the target: {advice}"
            ) from None
        alike = repr(a) == repr(b) or (type(a) is type(b) and isinstance(a, (*NORMS, *DROPOUTS)))
        if not alike:
            raise ConfigError(
                f"two networks must have the same layers to be combined, {path} is {a} in the source and {b} in the "
                f"target: {advice}"
            )
    if trace(target).python_code("self").src != graph.python_code("self").src:
        raise ConfigError(
            f"two networks must compute the same to be combined, their forwards differ: {advice}"
        )


def trace(module: nn.Module, aim: str = "be combined") -> fx.Graph:
    """What ``module`` computes, as a graph of its leaf modules and functions; ``aim`` is what for, in the error.

    Raises:
        ConfigError: its forward depends on data or on its mode in Python, or takes more than one input; or a forward
            hook could change what it computes.
    """
    for path, layer in module.named_modules():
        if layer._forward_hooks or layer._forward_pre_hooks:
            raise ConfigError(
                f"a network must have no forward hooks to {aim}, {path or type(module).__name__} has: remove them."
            )
    graphs = []
    for mode in (True, False):
        try:
            graphs.append(fx.Tracer().trace(copy.deepcopy(module).train(mode)))
        except Exception as error:
            said = (str(error).splitlines() or [type(error).__name__])[0]
            raise ConfigError(
                f"a network must be traceable by torch.fx to {aim}, {type(module).__name__} is not ({said}): "
                "let its forward call registered layers, without control flow that depends on data."
            ) from error
    training, evaluation = graphs
    if training.python_code("self").src != evaluation.python_code("self").src:
        raise ConfigError(
            f"a network must compute the same in both modes to {aim}, the forward of "
            f"{type(module).__name__} asks for self.training: use modules, such as nn.Dropout in place of its function."
        )
    inputs = [node for node in evaluation.nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        raise ConfigError(
            f"a network must take one tensor to {aim}, {type(module).__name__} takes {len(inputs)} arguments: "
            "wrap it in a module with one."
        )
    return evaluation


def find_stretches(graph: fx.Graph, module: nn.Module) -> list[Stretch]:
    """The linear stretches of a traced network, in order of their ends.

    Raises:
        ConfigError: names a layer that cannot be combined.
    """
    calls: dict[str, int] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            raise ConfigError(
                f"tensors must belong to layers that the network calls to be combined, {node.target} is used by "
                "itself: make it part of an nn.Linear, nn.Conv or nn.BatchNorm inside the network."
            )
        if node.op == "call_module":
            calls[node.target] = calls.get(node.target, 0) + 1
    found: dict[fx.Node, Stretch] = {}
    for node in graph.nodes:
        if node.op != "call_module":
            continue
        path, layer = str(node.target), module.get_submodule(str(node.target))
        channels = _channels(path, layer)
        if channels is None:
            continue
        if len(node.all_input_nodes) != 1:
            raise ConfigError(f"layer {path} must read one tensor to be combined, it reads several.")
        between, before = _back(node, module)
        previous = found.get(before)
        if (
            previous is not None
            and isinstance(layer, NORMS)
            and previous.channels == channels
            and len(before.users) == 1
            and all(calls[p] == 1 for p in (path, *previous.layers))
        ):
            del found[before]
            nodes = (*previous.nodes, *between, node)
            found[node] = replace(previous, nodes=nodes, layers=(*previous.layers, path))
        else:
            axis = 1 if isinstance(layer, NORMS) else 1 - cast(Tensor, layer.weight).dim()
            found[node] = Stretch((node,), (path,), channels, axis)
    _check_untied(module, [p for s in found.values() for p in s.layers])
    if not found:
        raise ConfigError("a network must have a layer that can be combined, this one has none.")
    return list(found.values())


def _channels(path: str, layer: nn.Module) -> int | None:
    """Output channels of a layer that is combined; None for one without parameters."""
    if type(layer) in NORMS:
        norm = cast(nn.BatchNorm2d, layer)
        if norm.affine and norm.track_running_stats:
            return norm.num_features
        raise ConfigError(
            f"batch norm must have scale, offset and running statistics to be combined, {path} lacks some: build it "
            "with affine=True and track_running_stats=True."
        )
    own = {n for n, _ in [*layer.named_parameters(), *layer.named_buffers()]}
    if type(layer) in MIXING and own <= {"weight", "bias"}:
        return int(cast(Tensor, layer.weight).shape[0])
    if own:
        raise ConfigError(
            f"layer {path} ({type(layer).__name__}) cannot be combined: linear, convolution and batch-norm layers can; "
            "use one of them, or keep the layer out of the trunk."
        )
    return None


def _back(node: fx.Node, module: nn.Module) -> tuple[tuple[fx.Node, ...], fx.Node]:
    """Channel-wise linear layers without parameters (average pooling) before ``node``, and what comes before them."""
    between: list[fx.Node] = []
    before = node.all_input_nodes[0]
    while (
        before.op == "call_module"
        and type(module.get_submodule(str(before.target))) in PASSING
        and len(before.users) == 1
    ):
        between.append(before)
        before = before.all_input_nodes[0]
    return tuple(reversed(between)), before


def _check_untied(module: nn.Module, paths: Iterable[str]) -> None:
    owner: dict[int, str] = {}
    for path in dict.fromkeys(paths):
        for p in module.get_submodule(path).parameters():
            if owner.setdefault(id(p), path) != path:
                raise ConfigError(
                    f"layers must have weights of their own to be combined, {owner[id(p)]} and {path} share them: call "
                    "one layer twice instead."
                )
