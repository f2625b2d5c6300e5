"""Optimisers of the loop: the state of a player by parameter name, moved by PyTorch's fused kernels.

The mathematics and the bits are those of ``torch.optim.Adam`` and ``torch.optim.SGD`` with ``fused=True``. NAdam and
RMSProp, for which there are no such kernels, are PyTorch's but for rounding. Their classes are not used because the
first one made loads PyTorch's compiler, which takes longer than a short run learns.
Nothing is read from the device: steps are counted in tensors.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from engram.core.contract import Optimiser, Player
from engram.errors import CheckpointError
from engram.learning.state import OptimiserState

STATES = {
    "adam": {"step", "exp_avg", "exp_avg_sq"},
    "nadam": {"step", "exp_avg", "exp_avg_sq", "mu_product"},
    "rmsprop": {"exp_avg_sq"},
    "sgd": {"momentum_buffer"},
}
EPSILON = 1e-8  # of all but SGD, as in torch.optim
FADING = 0.96**4e-3  # a step, of half of NAdam's first moment, as in torch.optim


class Stepper:
    """One optimiser and its state.

    Args:
        parameters: that it moves, by name; all of one type and on one device.
        spec: its kind and settings.

    Attributes:
        state: tensors by parameter name, for parameters that have had a gradient.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], spec: Optimiser) -> None:
        self.parameters, self.spec = parameters, spec
        # A tensor beside the number: a graph that was compiled reads it anew in every step.
        self.rate = torch.zeros((), device=next(iter(parameters.values())).device)
        # Of compiled steps of Adam, see lay_out.
        device, wide = self.rate.device, torch.float64
        self.betas = torch.tensor(spec.betas, dtype=wide, device=device)[:, None]
        self.roots = torch.tensor((-1.0, -0.5), dtype=wide, device=device)[:, None]
        self.scales, self.laid_out = torch.ones(2, len(parameters), device=device), False
        self.lr = spec.lr
        self.state: OptimiserState = {}
        if spec.kind == "sgd" and spec.momentum:
            # A parameter may get its first gradient late: its momentum is zero until then.
            for name in parameters:
                self.begin(name)

    @property
    def lr(self) -> float:
        """Learning rate of the next steps."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = value
        self.rate.fill_(value)

    @classmethod
    def of(cls, player: Player) -> Stepper:
        """The optimiser that a player declares."""
        return cls(player.parameters, player.optimiser)

    def begin(self, name: str) -> None:
        """Zero state of a parameter, unless it has some."""
        if name in self.state or (self.spec.kind == "sgd" and not self.spec.momentum):
            return
        p = self.parameters[name]
        self.state[name] = {
            key: torch.full((), float(key == "mu_product"), device=p.device)
            if key in ("step", "mu_product")
            else torch.zeros_like(p, requires_grad=False)
            for key in sorted(STATES[self.spec.kind], reverse=True)
        }

    @torch.no_grad()
    def lay_out(self) -> None:
        """What Adam multiplies its mean and the root of its squares by in the next step, for one that is compiled.

        Within its kernels the compiler would take these powers anew for every eight weights. So a compiled step finds
        them, and leaves those of the step that follows; ``laid_out`` says whether they are there.
        """
        counts = [
            self.state[name]["step"] if name in self.state else torch.zeros_like(self.rate)
            for name in self.parameters
        ]
        torch.pow(1 - self.betas ** (torch.stack(counts) + 1), self.roots, out=self.scales)

    @torch.no_grad()
    def step(self, grads: Mapping[str, Tensor]) -> None:
        """Move the parameters that have a gradient, which has the strides of its parameter."""
        names = [name for name in self.parameters if name in grads]
        if not names:
            return
        for name in names:
            self.begin(name)
        moved: list[Tensor] = [self.parameters[name] for name in names]
        along, spec = [grads[name] for name in names], self.spec
        # A graph of an accelerator's kernels holds numbers, and reads tensors anew; a processor would wait for one.
        lr = self.rate if self.rate.is_cuda else self.lr
        if torch.compiler.is_compiling() or spec.kind in ("nadam", "rmsprop"):
            self._written_out(names, along)
        elif spec.kind == "sgd":
            torch._fused_sgd_(
                moved,
                along,
                [self.state[name]["momentum_buffer"] for name in names] if spec.momentum else [],
                weight_decay=spec.weight_decay,
                momentum=spec.momentum,
                lr=lr,
                dampening=0.0,
                nesterov=False,
                maximize=False,
                is_first_step=False,
            )
        else:
            count, mean, square = (
                [self.state[name][key] for name in names] for key in ("step", "exp_avg", "exp_avg_sq")
            )
            torch._foreach_add_(count, 1)
            self.laid_out = False
            torch._fused_adam_(
                moved,
                along,
                mean,
                square,
                [],
                count,
                lr=lr,
                beta1=spec.betas[0],
                beta2=spec.betas[1],
                weight_decay=spec.weight_decay,
                eps=EPSILON,
                amsgrad=False,
                maximize=False,
            )

    def _written_out(self, names: list[str], along: list[Tensor]) -> None:
        """The step as sums and products: for a compiler, which makes one kernel of all that happens in a step; and for
        NAdam (Dozat, ICLR-W 2016) and RMSProp (Tieleman and Hinton, lecture 6.5, 2012).
        """
        spec, rate = self.spec, self.rate
        scales = dict(zip(self.parameters, self.scales.unbind(1), strict=True))
        for name, g in zip(names, along, strict=True):
            p, held = self.parameters[name], self.state.get(name, {})
            if spec.weight_decay:
                g = g + spec.weight_decay * p
            if spec.kind == "sgd":
                if spec.momentum:
                    g = held["momentum_buffer"].mul_(spec.momentum).add_(g)
                p.sub_(rate * g)
                continue
            one, two = spec.betas
            square = held["exp_avg_sq"].mul_(two).addcmul_(g, g, value=1 - two)
            if spec.kind == "rmsprop":
                p.sub_(rate * g / (square.sqrt() + EPSILON))
                continue
            count, mean = held["step"].add_(1), held["exp_avg"].lerp_(g, 1 - one)
            if spec.kind == "nadam":
                root = (square / (1 - two**count)).sqrt()
                now, then = (one * (1 - 0.5 * FADING**k) for k in (count, count + 1))
                product = held["mu_product"].mul_(now)
                ahead = (1 - now) / (1 - product) * g + then / (1 - product * then) * mean
                p.sub_(rate * ahead / (root + EPSILON))
                continue
            first, second = scales[name]
            p.sub_(rate * first * mean / (square.sqrt() * second + EPSILON))
        if spec.kind == "adam":
            self.lay_out()

    def load(self, state: OptimiserState) -> None:
        """Take tensors by name. Where a parameter has grown since, its new entries start at zero.

        Raises:
            CheckpointError: the tensors are not those of such an optimiser.
        """
        kind = self.spec.kind
        for name, p in self.parameters.items():
            entries = {}
            stored = state.get(name, {})
            if stored and (set(stored) != STATES[kind] or not all(_fits(v, p) for v in stored.values())):
                raise CheckpointError(
                    f"a checkpoint must hold the state of {kind} for {name}, it holds "
                    f"{', '.join(f'{k} {list(v.shape)}' for k, v in stored.items())}: use the engram version that "
                    "wrote it."
                )
            for key, value in stored.items():
                if value.dim() == 0 or value.shape == p.shape:
                    entries[key] = value.to(p.device, copy=True)
                else:
                    grown = torch.zeros_like(p, requires_grad=False)
                    grown[tuple(slice(0, n) for n in value.shape)] = value.to(p.device)
                    entries[key] = grown
            if entries:
                self.state[name] = entries


def _fits(value: Tensor, p: Tensor) -> bool:
    """Whether a tensor may be part of an optimiser's state of a parameter, or of what that was before it grew."""
    if value.dim() == 0:
        return value.dtype == torch.float32
    smaller = value.dim() == p.dim() and all(n <= m for n, m in zip(value.shape, p.shape, strict=True))
    return smaller and value.dtype == p.dtype
