"""Deep generative dual memory: small generative memories of single tasks, and a large one that sleeps on their dreams.

N. Kamra, U. Gupta, Y. Liu: "Deep Generative Dual Memory Network for Continual Learning", 2017, arXiv 1710.10368
("DGDMN"). A unit is a variational autoencoder, a classifier, and the labels that it knows. A new task is learned by a
small unit of its own. When ``short_term`` of them are in use, the large unit sleeps: it learns, as in deep generative
replay (Shin et al., NIPS 2017), from images that the small ones make, labelled by their classifiers, and from images of
its own as it was before; then they are freed. Of N_max images a share

    eta = max(kappa, N_new / (N_new + N_old))                                                                       (1)

is of new tasks, where N_new are the samples that the small units have learned and N_old those the large one has.

Without a task label the unit that reconstructs the image best answers; with one the unit that holds the task.

No code of the authors was found; RMSProp, its rate, the numbers of epochs and the batch are the paper's as others tell
them, so is (1). Defaults of ours: ``kappa``, ``vae_hidden``, ``vae_z``, ``long_hidden``, ``long_z``, ``max_samples``
(the paper's N_max is the size of the whole data set, which is not known beforehand); the bound has weight 1, pixels are
Bernoulli; the large unit goes on from its weights; its own images are as they are drawn, not balanced.
Departures: classifiers are the run's network. A task comes once: what the paper does with one that the large unit knows
is not built. It sleeps when the last small unit is filled, not before the next task comes. Where no task label is given
the paper has a threshold of the reconstruction error. To show images of a class, see deep generative replay.
Cost: ``short_term`` small units and a large one; while it sleeps a copy of the large one, and N_max images.

Shapes: B batch, L labels of a unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engram import seeds
from engram.core.contract import (
    Batch,
    Context,
    Method,
    Noise,
    Optimiser,
    Phase,
    Player,
    Samples,
    Step,
    TaskInfo,
    Terms,
    Update,
    named_parameters,
)
from engram.core.options import Count, Positive, Share
from engram.core.values import Checked
from engram.errors import ConfigError
from engram.methods.registry import Entry
from engram.networks.vae import Vae
from engram.parts.classifier import Classifier, spread
from engram.parts.replay import by_answer, joined
from engram.parts.teacher import FrozenCopy

#: Images drawn for each that is asked for, of which a classifier chooses; images at a time.
DRAWS, BATCH = 4, 500


@dataclass(frozen=True)
class DgdmnConfig(Checked):
    """Options of deep generative dual memory. Defaults are ours where the paper's are not known.

    Args:
        short_term: small units; when all are in use the large one sleeps.
        kappa: least share of new tasks in what it sleeps on.
        max_samples: N_max, images that it sleeps on; None for as many as there have been samples.
        vae_hidden, vae_z: width of the hidden layers of a small autoencoder, entries of its code.
        long_hidden, long_z: width of the hidden layers of the large autoencoder, entries of its code.
        vae_epochs: passes of every autoencoder over its samples.
        epochs: passes of every classifier over its samples.
        batch_size: samples a step.
        lr: learning rate (RMSProp).
    """

    short_term: Count = 2
    kappa: Share = 0.05
    max_samples: Count | None = None
    vae_hidden: Count = 400
    vae_z: Count = 20
    long_hidden: Count = 500
    long_z: Count = 50
    vae_epochs: Count = 25
    epochs: Count = 6
    batch_size: Count = 128
    lr: Positive = 1e-3


def shares(n_new: int, n_old: int, most: int | None, kappa: float) -> tuple[int, int]:
    """How many images of new tasks, and of old ones, the large unit sleeps on, (1)."""
    both = n_new + n_old
    n = both if most is None else min(both, most)
    new = round(max(kappa, n_new / both) * n)
    return new, n - new


class Unit(nn.Module):
    """A generative memory of the labels from ``start`` on: autoencoder and classifier.

    Args:
        context: names network and images.
        hidden, z: of the autoencoder.
        name: of the generators that initial weights are drawn from.
        start: its first label.
    """

    count: Tensor

    def __init__(self, context: Context, hidden: int, z: int, name: str, start: int = 0) -> None:
        super().__init__()
        self.network, self.z, self.start = context.network, z, start
        self.vae = Vae(context.image_shape, hidden, z, seeds.derive(context.seed, name))
        self.net = Classifier(context, name=name, shared_head=True)
        self.register_buffer(
            "count", torch.zeros((), dtype=torch.int64)
        )  # samples learned, 0 before they are

    @property
    def stop(self) -> int:
        """The label behind its last one."""
        return self.start + self.net.head.n_outputs

    def pixels(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] of the network's range as the autoencoder reads them."""
        return (x * self.network.std + self.network.mean).clamp(0.0, 1.0)

    @torch.no_grad()
    def dream(self, n: int, generator: torch.Generator) -> Samples:
        """``n`` images in the network's range, with the labels that the classifier gives them."""
        z = torch.randn((n, self.z), generator=generator, device=self.count.device)
        x = torch.cat([(self.vae(part) - self.network.mean) / self.network.std for part in z.split(BATCH)])
        return Samples(x, self.probabilities(x).argmax(1) + self.start)

    def probabilities(self, x: Tensor) -> Tensor:
        """Of its labels [B, L], for images [B, C, H, W]."""
        return torch.cat([self.net.predict(part, None) for part in x.split(BATCH)]).softmax(1)

    def structure(self) -> dict[str, Any]:
        """Sizes of the classifier, and the first label."""
        return {"net": self.net.structure(), "start": self.start}

    def rebuild(self, structure: dict[str, Any]) -> None:
        """The shapes of ``structure``, for a state dict to fill."""
        self.net.rebuild(structure["net"])
        self.start = structure["start"]


class Dgdmn(Method):
    """Units for single tasks, and one for all before, which learns from what the former dream."""

    Config = DgdmnConfig
    config: DgdmnConfig
    scenarios: ClassVar = frozenset({"class", "task"})
    generative: ClassVar = True

    def __init__(self, config: DgdmnConfig, context: Context) -> None:
        super().__init__(config, context)
        if len(context.image_shape) != 3:
            raise ConfigError(
                "samples must be images [C, H, W] for dgdmn, whose autoencoders make pixels, got shape "
                f"{list(context.image_shape)}: use fearnet, a dual memory of vectors."
            )
        self.short = nn.ModuleList()
        self.long, self.old = self._long(), FrozenCopy(self._long)

    def _long(self) -> Unit:
        return Unit(self.context, self.config.long_hidden, self.config.long_z, "long")

    def _short(self, index: int, start: int) -> Unit:
        return Unit(self.context, self.config.vae_hidden, self.config.vae_z, f"short {index}", start)

    def sleeps(self, task: TaskInfo) -> bool:
        """Whether this task fills the last small unit."""
        return (task.index + 1) % self.config.short_term == 0

    def learning(self, phase: str) -> Unit:
        """The unit that a phase trains."""
        unit = self.long if phase.startswith("long") else self.short[-1]
        assert isinstance(unit, Unit)
        return unit

    @property
    def _all(self) -> list[Unit]:
        long = self.long if self.old.module is None else self.old.net
        return [u for u in (long, *self.short) if isinstance(u, Unit)]

    @property
    def units(self) -> list[Unit]:
        """Those that have learned, the large one first; while it sleeps, as it was before."""
        return [unit for unit in self._all if int(unit.count)]

    # The course of a task --------------------------------------------------------------------------------------
    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        unit = self._short(task.index, task.start)
        unit.net.grow(TaskInfo.of(task.index, 0, task.n_classes, "class"))
        self.short.append(unit.to(data.x.device))

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        c, found = self.config, []
        for unit, pool, z in (("short", "task", c.vae_z), ("long", "dreams", c.long_z))[
            : 1 + self.sleeps(task)
        ]:
            encode = Update("vae", "vae", self.vae_loss, (pool,), noise={"z": Noise((z,))})
            classify = Update("net", "net", self.loss, (pool,))
            found.append(Phase(f"{unit} vae", c.vae_epochs, (encode,), c.batch_size, primary=pool))
            found.append(Phase(f"{unit} net", c.epochs, (classify,), c.batch_size, primary=pool))
        return tuple(found)

    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        unit, player = phase.split()
        prefix = "long." if unit == "long" else f"short.{len(self.short) - 1}."
        rmsprop = Optimiser("rmsprop", self.config.lr, (0.0, 0.9))
        return {player: Player(named_parameters(self, f"{prefix}{player}."), rmsprop)}

    def begin_phase(self, task: TaskInfo, phase: str) -> None:
        if phase == "long vae":
            self.old.learn(self.long)
            self.long.net.grow(task)
            self.long.to(self.long.count.device)

    def pools(self, task: TaskInfo, phase: str, epoch: int, data: Samples) -> dict[str, Samples]:
        return {"dreams": self.dreams(task)} if phase.startswith("long") else {}

    def dreams(self, task: TaskInfo) -> Samples:
        """What the large unit sleeps on: images of the small ones by the samples of each, and its own as it was."""
        g = seeds.generator(self.context.seed, "dreams", task.index, device=self.long.count.device)
        counts = [int(unit.count) for unit in self.units if unit is not self.old.net]
        new, old = shares(sum(counts), int(self.old.net.count), self.config.max_samples, self.config.kappa)
        ends = [round(new * sum(counts[: i + 1]) / sum(counts)) for i in range(len(counts))]
        n = [b - a for a, b in zip([0, *ends], ends, strict=False)]
        if int(self.old.net.count):
            n = [old, *n]
        return joined([unit.dream(k, g) for unit, k in zip(self.units, n, strict=True) if k])

    def end_epoch(self, step: Step, data: Samples) -> None:
        if step.phase == "short net" and step.epoch == step.n_epochs - 1:
            self.learning(step.phase).count.fill_(len(data))

    def end_task(self, task: TaskInfo, data: Samples) -> None:
        if self.sleeps(task):
            self.long.count += sum(int(unit.count) for unit in self.units if unit is not self.old.net)
            self.old.forget()
            self.short = nn.ModuleList()

    # Losses ----------------------------------------------------------------------------------------------------
    def vae_loss(self, batch: Batch, step: Step) -> Terms:
        """Minus the evidence lower bound."""
        unit = self.learning(step.phase)
        return {"elbo": unit.vae.loss(unit.pixels(batch.x), batch.noise["z"])}

    def loss(self, batch: Batch, step: Step) -> Terms:
        """Cross entropy over the unit's labels."""
        unit = self.learning(step.phase)
        return {"ce": F.cross_entropy(unit.net(batch.x, (0, unit.stop - unit.start)), batch.y - unit.start)}

    # What it makes and answers -----------------------------------------------------------------------------------
    def generate(self, y: Tensor, *, generator: torch.Generator) -> Tensor:
        """Images of labels ``y`` [N] by the units that hold them, chosen by what their classifiers say."""
        known = max((unit.stop for unit in self.units), default=0)
        if len(y) and int(y.max()) >= known:
            raise ConfigError(
                f"labels must be of classes that a unit has learned, 0 to {known - 1}, got {int(y.max())}: learn their "
                "task first."
            )
        images = self.long.count.new_zeros((len(y), *self.context.image_shape), dtype=torch.float32)
        for unit in self.units:
            rows = ((y >= unit.start) & (y < unit.stop)).nonzero().flatten()
            if len(rows):
                drawn = unit.dream(DRAWS * len(rows), generator).x
                images[rows] = drawn[by_answer(y[rows] - unit.start, unit.probabilities(drawn))]
        return images

    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        """log p of the unit that holds the task; where it is not told, of that which reconstructs the image best.

        Labels of the other units come below all of these, by how much worse they reconstruct it. A class cannot be
        answered before its unit has learned it.
        """
        units, scores = self.units, x.new_full((len(x), max(u.stop for u in self._all)), -torch.inf)
        if task is not None:
            units = [unit for unit in units if unit.start <= task.start < unit.stop]
        if units:
            with torch.no_grad():
                errors = torch.stack([unit.vae.error(unit.pixels(x)) for unit in units], 1)
                own = [unit.net.predict(x, None).log_softmax(1) for unit in units]
                worse = errors - errors.amin(1, keepdim=True)
                least = torch.stack([p.amin(1) for p in own], 1).gather(1, errors.argmin(1, keepdim=True))
                below = torch.where(F.one_hot(errors.argmin(1), len(units)) == 1, 0.0, least - worse)
            for i, unit in enumerate(units):
                scores[:, unit.start : unit.stop] = own[i] + below[:, i, None]
        active = (0, scores.shape[1]) if task is None else task.active
        return spread(scores[:, active[0] : active[1]], active, scores.shape[1])

    def rebuild(self, structure: dict[str, Any]) -> None:
        names = [name for name in structure if name.startswith("short.")]
        self.short = nn.ModuleList(self._short(i, 0) for i in range(len(names)))
        super().rebuild(structure)

    def facts(self) -> dict[str, str]:
        return {"generator": "vae", "settings": "ours where the paper's are unknown"}


_SMALL = "vae_hidden=9, vae_z=4, long_hidden=10, long_z=5, vae_epochs=2, epochs=2, batch_size=5, lr=1e-3, kappa=0.05"

ENTRIES = {
    "dgdmn": Entry(
        Dgdmn,
        DgdmnConfig(),
        "small generative memories of tasks, and a large one that sleeps on their dreams (Kamra et al., 2017)",
        small={
            "two": f"{_SMALL}, short_term=2, max_samples=none",
            "one": f"{_SMALL}, short_term=1, max_samples=14",
        },
    )
}
