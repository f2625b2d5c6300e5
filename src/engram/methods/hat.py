"""Hard Attention to the Task: each task learns a mask over units; later tasks cannot change what it uses.

J. Serra, D. Suris, M. Miron, A. Karatzoglou: "Overcoming Catastrophic Forgetting with Hard Attention to the
Task", ICML 2018, arXiv 1801.01423 ("HAT"). Here: gates and their slope (Sec. 2.3, 2.4), protected gradients
(Eq. 2), compensation of the embedding gradient (Sec. 2.5), capacity regulariser (Sec. 2.6). Shared with DGM:
``networks/masks.py``.

Departures, each an option that can be set back:
- with ``masks=binary`` a task that has ended uses gates of exactly 0 and 1, and what it uses is put back bit
  for bit after every step, so that its logits never change, whatever the optimiser; ``masks=soft`` is the
  paper: gates of the steepest sigmoid, gradients scaled down but not cut off, so that old tasks drift a
  little;
- the slope reaches its largest value in the last step of an epoch, as printed; ``annealing=official`` follows
  the sample offset as the released code, and does not;
- the schedule is that of the shared options; the paper divides the rate by 3 on plateaus of a validation loss
  and keeps the best weights.
Not for trunks with normalisation: the network's is left out.
Cost: one embedding a unit while a task is learned, one bit a unit and task afterwards; a copy of the trunk.

Shapes: O_l units of layer l; B batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from engram import seeds
from engram.core.contract import (
    Batch,
    Context,
    Method,
    Phase,
    Player,
    Samples,
    Step,
    TaskInfo,
    Terms,
    evaluating,
    n_bytes,
    named_parameters,
)
from engram.core.options import NonNegative, Positive, Range
from engram.errors import ConfigError
from engram.methods.registry import Entry
from engram.networks import masks
from engram.parts import small
from engram.parts.classifier import Classifier
from engram.parts.fitting import FitOptions
from engram.parts.gated import GatedTrunk
from engram.parts.hold import Hold
from engram.parts.window import Window, cross_entropy


@dataclass(frozen=True)
class HatConfig(FitOptions):
    """Options of Hard Attention to the Task; plain sgd with 0.05, as the paper, where nothing else is chosen.

    Args:
        s_max: largest slope of the gates.
        c: strength of the capacity regulariser.
        masks: what masks of tasks that have ended are: binary (held exactly) or soft (as the paper; plain sgd only,
            since any other optimiser undoes the scaling of gradients).
        annealing: how the slope of the gates rises within an epoch: paper (reaches s_max in the last step) or
            official (does not).
        compensate: make the embedding gradient independent of the slope.
        emb_clamp: bound on the absolute value of embeddings; None for none.
        clip_norm: bound on the norm of all gradients together; None for none.
    """

    optimiser: Literal["adam", "sgd"] = "sgd"
    lr: Positive = 0.05
    s_max: Annotated[float, Range(1)] = 400.0
    c: NonNegative = 0.75
    masks: Literal["binary", "soft"] = "binary"
    annealing: Literal["paper", "official"] = "paper"
    compensate: bool = True
    emb_clamp: Positive | None = 6.0
    clip_norm: Positive | None = 1e4

    def __post_init__(self) -> None:
        super().__post_init__()
        plain = self.optimiser == "sgd" and not self.momentum and not self.weight_decay
        if self.masks == "soft" and not plain:
            raise ConfigError(
                f"masks=soft needs plain sgd without momentum and weight decay, got {self.optimiser}: use "
                "sgd, or masks=binary."
            )


class Hat(Method):
    """Cross entropy plus c times the capacity regulariser, under gates a = sigmoid(s e)."""

    Config = HatConfig
    config: HatConfig
    scenarios: ClassVar[frozenset[str]] = frozenset({"task"})

    def __init__(self, config: HatConfig, context: Context) -> None:
        super().__init__(config, context)
        self.net = Classifier(context, norm="none")
        self.trunk = GatedTrunk(self.net.trunk)
        self.embeddings = nn.ParameterList(nn.Parameter(torch.zeros(n)) for n in self.trunk.widths)
        self.n_learned = 0  # tasks whose masks are kept
        for i, n in enumerate(self.trunk.widths):
            self.register_buffer(f"reserved_{i}", torch.zeros(n, dtype=self._kind))
        self._forget()

    def _forget(self) -> None:
        """What follows from the cumulated masks is found anew when it is needed."""
        self._protected: dict[str, Tensor] | None = None
        self._hold: Hold | None = None

    @property
    def binary(self) -> bool:
        """Whether tasks that have ended use gates of exactly 0 and 1."""
        return self.config.masks == "binary"

    @property
    def _kind(self) -> torch.dtype:
        return torch.bool if self.binary else torch.float32

    def reserved(self, i: int) -> Tensor:
        """Cumulated mask a^{<=t} of layer ``i`` [O_i]: bool, or soft gates."""
        return self.get_buffer(f"reserved_{i}")

    @property
    def protected(self) -> dict[str, Tensor]:
        """How much of each weight is held for earlier tasks, by parameter name."""
        if self._protected is None:
            found = self.trunk.protection([self.reserved(i) for i in range(len(self.embeddings))])
            self._protected = {f"net.trunk.{name}": p.contiguous() for name, p in found.items()}
        return self._protected

    # Training -----------------------------------------------------------------------------------------------
    @torch.no_grad()
    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        self.net.grow(task)
        for i, e in enumerate(self.embeddings):
            g = seeds.generator(self.context.seed, "embedding", task.index, i)
            e.copy_(torch.randn(len(e), generator=g))  # N(0, 1), as the released code
        self._forget()

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        return (self.config.for_task(task).phase(self.loss),)

    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        net = self.config.for_task(task).player(named_parameters(self))
        return {"net": replace(net, clip_norm=self.config.clip_norm)}

    def slope(self, step: Step) -> float:
        """s = 1 / s_max + (s_max - 1 / s_max) (b - 1) / (B - 1) in step b = 1 .. B of an epoch (Sec. 2.4)."""
        return masks.slope_of_step(self.config.s_max, step.step, step.n_steps, self.config.annealing)

    def loss(self, batch: Batch, step: Step) -> Terms:
        c, s = self.config, self.slope(step)
        gates = [masks.gate(e, s) for e in self.embeddings]
        labels = Window(step.task.active)
        logits = self.net.head(self.trunk(batch.x, gates), labels.active)
        reserved = [self.reserved(i) for i in range(len(gates))]
        terms = {"ce": cross_entropy(logits, batch.y, labels)}
        if c.c:
            # R (Sec. 2.6): sum a (1 - a^{<t}) / sum (1 - a^{<t}), in [0, 1].
            terms["capacity"] = c.c * (masks.sparsity if self.binary else soft_sparsity)(gates, reserved)
        return terms

    def after_backward(self, player: str, grads: dict[str, Tensor], step: Step) -> None:
        # Eq. 2: g <- g (1 - min(a_out, a_in)).
        if self.n_learned and self.binary:
            if self._hold is None:
                self._hold = Hold(self.protected, dict(self.named_parameters()))
            self._hold.cut(grads)
        elif self.n_learned:
            for name, p in self.protected.items():
                grads[name].mul_(1.0 - p)
        for i, e in enumerate(self.embeddings if self.config.compensate else ()):
            masks.compensate(grads[f"embeddings.{i}"], e.detach(), self.slope(step), self.config.s_max)

    @torch.no_grad()
    def after_step(self, player: str, step: Step) -> None:
        if self._hold is not None:
            self._hold.put_back()
        if self.config.emb_clamp is not None:
            for e in self.embeddings:
                e.clamp_(-self.config.emb_clamp, self.config.emb_clamp)

    @torch.no_grad()
    def end_task(self, task: TaskInfo, data: Samples) -> None:
        for i, a in enumerate(self._gates_now()):
            # a^{<=t} = max(a^{<=t-1}, a^t(s_max)).
            self.register_buffer(f"reserved_{i}", torch.maximum(self.reserved(i), a))
            kept = masks.pack(a) if self.binary else a
            self.register_buffer(f"mask_{task.index}_{i}", kept)
        self.n_learned = task.index + 1
        self._forget()

    def _gates_now(self) -> list[Tensor]:
        """The current task's gates as it will keep them [O_l]: bool, or those at s_max."""
        if self.binary:
            return [e.detach() > 0 for e in self.embeddings]
        return [masks.gate(e.detach(), self.config.s_max) for e in self.embeddings]

    def gates(self, task: int) -> list[Tensor]:
        """The gates [O_l] that ``task`` is asked with, as numbers."""
        if task >= self.n_learned:
            found = self._gates_now()
        else:
            found = [self.get_buffer(f"mask_{task}_{i}") for i in range(len(self.embeddings))]
            if self.binary:
                found = [masks.unpack(m, e.shape) for m, e in zip(found, self.embeddings, strict=True)]
        return [a.to(self.embeddings[0].dtype) for a in found]

    # Answers and state --------------------------------------------------------------------------------------
    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        if task is None:
            raise ConfigError("hat predicts only with a task label, none was given: use scenario task.")
        with evaluating(self):
            return self.net.answer(self.trunk(x, self.gates(task.index)), task)

    def structure(self) -> dict[str, Any]:
        return {**super().structure(), "n_learned": self.n_learned}

    def rebuild(self, structure: dict[str, Any]) -> None:
        super().rebuild(structure)
        self.n_learned = int(structure["n_learned"])
        for task in range(self.n_learned):
            for i, n in enumerate(self.trunk.widths):
                empty = torch.zeros(n, dtype=self._kind)
                kept = masks.pack(empty) if self.binary else empty
                self.register_buffer(f"mask_{task}_{i}", kept)
        self._forget()

    def storage_bytes(self) -> dict[str, int]:
        # Embeddings are drawn anew in each task, and cumulated masks follow from the stored ones.
        kept = n_bytes(b for n, b in self.named_buffers() if n.startswith("mask_"))
        return {**super().storage_bytes(), **self.net.storage_bytes(), "masks": kept, "other": 0}

    def facts(self) -> dict[str, str]:
        return {"masks": self.config.masks}

    @torch.no_grad()
    def measures(self, step: Step) -> dict[str, Any]:
        on = [round(float((e > 0).float().mean()), 6) for e in self.embeddings]
        return {"slope": self.slope(step), "open": {f"layer{i}": share for i, share in enumerate(on)}}

    def report(self) -> dict[str, Any]:
        shares = [round(float(self.reserved(i).float().mean()), 6) for i in range(len(self.embeddings))]
        return {"reserved": {f"layer{i}": share for i, share in enumerate(shares)}}


def soft_sparsity(gates: list[Tensor], reserved: list[Tensor]) -> Tensor:
    """``masks.sparsity`` for cumulated masks that are numbers in [0, 1]."""
    free = [1.0 - r for r in reserved]
    total = torch.stack([(m * f).sum() for m, f in zip(gates, free, strict=True)]).sum()
    return total / torch.stack([f.sum() for f in free]).sum().clamp(min=1e-12)


_SMALL = (
    f"{small.FIT}, momentum=0, weight_decay=0, keep_optimiser=false, s_max=50, c=0.5, compensate=true, "
    "emb_clamp=6, clip_norm=1e4"
)

ENTRIES = {
    "hat": Entry(
        Hat,
        HatConfig(),
        "Hard Attention to the Task: masks per unit, needs task labels (Serra et al., ICML 2018)",
        small={
            "sgd": f"{_SMALL}, optimiser=sgd, lr=0.05, masks=binary, annealing=paper",
            "adam": f"{_SMALL}, weight_decay=0.01, keep_optimiser=true, masks=binary, annealing=official",
            "soft": f"{_SMALL}, optimiser=sgd, lr=0.05, masks=soft, annealing=paper",
        },
    )
}
