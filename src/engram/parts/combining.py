"""Two networks of one architecture combined layer by layer, and folded into one of the same size.

J. Lee, D. Joo, H. G. Hong, J. Kim: "Residual Continual Learning", AAAI 2020, arXiv 2002.06774 ("ResCL"), the
combination layer and its Fig. 2. Each linear stretch y_s, y_t of the two networks, which read the same input, becomes

    y = (1 + alpha_s) * y_s + alpha_t * y_t                                                                      (1)

channel by channel. (alpha_s, alpha_t) = (0, 0) is the source network, (-1, 1) the target network. Since everything
between the input of a stretch and its combination is linear in evaluation mode, the two branches fold into one.

A stretch is a convolution or fully connected layer with the batch norms that follow it, or batch norms alone (the first
of a pre-activation unit). It ends before anything else: a non-linearity, a sum, a second reader of its output, or the
next layer that mixes channels, since two of those do not fold into two of the same size. A layer that is called more
than once is a stretch of its own, with one pair of alphas. The stretches are found by tracing (`torch.fx`), so a
network needs no rewriting.

Folding keeps every layer and every key of the state dict: a convolution takes the gains of its batch norms, which stay
with scale 1, mean 0 and variance 1 - eps, and carry the offsets. Combining weights and batch norms separately would be
wrong: the product of two combinations is not the combination of the products.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
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


class Combiner(nn.Module):
    """The alphas of two networks, and how to run and fold their combination. It holds neither network.

    Args:
        source, target: the networks; same layers, same shapes, same computation. Traced here and given again in every
            call.
        start: first values of alpha_s and alpha_t (paper, Algorithm 1: -1/2 and 1/2).
        per_channel: an alpha a channel; otherwise one for each stretch.

    Raises:
        ConfigError: the networks differ, cannot be traced, or hold a layer that cannot be combined (named).
    """

    def __init__(
        self,
        source: nn.Module,
        target: nn.Module,
        *,
        start: tuple[float, float] = (-0.5, 0.5),
        per_channel: bool = True,
    ) -> None:
        super().__init__()
        check_alike(source, target)
        self.graph = trace(source)
        stretches = find_stretches(self.graph, source)
        if target is not source:
            check_same_computation(self.graph, source, target)
        self._by_first = {s.nodes[0]: s for s in stretches}
        self._later = {node for s in stretches for node in s.nodes[1:]}
        device = next((t.device for t in source.state_dict().values()), None)
        self.alpha_s, self.alpha_t = nn.ParameterDict(), nn.ParameterDict()
        for stretch in stretches:
            for alphas, value in zip((self.alpha_s, self.alpha_t), start, strict=True):
                size = stretch.channels if per_channel else 1
                dtype = next(source.get_submodule(stretch.layers[0]).parameters()).dtype
                alphas[stretch.name] = nn.Parameter(torch.full((size,), value, dtype=dtype, device=device))

    def __deepcopy__(self, memo: dict[int, Any]) -> Combiner:
        # Nodes are keys, and a trace never changes: a copy shares it.
        memo |= {id(shared): shared for shared in (self.graph, self._by_first, self._later)}
        made = memo[id(self)] = type(self).__new__(type(self))
        made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return made

    @property
    def stretches(self) -> list[Stretch]:
        """One a pair of alphas, in order of the first call."""
        return list({s.name: s for s in self._by_first.values()}.values())

    @property
    def n_channels(self) -> int:
        """Channels over all stretches, n of the paper's L1 term."""
        return sum(s.channels for s in self.stretches)

    def forward(self, source: nn.Module, target: nn.Module, x: Tensor) -> Tensor:
        """The combined network's output for ``x``.

        Batch norms run in the mode that their network is in: the source's belong in evaluation mode. Layers without
        parameters are the target's, so that its mode decides on dropout.
        """
        values: dict[fx.Node, Any] = {}
        for node in self.graph.nodes:
            if node in self._later:
                continue
            if node in self._by_first:
                # The whole stretch here: what it reads may be changed in place before its last layer is due.
                stretch = self._by_first[node]
                h = values[node.all_input_nodes[0]]
                combined = self._combined(stretch, _run(stretch, source, h), _run(stretch, target, h))
                values[stretch.nodes[-1]] = combined
                continue
            args = fx.map_arg(node.args, values.__getitem__)
            kwargs = fx.map_arg(node.kwargs, values.__getitem__)
            if node.op == "placeholder":
                values[node] = x
            elif node.op == "call_module":
                values[node] = target.get_submodule(str(node.target))(*args, **kwargs)
            elif node.op == "call_method":
                values[node] = getattr(args[0], str(node.target))(*args[1:], **kwargs)
            elif node.op == "call_function":
                values[node] = cast(Any, node.target)(*args, **kwargs)
            else:
                return cast(Tensor, args[0])
        raise ConfigError("a network must return something to be combined, this one has no output.")

    def _combined(self, stretch: Stretch, s: Tensor, t: Tensor) -> Tensor:
        """Equation (1)."""
        a_s, a_t = self.alpha_s[stretch.name], self.alpha_t[stretch.name]
        if stretch.axis == -1 and s.dim() > 2 and len(stretch.layers) > 1:
            raise ConfigError(
                f"a batch norm behind a linear layer must read [B, C] to be combined, {stretch.name} has "
                f"{s.dim()} axes: flatten its input."
            )
        shape = (-1, *(1,) * (-stretch.axis - 1 if stretch.axis < 0 else s.dim() - 2))
        a_s, a_t = a_s.view(shape), a_t.view(shape)
        return (1.0 + a_s) * s + a_t * t

    @torch.no_grad()
    def fold(self, source: nn.Module, target: nn.Module) -> dict[str, Tensor]:
        """State dict of a network of the source's size that answers as the combined one in evaluation mode.

        For a stretch with layers 1 .. n, gains A_i and offsets B_i (a batch norm is z -> A z + B with
        A = gamma / sqrt(v + eps), B = beta - m A), layer i's offset and layer 1's gain or weight are multiplied by
        the later gains and combined as (1). Computed in float64. Layers that the trace never calls are the source's.
        """
        own: dict[int, Tensor] = {}  # a layer with two names has one tensor under two keys
        folded = {k: own.setdefault(id(v), v.clone()) for k, v in source.state_dict(keep_vars=True).items()}
        for stretch in self.stretches:
            a_s, a_t = (a[stretch.name].double() for a in (self.alpha_s, self.alpha_t))
            parts = [_scaled(stretch, net) for net in (source, target)]
            for path, s, t in zip(stretch.layers, *parts, strict=True):
                for key, value in s.items():
                    shape = (-1, *(1,) * (value.dim() - 1))
                    new = (1.0 + a_s).view(shape) * value + a_t.view(shape) * t[key]
                    if key == "gain":
                        key = "weight"
                    folded[f"{path}.{key}"].copy_(new.expand_as(folded[f"{path}.{key}"]))
                if isinstance(norm := source.get_submodule(path), NORMS):
                    if path != stretch.layers[0]:
                        folded[f"{path}.weight"].fill_(1.0)
                    folded[f"{path}.running_mean"].zero_()
                    folded[f"{path}.running_var"].fill_(1.0 - norm.eps)
        return folded


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


# The trace -------------------------------------------------------------------------------------------------------
def trace(module: nn.Module) -> fx.Graph:
    """What ``module`` computes, as a graph of its leaf modules and functions.

    Raises:
        ConfigError: its forward depends on data or on its mode in Python, or takes more than one input; or a forward
            hook could change what it computes.
    """
    for path, layer in module.named_modules():
        if layer._forward_hooks or layer._forward_pre_hooks:
            raise ConfigError(
                f"a network must have no forward hooks to be combined, {path or type(module).__name__} has: remove "
                "them."
            )
    graphs = []
    for mode in (True, False):
        try:
            graphs.append(fx.Tracer().trace(copy.deepcopy(module).train(mode)))
        except Exception as error:
            said = (str(error).splitlines() or [type(error).__name__])[0]
            raise ConfigError(
                f"a network must be traceable by torch.fx to be combined, {type(module).__name__} is not ({said}): "
                "let its forward call registered layers, without control flow that depends on data."
            ) from error
    training, evaluation = graphs
    if training.python_code("self").src != evaluation.python_code("self").src:
        raise ConfigError(
            "a network must compute the same in both modes to be combined, the forward of "
            f"{type(module).__name__} asks for self.training: use modules, such as nn.Dropout in place of its function."
        )
    inputs = [node for node in evaluation.nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        raise ConfigError(
            f"a network must take one tensor to be combined, {type(module).__name__} takes {len(inputs)} arguments: "
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


def _run(stretch: Stretch, net: nn.Module, h: Tensor) -> Tensor:
    for node in stretch.nodes:
        layer = net.get_submodule(str(node.target))
        axes = POOLS.get(type(layer), h.dim())
        if h.dim() != axes:
            raise ConfigError(
                f"average pooling in front of a batch norm must read {axes} axes to be combined, {node.target} reads "
                f"{h.dim()}: it would mix the channels of {stretch.name}."
            )
        h = layer(h)
    return h


def _scaled(stretch: Stretch, net: nn.Module) -> list[dict[str, Tensor]]:
    """For each layer its tensors in float64, multiplied by the gains of the layers after it in the stretch."""
    later: Tensor | float = 1.0
    parts: list[dict[str, Tensor]] = []
    for path in reversed(stretch.layers):
        layer = net.get_submodule(path)
        if isinstance(layer, NORMS):
            gain, offset = norm_map(layer)
            part = {"bias": offset * later}
            later = gain * later
            if path == stretch.layers[0]:
                part["gain"] = later
        else:
            tensors = {n: p.detach().double() for n, p in layer.named_parameters()}
            part = {n: p * _over_channels(later, p) for n, p in tensors.items()}
        parts.append(part)
    return parts[::-1]


def _over_channels(gain: Tensor | float, p: Tensor) -> Tensor | float:
    return gain if isinstance(gain, float) else gain.view(-1, *(1,) * (p.dim() - 1))


# Batch norm ------------------------------------------------------------------------------------------------------
def norm_map(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """A and B of a batch norm in evaluation mode, z -> A z + B; float64 [C]."""
    weight, bias, mean, var = (
        cast(Tensor, getattr(norm, n)).detach().double()
        for n in ("weight", "bias", "running_mean", "running_var")
    )
    gain = weight / (var + cast(float, norm.eps)).sqrt()
    return gain, bias - mean * gain


def norms_of(module: nn.Module) -> list[nn.BatchNorm2d]:
    """The batch norms of a network."""
    return [cast(nn.BatchNorm2d, m) for m in module.modules() if isinstance(m, NORMS)]


@torch.no_grad()
def refit_norms(module: nn.Module, batches: Iterable[Tensor]) -> None:
    """Give every batch norm the statistics of ``batches``, and scale and offset such that it computes the same.

    A folded network holds mean 0 and variance 1 - eps everywhere; in training mode batch statistics would make another
    function of it. Evaluation mode is unchanged to rounding.

    Args:
        module: in any mode, which is kept.
        batches: inputs, at least two values a channel in all.
    """
    norms = norms_of(module)
    sums: dict[nn.Module, list[Tensor]] = {}

    def note(norm: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        (x,) = (*args, *named.values())
        z = x.double().transpose(0, 1).flatten(1)
        seen = sums.setdefault(norm, [torch.zeros(3, z.shape[0], dtype=z.dtype, device=z.device)])
        seen[0] += torch.stack([z.sum(1), (z * z).sum(1), torch.full_like(z[:, 0], z.shape[1])])

    hooks = [n.register_forward_pre_hook(note, with_kwargs=True) for n in norms]
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        for x in batches:
            module(x)
    finally:
        for hook in hooks:
            hook.remove()
        for m, mode in modes:
            m.training = mode
    for norm in norms:
        if norm not in sums:
            continue
        total, squares, n = sums[norm][0]
        gain, offset = norm_map(norm)
        mean = total / n
        var = (squares / n - mean * mean).clamp(min=0.0)
        norm.weight.copy_(gain * (var + norm.eps).sqrt())
        norm.bias.copy_(offset + gain * mean)
        cast(Tensor, norm.running_mean).copy_(mean)
        cast(Tensor, norm.running_var).copy_(var)


@torch.no_grad()
def reestimate_norms(run: Callable[[Tensor], object], module: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the running statistics of ``module``'s batch norms to the mean over ``batches``, all parameters fixed.

    Args:
        run: called with each batch; runs ``module``, alone or in combination.
        module: all of it but the batch norms is in evaluation mode meanwhile; modes are kept.
        batches: inputs in random order; each is normalised by its own statistics.
    """
    norms = norms_of(module)
    modes = [(m, m.training) for m in module.modules()]
    momenta = [norm.momentum for norm in norms]
    module.eval()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
            norm.momentum = None  # cumulative average
        for x in batches:
            run(x)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for m, mode in modes:
            m.training = mode
