"""Importances from gradients of single samples: diagonal Fisher information (EWC), sensitivity (MAS).

Never the gradient of a batch: its square is about 1 / B of what is wanted near a minimum and depends on the
batch size. The result here does not depend on how samples are batched, but for rounding.

Two paths. For linear, convolution and normalisation layers the gradient of sample n is written with what the
layer received (x_n) and the derivative of the score with respect to what it gave (delta_n): for a linear
layer it is the outer product, so that the sum of squares is (delta^2)^T (x^2), one product of matrices for a
whole batch; for a convolution the outer products are summed over positions before squaring. Every other layer
takes the general path, ``torch.func``'s ``vmap`` of ``grad``, which is also what the tests compare with.

Evaluation mode throughout: no dropout, running statistics as they are and left alone. Scale and offset of
normalisation are parameters like others; running statistics are not.

Shapes: N samples, B of them in a chunk, C labels, * a parameter's shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from engram.errors import ConfigError
from engram.parts.measuring import measuring

Labels = Literal["sampled", "exact", "empirical", "predicted"]
Reduce = Literal["square", "abs"]
#: (logits [B, C], labels [B]) to one number a sample [B].
Score = Callable[[Tensor, Tensor], Tensor]
#: (logits [B, C], first row, number of rows) to pairs of labels [B] and weights [B] (None: 1), summed over.
Choose = Callable[[Tensor, slice], list[tuple[Tensor, Tensor | None]]]

CHUNK = 500
#: Largest number of entries of per-sample gradients held at once.
ENTRIES = 1 << 24


def diagonal_fisher(
    module: nn.Module,
    parameters: Mapping[str, Tensor],
    x: Tensor,
    *args: Any,
    labels: Labels = "sampled",
    y: Tensor | None = None,
    generator: torch.Generator | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
    chunk: int = CHUNK,
    general: bool = False,
) -> dict[str, Tensor]:
    """Diagonal of the Fisher information, F of Eq. 3 in Kirkpatrick et al. (PNAS 2017), one value a
    parameter.

    F_k = 1/N sum_n E_y [ d log p(y | x_n) / d theta_k ]^2, with p the softmax of the logits.

    Args:
        module: maps (x, *args) to logits [B, C].
        parameters: those wanted, by their names in ``module``, each [*].
        x: inputs [N, ...].
        args: further arguments of the module.
        labels: what y is. ``sampled``: drawn once for each sample from p(. | x_n), unbiased; ``exact``: the
            expectation over all C labels, C times the cost; ``empirical``: the true label, not the Fisher
            information but often called so; ``predicted``: the most probable one.
        y: true labels [N] in 0 .. C - 1, for ``empirical``.
        generator: draws N numbers for ``sampled``.
        transform: applied to each chunk of x before the module.
        chunk: samples at a time; does not matter for the result.
        general: take the general path for every layer.
    Returns:
        By name, each [*], in nats^2 per squared unit of the parameter; 0 where the logits do not depend on
        it.
    Raises:
        ConfigError: no samples, an unknown rule, or no labels for ``empirical``.
    """
    if labels not in get_args(Labels):
        raise ConfigError(
            f"labels must be one of {', '.join(get_args(Labels))}, got {labels!r}: choose one of them."
        )
    if labels == "empirical" and (y is None or len(y) != len(x)):
        raise ConfigError(
            f"labels of all {len(x)} samples must be given for empirical, got "
            f"{'none' if y is None else len(y)}: give y."
        )
    u = torch.empty(0)
    if labels == "sampled":
        device = x.device if generator is None else generator.device
        u = torch.rand(len(x), 1, generator=generator, device=device, dtype=torch.float64).to(x.device)

    def choose(logits: Tensor, rows: slice) -> list[tuple[Tensor, Tensor | None]]:
        if y is not None and labels == "empirical":
            return [(y[rows], None)]
        if labels == "predicted":
            return [(logits.argmax(1), None)]
        p = logits.double().softmax(1)
        if labels == "sampled":
            # Inverse of the distribution function, so that a sample's label does not depend on its chunk.
            return [((p.cumsum(1) < u[rows]).sum(1).clamp(max=p.shape[1] - 1), None)]
        every = torch.arange(p.shape[1], device=p.device)
        return [(every[c].expand(len(p)), p[:, c].to(logits.dtype)) for c in range(p.shape[1])]

    def score(logits: Tensor, y: Tensor) -> Tensor:
        return F.log_softmax(logits, 1).gather(1, y[:, None]).squeeze(1)

    return importances(module, parameters, x, args, score, choose, "square", transform, chunk, general)


def output_sensitivity(
    module: nn.Module,
    parameters: Mapping[str, Tensor],
    x: Tensor,
    *args: Any,
    transform: Callable[[Tensor], Tensor] | None = None,
    chunk: int = CHUNK,
    general: bool = False,
) -> dict[str, Tensor]:
    """Omega of MAS (Aljundi et al., ECCV 2018, Sec. 4.1): 1/N sum_n | d ||f(x_n)||_2^2 / d theta_k |.

    Arguments as of :func:`diagonal_fisher`; f are the logits, no labels are needed.
    """

    def choose(logits: Tensor, rows: slice) -> list[tuple[Tensor, Tensor | None]]:
        return [(torch.zeros(len(logits), dtype=torch.int64, device=logits.device), None)]

    def score(logits: Tensor, y: Tensor) -> Tensor:
        return logits.square().sum(1)

    return importances(module, parameters, x, args, score, choose, "abs", transform, chunk, general)


def importances(
    module: nn.Module,
    parameters: Mapping[str, Tensor],
    x: Tensor,
    args: tuple[Any, ...],
    score: Score,
    choose: Choose,
    reduce: Reduce,
    transform: Callable[[Tensor], Tensor] | None,
    chunk: int,
    general: bool,
) -> dict[str, Tensor]:
    """Mean over samples of the reduced gradient of ``score``, by name; see :func:`diagonal_fisher`."""
    if len(x) == 0:
        raise ConfigError(
            "importances need at least one sample, got an empty set: give the task's training samples."
        )
    if not parameters:
        return {}
    inputs = transform or (lambda part: part)
    total = {n: torch.zeros_like(p, requires_grad=False) for n, p in parameters.items()}
    with measuring(module):
        tape = _Tape(module)
        reached = tape.probe(parameters, inputs(x[:1]), args)
        if general:
            tape.layers = {}
        direct = {n for prefix, m in tape.layers.items() for n in _owned(prefix, m)}
        rest = {n: parameters[n].detach() for n in parameters if n in reached and n not in direct}
        for first in range(0, len(x), chunk):
            rows = slice(first, first + chunk)
            part = inputs(x[rows])
            with tape.recording():
                logits = module(part, *args)
            for y, weight in choose(logits.detach(), rows):
                tape.add(total, score(logits, y).sum(), weight, reduce)
                if rest:
                    _add_general(total, module, rest, part, args, score, y, weight, reduce)
    return {n: t.div_(len(x)) for n, t in total.items()}


# The general path -------------------------------------------------------------------------------------------
def _add_general(
    total: dict[str, Tensor],
    module: nn.Module,
    chosen: dict[str, Tensor],
    x: Tensor,
    args: tuple[Any, ...],
    score: Score,
    y: Tensor,
    weight: Tensor | None,
    reduce: Reduce,
) -> None:
    """Add the reduced gradients of each sample with respect to ``chosen``, by ``vmap`` of ``grad``."""

    def of_one(values: dict[str, Tensor], one: Tensor, label: Tensor) -> Tensor:
        return score(functional_call(module, values, (one[None], *args)), label[None])[0]

    size = max(1, ENTRIES // max(1, sum(p.numel() for p in chosen.values())))
    per_sample = vmap(grad(of_one), in_dims=(None, 0, 0))
    for first in range(0, len(x), size):
        rows = slice(first, first + size)
        for name, g in per_sample(chosen, x[rows], y[rows]).items():
            total[name] += _weighted_sum(g.detach(), None if weight is None else weight[rows], reduce)


def _weighted_sum(g: Tensor, weight: Tensor | None, reduce: Reduce) -> Tensor:
    """sum_n w_n r(g_n) for per-sample gradients [B, *]."""
    r = g.square() if reduce == "square" else g.abs()
    return r.sum(0) if weight is None else torch.tensordot(weight, r, dims=1)


# The factorised path ----------------------------------------------------------------------------------------
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)


def _factorised(m: nn.Module) -> bool:
    # Exact types: a subclass may compute something else.
    if type(m) is nn.Conv2d:
        return m.groups == 1 and m.padding_mode == "zeros" and not isinstance(m.padding, str)
    if type(m) in (nn.BatchNorm1d, nn.BatchNorm2d):
        return m.running_mean is not None and m.weight is not None
    return type(m) is nn.Linear or (type(m) is nn.GroupNorm and m.affine)


def _owned(prefix: str, m: nn.Module) -> list[str]:
    return [f"{prefix}.{n}" if prefix else n for n, _ in m.named_parameters(recurse=False)]


@dataclass
class _Tape:
    """What each layer received and gave in the last recorded pass."""

    module: nn.Module
    layers: dict[str, nn.Module] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)

    def probe(self, parameters: Mapping[str, Tensor], x: Tensor, args: tuple[Any, ...]) -> set[str]:
        """Find the layers that one factorised pass covers, and the names that the logits depend on.

        A layer that runs more than once in a pass, or shares a parameter with another, is left to the general
        path.
        """
        owners: dict[int, int] = {}
        for m in self.module.modules():
            for p in m.parameters(recurse=False):
                owners[id(p)] = owners.get(id(p), 0) + 1
        self.layers = {
            name: m
            for name, m in self.module.named_modules()
            if _factorised(m) and all(owners[id(p)] == 1 for p in m.parameters(recurse=False))
        }
        with self.recording():
            logits = self.module(x, *args)
        own = dict(self.module.named_parameters())
        found = torch.autograd.grad(logits.sum(), [own[n] for n in parameters], allow_unused=True)
        reached = {n for n, g in zip(parameters, found, strict=True) if g is not None}
        self.layers = {
            name: m
            for name, m in self.layers.items()
            if self.calls.get(name) == 1 and all(n in reached for n in _owned(name, m))
        }
        return reached

    def recording(self) -> _Recording:
        """A context in which passes are recorded."""
        return _Recording(self)

    def add(self, total: dict[str, Tensor], score: Tensor, weight: Tensor | None, reduce: Reduce) -> None:
        """Add each sample's reduced gradients of the recorded pass, whose scores sum up to ``score`` []."""
        names = list(self.layers)
        if not names:
            return
        deltas = torch.autograd.grad(score, [self.outputs[n] for n in names], retain_graph=True)
        with torch.no_grad():
            for name, delta in zip(names, deltas, strict=True):
                m, x = self.layers[name], self.inputs[name]
                w, b = (f"{name}.weight", f"{name}.bias") if name else ("weight", "bias")
                if type(m) is nn.Linear:
                    _add_linear(total, w, b, x, delta, weight, reduce)
                elif isinstance(m, nn.Conv2d):
                    _add_conv(total, w, b, m, x, delta, weight, reduce)
                else:
                    _add_norm(total, w, b, m, x, delta, weight, reduce)


class _Recording:
    def __init__(self, tape: _Tape) -> None:
        self.tape = tape

    def __enter__(self) -> None:
        tape = self.tape
        tape.calls = {}

        def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
            def record(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
                tape.calls[name] = tape.calls.get(name, 0) + 1
                tape.inputs[name], tape.outputs[name] = given[0].detach(), output
                return output.clone()  # an activation in place must not touch what was recorded

            return record

        self.handles = [m.register_forward_hook(hook(name)) for name, m in tape.layers.items()]

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()


def _add_vectors(
    total: dict[str, Tensor], name: str, g: Tensor, weight: Tensor | None, reduce: Reduce
) -> None:
    if name in total:
        total[name] += _weighted_sum(g, weight, reduce)


def _add_linear(
    total: dict[str, Tensor], w: str, b: str, x: Tensor, delta: Tensor, weight: Tensor | None, reduce: Reduce
) -> None:
    """Inputs [B, I] and deltas [B, O]; or [B, P, I] and [B, P, O] for a layer applied at P places."""
    if x.dim() > 2:
        _add_summed(
            total, w, x.flatten(1, -2).transpose(1, 2), delta.flatten(1, -2).transpose(1, 2), weight, reduce
        )
        _add_vectors(total, b, delta.flatten(1, -2).sum(1), weight, reduce)
        return
    if w in total:
        # r(delta_o x_i) = r(delta_o) r(x_i) for both reductions, so the sum over samples is one matrix
        # product.
        d, z = (delta.square(), x.square()) if reduce == "square" else (delta.abs(), x.abs())
        d = d if weight is None else d * weight[:, None]
        total[w].addmm_(d.T, z)
    _add_vectors(total, b, delta, weight, reduce)


def _add_conv(
    total: dict[str, Tensor],
    w: str,
    b: str,
    m: nn.Conv2d,
    x: Tensor,
    delta: Tensor,
    weight: Tensor | None,
    reduce: Reduce,
) -> None:
    """Inputs [B, I, H, W] and deltas [B, O, h, w]: the sum over positions comes before the square."""
    if w in total:
        patches = F.unfold(x, m.kernel_size, m.dilation, m.padding, m.stride)  # type: ignore[arg-type]
        _add_summed(total, w, patches, delta.flatten(2), weight, reduce)
    _add_vectors(total, b, delta.flatten(2).sum(2), weight, reduce)


def _add_summed(
    total: dict[str, Tensor], w: str, z: Tensor, delta: Tensor, weight: Tensor | None, reduce: Reduce
) -> None:
    """Gradients sum_p delta_p z_p^T of inputs [B, I, P] and deltas [B, O, P], in chunks of samples."""
    if w not in total:
        return
    size = max(1, ENTRIES // (delta.shape[1] * z.shape[1]))
    for first in range(0, len(z), size):
        rows = slice(first, first + size)
        g = delta[rows] @ z[rows].transpose(1, 2)
        total[w] += _weighted_sum(g, None if weight is None else weight[rows], reduce).view_as(total[w])


def _add_norm(
    total: dict[str, Tensor],
    w: str,
    b: str,
    m: nn.Module,
    x: Tensor,
    delta: Tensor,
    weight: Tensor | None,
    reduce: Reduce,
) -> None:
    """Scale and offset [F] of a normalisation over inputs [B, F, ...]."""
    if isinstance(m, nn.GroupNorm):
        plain = F.group_norm(x, m.num_groups, None, None, m.eps)
    elif isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)):
        plain = F.batch_norm(x, m.running_mean, m.running_var, None, None, False, 0.0, m.eps)
    else:
        raise TypeError(f"no factorised gradient for {type(m).__name__}")
    _add_vectors(total, w, (delta * plain).view(*x.shape[:2], -1).sum(2), weight, reduce)
    _add_vectors(total, b, delta.reshape(*x.shape[:2], -1).sum(2), weight, reduce)
