"""FearNet: recent vectors are kept until sleep, when an autoencoder learns them beside what it imagines of older ones.

R. Kemker and C. Kanan: "FearNet: Brain-Inspired Model for Incremental Learning", ICLR 2018, arXiv 1711.10563
("FearNet"), on fixed features. Three networks:

    HC     recent vectors u_kj as they are:
           beta_k = 1 / (eps + min_j |x - u_kj|),   P_HC(k | x) = beta_k / sum beta                                 (1)
    mPFC   an autoencoder, and a classifier on its code:
           cross entropy + sum over layers j of lambda_j (encoder's j - decoder's j)^2                              (2)
    BLA    A(x), the probability that the class of x is in HC
    answer psi = A / (1 - A) max_k P_HC;  that of HC where psi > max_k P_mPFC, else that of mPFC                    (3)

Of each class that mPFC has learned the mean and the covariance of its codes are kept. In sleep codes are drawn from
these normal distributions and decoded; on them and all of HC mPFC goes on learning, means and covariances are taken
anew, and HC is emptied. The first task is learned by mPFC at once.

Strictness: until sleep HC holds real vectors. ``sleep_every=1``, the default, sleeps after every task, so that none
outlasts its task: neither HC nor BLA is then ever asked. The paper sleeps after every ten sessions of one class. Means
and covariances are statistics of real data.

No code of the authors was found; NAdam, its rates and the numbers of epochs are the paper's, and (3) is as others tell
it. Defaults of ours: ``hidden``, ``code``, ``input_weight``, ``layer_weight``, ``jitter``, ``pseudo_per_class``,
``batch_size``, ``bla_hidden``, ``eps``, and ELUs, but a linear code.
Departures: vectors are moved by the mean of the first task's, and divided by the root mean square of what is left, so
that neither offset nor scale of the features changes what the weights of (2) mean. Encoder and decoder step one after
the other.
Cost: mPFC, K c^2 numbers; while it sleeps, a copy of mPFC and K ``pseudo_per_class`` D numbers.

Shapes: B batch, D entries, K classes, c code.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engram import seeds
from engram.core.contract import (
    Batch,
    Context,
    Method,
    Optimiser,
    Phase,
    Player,
    Samples,
    Step,
    TaskInfo,
    Terms,
    Update,
    evaluating,
    n_bytes,
    named_parameters,
)
from engram.core.options import Count, NonNegative, Positive
from engram.core.values import Checked
from engram.methods.registry import Entry
from engram.networks.heads import Head
from engram.parts.class_statistics import factor
from engram.parts.classifier import spread
from engram.parts.memory import CHUNK, SampleMemory
from engram.parts.replay import joined
from engram.parts.teacher import FrozenCopy


@dataclass(frozen=True)
class FearnetConfig(Checked):
    """Options of FearNet. Defaults are ours where the paper's are not known.

    Args:
        sleep_every: tasks from sleep to sleep; 1 keeps no real vector, the paper's is 10.
        hidden: widths of the encoder between vector and code, at least one; the decoder mirrors them.
        code: entries of the code.
        input_weight: lambda_0, of the reconstruction of vectors.
        layer_weight: lambda_j, of that of the layers between.
        covariance: what is kept of each class's codes: full; or diagonal, which forgets how entries vary together.
        jitter: added to variances before codes are drawn.
        pseudo_per_class: vectors imagined of each old class in sleep; None for the mean number of a new class.
        batch_size: vectors a step.
        base_epochs, sleep_epochs: epochs of mPFC on the first task (base) and in every sleep (sleep).
        lr: learning rate of all but the decoder (NAdam).
        decoder_rate: the decoder's learning rate as a multiple of ``lr``.
        bla_hidden: width of BLA's hidden layer.
        bla_epochs: epochs of BLA, from the start in every task without sleep.
        eps: the small number in beta_k.
    """

    sleep_every: Count = 1
    hidden: tuple[Count, ...] = (512,)
    code: Count = 256
    input_weight: NonNegative = 1.0
    layer_weight: NonNegative = 0.1
    covariance: Literal["full", "diagonal"] = "full"
    jitter: Positive = 1e-3
    pseudo_per_class: Count | None = None
    batch_size: Count = 256
    base_epochs: Count = 1000
    sleep_epochs: Count = 60
    lr: Positive = 2e-3
    decoder_rate: Positive = 0.01
    bla_hidden: Count = 256
    bla_epochs: Count = 20
    eps: Positive = 1e-3


def layers(widths: Sequence[int]) -> nn.ModuleList:
    """Linear layers from width to width."""
    return nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))


def activations(x: Tensor, through: nn.ModuleList) -> list[Tensor]:
    """``x`` [B, n] and what each layer makes of it: ELUs, the last one linear."""
    found = [x]
    for i, layer in enumerate(through):
        x = layer(x) if i == len(through) - 1 else F.elu(layer(x))
        found.append(x)
    return found


class Mpfc(nn.Module):
    """The lasting memory: autoencoder, classifier on the code, and what is kept of each class's codes."""

    centre: Tensor
    scale: Tensor
    means: Tensor
    covariances: Tensor

    def __init__(self, config: FearnetConfig, context: Context) -> None:
        super().__init__()
        self.config, self.seed = config, context.seed
        widths = (math.prod(context.image_shape), *config.hidden, config.code)
        with seeds.seeded(context.seed, "mpfc"):
            self.encoder, self.decoder = layers(widths), layers(widths[::-1])
        self.head = Head(config.code, "single")
        self.register_buffer("centre", torch.zeros(widths[0]))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("means", torch.zeros(0, config.code))
        full = config.covariance == "full"
        self.register_buffer("covariances", torch.zeros(0, config.code, *[config.code] * full))

    def encode(self, x: Tensor) -> Tensor:
        """Codes [B, c] of vectors [B, D]."""
        return activations(x, self.encoder)[-1]

    def reconstruction(self, encoded: Sequence[Tensor]) -> Tensor:
        """Second sum of (2), a mean over batch and entries [], of the encoder's activations."""
        decoded, c = activations(encoded[-1], self.decoder), self.config
        weights = (c.input_weight, *[c.layer_weight] * len(c.hidden))
        pairs = zip(weights, encoded, reversed(decoded), strict=False)  # the code is in both
        return torch.stack([w * F.mse_loss(a, b) for w, a, b in pairs]).sum()

    @torch.no_grad()
    def recollect(self, data: Samples) -> None:
        """Take means and covariances of codes anew, of vectors [N, D] of all classes."""
        means, covariances = [], []
        for label in data.y.unique().tolist():
            codes = torch.cat([self.encode(x) for x in data.x[data.y == label].split(CHUNK)]).double()
            means.append(codes.mean(0))
            away = codes - means[-1]
            full = self.config.covariance == "full"
            covariances.append(away.T @ away / len(away) if full else away.square().mean(0))
        self.means = torch.stack(means).to(self.means.dtype)
        self.covariances = torch.stack(covariances).to(self.means.dtype)

    @torch.no_grad()
    def imagine(self, y: Tensor, generator: torch.Generator) -> Tensor:
        """Vectors [B, D] of labels ``y`` [B]: decoded codes of their class's normal distribution."""
        z = torch.randn((len(y), self.config.code), generator=generator, device=y.device)
        for label in y.unique().tolist():
            rows, spread_of = y == label, self.covariances[label].to(torch.float64, copy=True)
            if self.config.covariance == "full":
                spread_of.diagonal().add_(self.config.jitter)
                away = z[rows] @ factor(spread_of, "give a larger jitter").T.to(z.dtype)
            else:
                away = z[rows] * (spread_of + self.config.jitter).sqrt().to(z.dtype)
            z[rows] = self.means[label] + away
        return torch.cat([activations(part, self.decoder)[-1] for part in z.split(CHUNK)])

    def structure(self) -> dict[str, Any]:
        """Rows of the classifier, and number of classes learned."""
        return {"head": self.head.structure(), "classes": len(self.means)}

    def rebuild(self, structure: dict[str, Any]) -> None:
        """The shapes of ``structure``, for a state dict to fill."""
        self.head.rebuild(structure["head"])
        for name in ("means", "covariances"):
            old = self.get_buffer(name)
            setattr(self, name, old.new_zeros((structure["classes"], *old.shape[1:])))

    def storage_bytes(self) -> dict[str, int]:
        """Bytes of autoencoder, classifier, and statistics of real data."""
        return {
            "weights": n_bytes([*self.encoder.parameters(), *self.decoder.parameters()]),
            "norms_and_heads": n_bytes(self.head.parameters()),
            "statistics": n_bytes(self.buffers()),
        }


class Fearnet(Method):
    """An autoencoder that sleeps on recent vectors, and until then the nearest of them where BLA says so."""

    Config = FearnetConfig
    config: FearnetConfig
    scenarios: ClassVar = frozenset({"class", "task"})

    def __init__(self, config: FearnetConfig, context: Context) -> None:
        super().__init__(config, context)
        self.mpfc = Mpfc(config, context)
        self.old = FrozenCopy(lambda: Mpfc(config, context))
        self.hc = SampleMemory(context.image_shape)
        self.bla: Any = None
        if config.sleep_every > 1:
            self.reads = "memory"
            n = math.prod(context.image_shape)
            self.bla = nn.Sequential(
                nn.Linear(n, config.bla_hidden), nn.ELU(), nn.Linear(config.bla_hidden, 1)
            )

    def sleeps(self, task: TaskInfo) -> bool:
        """Whether mPFC learns at the end of this task; it learns the first at once."""
        return task.index % self.config.sleep_every == 0

    def vectors(self, x: Tensor) -> Tensor:
        """Vectors [B, D] of stored or normalised samples, away from the centre in units of the scale."""
        centre = self.mpfc.centre
        return (self.context.network.normalise(x).flatten(1).to(centre.dtype) - centre) / self.mpfc.scale

    # The course of a task --------------------------------------------------------------------------------------
    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        self.mpfc.head.grow(task.n_seen, self.context.seed, task.index)
        if self.sleeps(task):
            self.old.learn(self.mpfc)
        if task.index == 0:
            x = self.vectors(data.x)
            self.mpfc.centre = x.mean(0)
            self.mpfc.scale = (x - x.mean(0)).square().mean().sqrt().clamp(min=1e-6)
        self.to(data.x.device)

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        c = self.config
        if not self.sleeps(task):
            tell = Update("bla", "bla", self.bla_loss, ("recent or not",))
            return (Phase("bla", c.bla_epochs, (tell,), c.batch_size, primary="recent or not"),)
        encode = Update("encoder", "encoder", self.loss, ("all",))
        decode = Update("decoder", "decoder", self.decoder_loss, ("all",))
        epochs = c.sleep_epochs if task.index else c.base_epochs
        return (Phase("sleep", epochs, (encode, decode), c.batch_size, primary="all"),)

    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        if phase == "bla":
            return {"bla": Player(named_parameters(self, "bla."), Optimiser("nadam", self.config.lr))}
        encoder, decoder = (Optimiser("nadam", self.config.lr * f) for f in (1.0, self.config.decoder_rate))
        return {
            "encoder": Player(named_parameters(self, "mpfc.encoder.", "mpfc.head."), encoder),
            "decoder": Player(named_parameters(self, "mpfc.decoder."), decoder),
        }

    def begin_phase(self, task: TaskInfo, phase: str) -> None:
        if phase == "bla":
            with seeds.seeded(self.context.seed, "bla", task.index):
                for layer in (self.bla[0], self.bla[2]):
                    layer.reset_parameters()

    def pools(self, task: TaskInfo, phase: str, epoch: int, data: Samples) -> dict[str, Samples]:
        if phase == "sleep":
            return {"all": self.all_classes(task, data)}
        recent = self.recent(data)
        known = torch.arange(len(recent), device=data.y.device) % len(self.mpfc.means)
        imagined = self.imagined(self.mpfc, known, task)
        one, other = torch.ones_like(known), torch.zeros_like(known)
        return {"recent or not": joined([Samples(recent.x, one), Samples(imagined.x, other)])}

    def recent(self, data: Samples) -> Samples:
        """HC with the task in progress, as vectors."""
        return joined(
            [Samples(self.vectors(s.x), s.y) for s in (data, Samples(self.hc.images, self.hc.labels))]
        )

    def imagined(self, mpfc: Mpfc, y: Tensor, task: TaskInfo) -> Samples:
        """Vectors that ``mpfc`` makes for labels ``y``, the same ones whenever this task asks."""
        g = seeds.generator(self.context.seed, "imagined", task.index, device=y.device)
        return Samples(mpfc.imagine(y, g), y)

    def all_classes(self, task: TaskInfo, data: Samples) -> Samples:
        """What mPFC sleeps on: HC, and as many vectors of each older class as HC has of a class on average."""
        recent, n_old = self.recent(data), len(self.old.net.means)
        n = self.config.pseudo_per_class or round(len(recent) / (task.n_seen - n_old))
        y = torch.arange(n_old, device=data.y.device).repeat_interleave(n)
        return joined([recent, self.imagined(self.old.net, y, task)])

    def end_task(self, task: TaskInfo, data: Samples) -> None:
        if self.sleeps(task):
            self.mpfc.recollect(self.all_classes(task, data))
            self.old.forget()
            self.hc.rebuild(0)
        else:
            self.hc.images = torch.cat([self.hc.images, data.x])
            self.hc.labels = torch.cat([self.hc.labels, data.y])

    # Losses ----------------------------------------------------------------------------------------------------
    def loss(self, batch: Batch, step: Step) -> Terms:
        """(2)."""
        encoded = activations(batch.x, self.mpfc.encoder)
        ce = F.cross_entropy(self.mpfc.head(encoded[-1], (0, step.task.n_seen)), batch.y)
        return {"ce": ce, "reconstruction": self.mpfc.reconstruction(encoded)}

    def decoder_loss(self, batch: Batch, step: Step) -> Terms:
        """What of (2) depends on the decoder."""
        with torch.no_grad():
            encoded = activations(batch.x, self.mpfc.encoder)
        return {"reconstruction": self.mpfc.reconstruction(encoded)}

    def bla_loss(self, batch: Batch, step: Step) -> Terms:
        """Cross entropy of A(x): 1 for what HC holds, 0 for what mPFC imagines."""
        return {"ce": F.binary_cross_entropy_with_logits(self.log_odds(batch.x), batch.y.to(batch.x.dtype))}

    # What it answers -------------------------------------------------------------------------------------------
    def log_odds(self, x: Tensor) -> Tensor:
        """log A / (1 - A) [B] of vectors [B, D]."""
        odds: Tensor = self.bla(x)
        return odds.squeeze(1)

    def log_p_hc(self, x: Tensor) -> Tensor:
        """log P_HC [B, K] of (1), minus infinity for classes that it does not hold; it must hold some."""
        nearest = x.new_full((len(x), self.mpfc.head.n_outputs), torch.inf)
        for stored, labels in zip(self.hc.images.split(CHUNK), self.hc.labels.split(CHUNK), strict=True):
            distance = torch.cdist(x, self.vectors(stored))
            nearest.scatter_reduce_(1, labels.expand_as(distance), distance, "amin")
        return (nearest + self.config.eps).log().neg().log_softmax(1)

    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        """log of A P_HC + (1 - A) P_mPFC: as no class is in both, its largest entry is the answer of (3).

        With an empty HC the logits of mPFC. A class cannot be answered before the end of its task.
        """
        n, known = self.mpfc.head.n_outputs, len(self.mpfc.means)
        with evaluating(self):
            x = self.vectors(x)
            scores = self.mpfc.head(self.mpfc.encode(x), (0, n))
            scores[:, known:] = -torch.inf
            if len(self.hc):
                a, p_mpfc = self.log_odds(x)[:, None], scores.log_softmax(1)
                scores = torch.logaddexp(F.logsigmoid(a) + self.log_p_hc(x), F.logsigmoid(-a) + p_mpfc)
        active = (0, n) if task is None else task.active
        return spread(scores[:, active[0] : active[1]], active, n)

    def facts(self) -> dict[str, str]:
        n = self.config.sleep_every
        kept = "statistics of codes, no sample" if n == 1 else f"real vectors of at most {n - 1} tasks"
        return {"keeps": kept, "settings": "ours where the paper's are unknown"}


_SMALL = (
    "hidden=[9], code=5, input_weight=1, layer_weight=0.1, jitter=1e-3, batch_size=5, base_epochs=2, sleep_epochs=2, "
    "lr=2e-3, bla_hidden=6, bla_epochs=2, eps=1e-3"
)

ENTRIES = {
    "fearnet": Entry(
        Fearnet,
        FearnetConfig(),
        "a memory of recent vectors, and an autoencoder that sleeps on them (Kemker and Kanan, ICLR 2018)",
        small={
            "strict": f"{_SMALL}, sleep_every=1, covariance=full, pseudo_per_class=none, decoder_rate=1",
            "waking": f"{_SMALL}, sleep_every=2, covariance=diagonal, pseudo_per_class=6, decoder_rate=0.5",
        },
    )
}
