"""Importances from gradients of single samples: diagonal Fisher information (EWC), sensitivity (MAS).

Never the gradient of a batch: its square is about 1 / B of what is wanted near a minimum and depends on the
batch size. The result here does not depend on how samples are batched, but for rounding.

Three paths, in this order. :func:`prove` finds out which of them are right for a network, before it is trained.

1. *Factorised*: the gradient of sample n is written with what a linear, convolution or normalisation layer received
   (x_n) and the derivative of the score with respect to what it gave (delta_n). For a linear layer it is the outer
   product, so that the sum of squares is (delta^2)^T (x^2), one product of matrices for a whole batch; for a
   convolution the outer products are summed over positions before squaring.
2. *Vectorised*: ``torch.func``'s ``vmap`` of ``grad``.
3. *One by one*: a backward pass for each sample. This is the definition, which the proof compares the others with.

Evaluation mode throughout: no dropout, running statistics as they are and left alone. Scale and offset of
normalisation are parameters like others; running statistics are not.

Shapes: N samples, B of them in a chunk, C labels, * a parameter's shape.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch._dynamo  # a gradient under vmap loads it: here once, for all workers that are forked afterwards
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from engram import seeds
from engram.errors import ConfigError
from engram.parts.measuring import measuring
from engram.parts.statistics import norms_of

Labels = Literal["sampled", "exact", "empirical", "predicted"]
Reduce = Literal["square", "abs"]
#: (logits [B, C], labels [B]) to one number a sample [B].
Score = Callable[[Tensor, Tensor], Tensor]
#: (logits [B, C], first row, number of rows) to pairs of labels [B] and weights [B] (None: 1), summed over.
Choose = Callable[[Tensor, slice], list[tuple[Tensor, Tensor | None]]]
#: Rows of samples, and by name their gradients [b, *].
Gradients = Iterator[tuple[slice, dict[str, Tensor]]]

CHUNK = 500
#: Largest number of entries of per-sample gradients held at once.
ENTRIES = 1 << 24
#: Samples that the proof looks at.
N_PROOF = 3
LARGE = 16  # times as many samples in a large batch


@dataclass(frozen=True)
class Paths:
    """The parameters of ``layers`` are factorised; others are ``vectorised``, or else go one by one."""

    layers: tuple[str, ...] = ()
    vectorised: bool = False


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
    paths: Paths | None = None,
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
        paths: those to take, for tests; None for the ones that are proved.
    Returns:
        By name, each [*], in nats^2 per squared unit of the parameter; 0 where the logits do not depend on
        it.
    Raises:
        ConfigError: no samples, an unknown rule, no labels for ``empirical``, or a network that :func:`prove` refuses.
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

    return importances(module, parameters, x, args, score, choose, "square", transform, chunk, paths)


def output_sensitivity(
    module: nn.Module,
    parameters: Mapping[str, Tensor],
    x: Tensor,
    *args: Any,
    transform: Callable[[Tensor], Tensor] | None = None,
    chunk: int = CHUNK,
    paths: Paths | None = None,
) -> dict[str, Tensor]:
    """Omega of MAS (Aljundi et al., ECCV 2018, Sec. 4.1): 1/N sum_n | d ||f(x_n)||_2^2 / d theta_k |.

    Arguments as of :func:`diagonal_fisher`; f are the logits, no labels are needed.
    """

    def choose(logits: Tensor, rows: slice) -> list[tuple[Tensor, Tensor | None]]:
        return [(torch.zeros(len(logits), dtype=torch.int64, device=logits.device), None)]

    def score(logits: Tensor, y: Tensor) -> Tensor:
        return logits.square().sum(1)

    return importances(module, parameters, x, args, score, choose, "abs", transform, chunk, paths)


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
    paths: Paths | None,
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
        paths = paths or prove(module, inputs(x[:1]), args, parameters)
        for first in range(0, len(x), chunk):
            rows = slice(first, first + chunk)
            part = inputs(x[rows])
            with _recorded(module, paths.layers) as calls:
                logits = module(part, *args)
            for y, weight in choose(logits.detach(), rows):
                done = _add_factorised(total, calls, score(logits, y), weight, reduce)
                if rest := [n for n in parameters if n not in done]:
                    single = _vectorised if paths.vectorised else _one_by_one
                    _add(total, single(module, rest, part, args, score, y), weight, reduce)
    return {n: t.div_(len(x)) for n, t in total.items()}


# The proof --------------------------------------------------------------------------------------------------
def prove(
    module: nn.Module, x: Tensor, args: tuple[Any, ...] = (), names: Collection[str] | None = None
) -> Paths:
    """The paths whose gradients of single samples are those of autograd, sample by sample.

    They are compared on a copy with random weights and inputs, since a head that starts at zero, or units that are
    dead, would agree with anything. ``module`` and the generators stay as they are.

    Args:
        module: maps (x, *args) to outputs [B, ...].
        x: at least one input [B, ...]; of floats only shape and type matter.
        names: the parameters wanted, by their names in ``module``; None for all.
    Raises:
        ConfigError: the output for a sample depends on the rest of its batch, so that it has no gradient of its own.
    """
    with measuring(module), seeds.seeded(0, "proof"):
        # Layers are compared in float64, where no error is small enough to pass for rounding.
        wide = _trial(module, x, args, names, torch.float64)
        layers = wide.agreeing_layers() if wide else ()
        if wide and not wide.rest(layers):
            return Paths(layers)
        # What vmap can do depends on the type.
        own = _trial(module, x, args, names, None)
        return Paths(layers, own is not None and own.vectorises(own.rest(layers)))


def _trial(module: nn.Module, *given: Any) -> _Trial | None:
    try:
        return _Trial(module, *given)
    except ConfigError:
        raise
    except Exception:  # no copy can be made, or it insists on another type: nothing is proved, so one by one
        return None


class _Trial:
    """A random copy of a network, some samples, and autograd's squared gradients of them one by one."""

    def __init__(
        self,
        module: nn.Module,
        x: Tensor,
        args: tuple[Any, ...],
        names: Collection[str] | None,
        dtype: torch.dtype | None,
    ) -> None:
        self.module, self.args = _random_copy(module).to(dtype), args
        if x.is_floating_point():
            self.x = torch.randn(N_PROOF, *x.shape[1:], dtype=dtype or x.dtype, device=x.device)
        else:
            self.x = x[torch.arange(N_PROOF, device=x.device) % len(x)]
        self.y = torch.arange(N_PROOF, device=x.device)
        self.tolerance = torch.finfo(dtype or torch.float32).eps ** 0.5
        self.probe = torch.randn_like(self._check_samples_apart())
        own = dict(self.module.named_parameters())
        self.truth = {n: torch.zeros_like(own[n], requires_grad=False) for n in names or own}
        _add(self.truth, self._gradients(_one_by_one, list(self.truth)), None, "square")
        self.floor = self.tolerance**3 * max(float(t.max()) for t in self.truth.values())

    def _check_samples_apart(self) -> Tensor:
        """Outputs [B, ...]; ``ConfigError`` unless each is the same alone and in a large batch."""
        with torch.no_grad():
            outputs = self.module(self.x, *self.args)
            try:
                alone = torch.cat([self.module(one[None], *self.args) for one in self.x])
                among = self.module(torch.cat([self.x] * LARGE), *self.args)
                near = {
                    "rtol": self.tolerance,
                    "atol": self.tolerance * float(outputs.nan_to_num(0.0, 0.0, 0.0).abs().max()),
                    "equal_nan": True,
                }
                apart = torch.allclose(outputs, alone, **near)
                apart = apart and torch.allclose(torch.cat([outputs] * LARGE), among, **near)
            except (RuntimeError, ValueError, IndexError):
                # As batch norm raises in training mode where there is but one value.
                apart = False
        if not apart:
            norms = [m for m in norms_of(self.module) if m.training or m.running_mean is None]
            names = [f"{n} ({type(m).__name__})" for n, m in self.module.named_modules() if m in norms]
            raise ConfigError(
                "importances need outputs that depend neither on the rest of the batch nor on chance in evaluation "
                f"mode, those of {', '.join(names) or type(self.module).__name__} do: use batch norm with running "
                "statistics (track_running_stats=True), or a method without importances, such as si."
            )
        return outputs

    def _score(self, outputs: Tensor, y: Tensor) -> Tensor:
        return (outputs * self.probe[y]).flatten(1).sum(1)

    def _gradients(self, path: Callable[..., Gradients], names: list[str]) -> Gradients:
        return path(self.module, names, self.x, self.args, self._score, self.y)

    def _agree(self, found: dict[str, Tensor], names: Collection[str]) -> bool:
        """Equal but for rounding; never where anything is not finite."""
        bounds = {n: self.tolerance * float(self.truth[n].max()) + self.floor for n in names}
        return all(float((found[n] - self.truth[n]).abs().max()) <= bounds[n] for n in names)

    def rest(self, layers: Collection[str]) -> list[str]:
        """The parameters wanted that no layer of ``layers`` has."""
        owned = {n for name in layers for n in _owned(name, self.module.get_submodule(name))}
        return [n for n in self.truth if n not in owned]

    def agreeing_layers(self) -> tuple[str, ...]:
        """Names of the layers whose factorised gradients are those of autograd."""
        found = {n: torch.zeros_like(t) for n, t in self.truth.items()}
        candidates = [n for n, m in self.module.named_modules() if _factorises(m)]
        with _recorded(self.module, candidates) as calls:
            outputs = self.module(self.x, *self.args)
        # Where rows are not samples there is nothing to compare.
        calls = {n: c for n, c in calls.items() if len(c) == 1 and len(c[0].x) == len(c[0].output) == N_PROOF}
        _add_factorised(found, calls, self._score(outputs, self.y), None, "square")
        owned = {n: self.truth.keys() & _owned(n, c[0].layer) for n, c in calls.items()}
        alive = {n for n, t in self.truth.items() if float(t.max()) > self.floor}
        return tuple(layer for layer, names in owned.items() if names & alive and self._agree(found, names))

    def vectorises(self, names: list[str]) -> bool:
        """Whether ``vmap`` gives autograd's gradients of ``names``."""
        found = {n: torch.zeros_like(t) for n, t in self.truth.items()}
        try:
            _add(found, self._gradients(_vectorised, names), None, "square")
        except Exception:  # whatever a network does that vmap cannot
            return False
        return self._agree(found, names)


def _random_copy(module: nn.Module) -> nn.Module:
    """A copy with random weights and running statistics, no weight 0 and outputs about as large as inputs."""
    # The old weight_norm keeps a computed weight as an attribute, which deepcopy refuses.
    computed = [
        t for m in module.modules() for t in vars(m).values() if isinstance(t, Tensor) and not t.is_leaf
    ]
    new = copy.deepcopy(module, {id(t): t.detach().clone() for t in computed})
    with torch.no_grad():
        for p in new.parameters():
            p.normal_(std=(2.0 / p[0].numel()) ** 0.5 if p.dim() > 1 else 1.0)
        for norm in norms_of(new):
            if norm.running_mean is not None and norm.running_var is not None:
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2.0)
    return new


# Vectorised, and one by one ---------------------------------------------------------------------------------
def _vectorised(
    module: nn.Module, names: list[str], x: Tensor, args: tuple[Any, ...], score: Score, y: Tensor
) -> Gradients:
    """Gradients [b, *] of ``names`` for some rows after others, by ``vmap`` of ``grad``."""
    own = dict(module.named_parameters())
    chosen = {n: own[n].detach() for n in names}

    def of_one(values: dict[str, Tensor], one: Tensor, label: Tensor) -> Tensor:
        return score(functional_call(module, values, (one[None], *args)), label[None])[0]

    size = max(1, ENTRIES // max(1, sum(p.numel() for p in chosen.values())))
    per_sample = vmap(grad(of_one), in_dims=(None, 0, 0))
    for first in range(0, len(x), size):
        rows = slice(first, first + size)
        with warnings.catch_warnings():
            # Where an operation has no rule vmap loops over the samples: right, and no slower than one by one.
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            found = per_sample(chosen, x[rows], y[rows])
        yield rows, {name: g.detach() for name, g in found.items()}


def _one_by_one(
    module: nn.Module, names: list[str], x: Tensor, args: tuple[Any, ...], score: Score, y: Tensor
) -> Gradients:
    """The same, by a backward pass for each sample."""
    own = dict(module.named_parameters())
    for n in range(len(x)):
        row = slice(n, n + 1)
        one = score(module(x[row], *args), y[row]).sum()
        found = torch.autograd.grad(one, [own[k] for k in names], allow_unused=True)
        yield row, {k: g[None] for k, g in zip(names, found, strict=True) if g is not None}


def _add(total: dict[str, Tensor], gradients: Gradients, weight: Tensor | None, reduce: Reduce) -> None:
    for rows, found in gradients:
        for name, g in found.items():
            total[name] += _weighted_sum(g, None if weight is None else weight[rows], reduce)


def _weighted_sum(g: Tensor, weight: Tensor | None, reduce: Reduce) -> Tensor:
    """sum_n w_n r(g_n) for per-sample gradients [B, *]."""
    r = g.square() if reduce == "square" else g.abs()
    return r.sum(0) if weight is None else torch.tensordot(weight, r, dims=1)


# Factorised -------------------------------------------------------------------------------------------------
def _factorises(m: nn.Module) -> bool:
    # Exact types: a subclass may compute something else.
    if type(m) is nn.Conv2d:
        return m.groups == 1 and m.padding_mode == "zeros" and not isinstance(m.padding, str)
    return type(m) in (nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm) and m.weight is not None


@dataclass(frozen=True)
class _Call:
    """What a layer received, and what it gave."""

    layer: nn.Module
    x: Tensor
    output: Tensor


def _owned(prefix: str, m: nn.Module) -> list[str]:
    return [f"{prefix}.{n}" if prefix else n for n, _ in m.named_parameters(recurse=False)]


@contextmanager
def _recorded(module: nn.Module, names: Collection[str]) -> Iterator[dict[str, list[_Call]]]:
    """Calls of the layers ``names`` in the passes inside."""
    calls: dict[str, list[_Call]] = {name: [] for name in names}

    def hook(name: str) -> Callable[..., Tensor]:
        def record(
            m: nn.Module, given: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor
        ) -> Tensor:
            x = given[0] if given else named["input"]
            calls[name].append(_Call(m, x.detach(), output))
            return output.clone()  # an activation in place must not touch what was recorded

        return record

    handles = [module.get_submodule(n).register_forward_hook(hook(n), with_kwargs=True) for n in names]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _add_factorised(
    total: dict[str, Tensor],
    calls: Mapping[str, list[_Call]],
    scores: Tensor,
    weight: Tensor | None,
    reduce: Reduce,
) -> set[str]:
    """Add each sample's reduced gradients of ``scores`` [B] for layers called once; the names of their parameters."""
    once = {name: c[0] for name, c in calls.items() if len(c) == 1 and c[0].output.requires_grad}
    if not once:
        return set()
    outputs = [c.output for c in once.values()]
    deltas = torch.autograd.grad(scores.sum(), outputs, retain_graph=True, allow_unused=True)
    with torch.no_grad():
        for (name, call), delta in zip(once.items(), deltas, strict=True):
            m, x = call.layer, call.x
            w, b = (f"{name}.weight", f"{name}.bias") if name else ("weight", "bias")
            if delta is None:
                continue
            if isinstance(m, nn.Linear):
                _add_linear(total, w, b, x, delta, weight, reduce)
            elif isinstance(m, nn.Conv2d):
                _add_conv(total, w, b, m, x, delta, weight, reduce)
            else:
                _add_norm(total, w, b, m, x, delta, weight, reduce)
    return {n for name, call in once.items() for n in _owned(name, call.layer)}


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
