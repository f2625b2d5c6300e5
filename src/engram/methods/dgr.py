"""Deep generative replay: a scholar, generator and solver, teaches the next one what it knows.

H. Shin, J. K. Lee, J. Kim, J. Kim: "Continual Learning with Deep Generative Replay", NIPS 2017, arXiv 1705.08690
("DGR"). Generator: a Wasserstein GAN with gradient penalty (Gulrajani et al., NIPS 2017), as in the paper, or a
variational autoencoder (Kingma and Welling, ICLR 2014), as in van de Ven and Tolias (2019, arXiv 1904.07734). It has no
labels: those of replayed images are what the old solver says.

Generator and solver of task t learn from real samples with weight r and from images of scholar t - 1, frozen as it was
before the task, with weight 1 - r.

Departures: r weighs the two losses of every batch, half real and half replayed, where the paper mixes samples; the
expectation is the same. It is 1 / t unless ``ratio`` is given, so that all tasks count the same. With ``generator=vae``
its loss is weighted likewise. To show images of a class, four are drawn for each that is asked for, and those taken
that the solver puts into the class; where these are too few, the likeliest of the class.
Cost: generator, critic and solver of one size; while a task is learned a frozen copy of generator and solver.

Shapes: B batch, L labels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

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
from engram.errors import ConfigError
from engram.methods.registry import Entry
from engram.networks.vae import Vae
from engram.parts import small
from engram.parts.classifier import Classifier
from engram.parts.fitting import FitOptions
from engram.parts.gan import BATCH, Gan, GanOptions, wasserstein
from engram.parts.replay import by_answer
from engram.parts.teacher import FrozenCopy, Teacher

#: Images drawn for each that is asked for, of which the solver chooses.
DRAWS = 4


@dataclass(frozen=True)
class DgrConfig(GanOptions, FitOptions):
    """Options of deep generative replay. Those of plain training are the solver's.

    Args:
        generator: what generates: a GAN (gan), or a variational autoencoder (vae), which learns for ``gan_epochs``
            times ``gan_steps`` steps of ``gan_batch`` samples too.
        ratio: weight r of the new task; None is 1 / t at task t. 1 is fine-tuning.
        labels: what replayed images are labelled with: hard, the old solver's answer; or soft, its probabilities at
            ``temperature``.
        temperature: temperature of soft labels, in both softmaxes; the loss is multiplied by its square.
        vae_lr: learning rate of the autoencoder (Adam).
        vae_hidden: width of the autoencoder's hidden layers.
        vae_z: entries of the autoencoder's code.
    """

    generator: Literal["gan", "vae"] = "gan"
    ratio: Share | None = None
    labels: Literal["hard", "soft"] = "hard"
    temperature: Positive = 2.0
    vae_lr: Positive = 1e-3
    vae_hidden: Count = 400
    vae_z: Count = 100


class Dgr(Method):
    """r times the loss on the task plus (1 - r) times that on what the old scholar makes and says (Sec. 3)."""

    Config = DgrConfig
    config: DgrConfig
    scenarios: ClassVar = frozenset({"class", "domain"})
    generative: ClassVar = True

    def __init__(self, config: DgrConfig, context: Context) -> None:
        super().__init__(config, context)
        self.net = Classifier(context)
        self.teacher = Teacher(lambda: Classifier(context))
        if config.generator == "gan":
            self.gan = Gan(config, context)
            self.gan.generator.grow(1)  # one row for all: it knows no labels
            self.old = FrozenCopy(self.gan.make)
        else:
            if len(context.image_shape) != 3:
                raise ConfigError(
                    "samples must be images [C, H, W] for dgr, whose autoencoder makes pixels, got shape "
                    f"{list(context.image_shape)}: use a method that makes no images, such as er."
                )
            self.vae = self._make_vae()
            self.old = FrozenCopy(self._make_vae)

    def _make_vae(self) -> Vae:
        c = self.config
        return Vae(self.context.image_shape, c.vae_hidden, c.vae_z, self.context.seed)

    @property
    def noise(self) -> Noise:
        """What the generator makes one image of."""
        return self.gan.noise if self.config.generator == "gan" else Noise((self.config.vae_z,))

    def ratio(self, task: TaskInfo) -> float:
        """r; 1 in the first task."""
        share = self.config.ratio
        return 1.0 if task.index == 0 else 1.0 / (task.index + 1) if share is None else share

    # The course of a task --------------------------------------------------------------------------------------
    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        if self.ratio(task) < 1.0:
            self.teacher.learn(self.net)
            self.old.learn(self.gan.generator if self.config.generator == "gan" else self.vae)
        self.net.grow(task)

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        c, z, u = self.config, self.noise, Noise((1, 1, 1), "uniform")
        replay = {"old": z} if self.ratio(task) < 1.0 else {}
        if c.generator == "gan":
            critic = Update("critic", "critic", self.critic_loss, noise={"z": z, "u": u, **replay})
            generative = self.gan.phase(
                critic, Update("generator", "generator", self.generator_loss, noise={"z": z})
            )
        else:
            learn = Update("vae", "vae", self.vae_loss, noise={"z": z, **replay})
            generative = Phase("vae", c.gan_epochs, (learn,), c.gan_batch, c.gan_steps)
        fit = c.for_task(task).phase(self.loss)
        return (generative, replace(fit, updates=(replace(fit.updates[0], noise=replay),)))

    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        if phase == "gan":
            return self.gan.players(self)
        if phase == "vae":
            return {"vae": Player(named_parameters(self, "vae."), Optimiser("adam", self.config.vae_lr))}
        return {"net": self.config.for_task(task).player(named_parameters(self, "net."))}

    def end_phase(self, task: TaskInfo, phase: str) -> None:
        if phase == "gan":
            self.gan.settle(task.index)

    def end_task(self, task: TaskInfo, data: Samples) -> None:
        self.old.forget()
        self.teacher.forget()

    # Losses ----------------------------------------------------------------------------------------------------
    def mixed(self, new: Terms, old: Terms | None, step: Step) -> Terms:
        """r times the terms on the task, (1 - r) times those on replay; the former alone where r = 1."""
        if old is None:
            return new
        r = self.ratio(step.task)
        return {
            **{k: r * v for k, v in new.items()},
            **{f"replay_{k}": (1.0 - r) * v for k, v in old.items()},
        }

    def adversarial(self, real: Tensor, fake: Tensor, u: Tensor) -> Terms:
        """The critic's terms."""
        score, penalty = self.gan.critic.score, self.gan.penalty(real, fake, u)
        return {"wasserstein": wasserstein(score(real), score(fake)), "penalty": penalty}

    def critic_loss(self, batch: Batch, step: Step) -> Terms:
        """Wasserstein loss and gradient penalty, of the task's samples and of replayed ones as real."""
        with torch.no_grad():
            fake = self.gan.fake(batch.noise["z"], torch.zeros_like(batch.y))
        old = None
        if "old" in batch.noise:
            old = self.adversarial(self.made(self.old.net, batch.noise["old"]), fake, batch.noise["u"])
        return self.mixed(self.adversarial(batch.x, fake, batch.noise["u"]), old, step)

    def generator_loss(self, batch: Batch, step: Step) -> Terms:
        fake = self.gan.fake(batch.noise["z"], torch.zeros_like(batch.y))
        return {"adversarial": -self.gan.critic.score(fake).mean()}

    def vae_loss(self, batch: Batch, step: Step) -> Terms:
        """Minus the evidence lower bound, of the task's samples and of replayed ones."""
        network, old = self.context.network, None
        if "old" in batch.noise:
            with torch.no_grad():
                pixels = self.old.net(batch.noise["old"])
            old = {"elbo": self.vae.loss(pixels, batch.noise["z"])}
        x = (batch.x * network.std + network.mean).clamp(0.0, 1.0)
        return self.mixed({"elbo": self.vae.loss(x, batch.noise["z"])}, old, step)

    def loss(self, batch: Batch, step: Step) -> Terms:
        """L_train of the solver: cross entropy on labels, and on what the old scholar makes and says."""
        c, labels, old = self.config, step.task.active, None
        if "old" in batch.noise:
            x = self.made(self.old.net, batch.noise["old"])
            said = self.teacher(x, (0, self.teacher.net.head.n_outputs))
            logits = self.net(x, labels)
            if c.labels == "hard":
                old = {"ce": F.cross_entropy(logits, said.argmax(1))}
            else:
                # Classes that the old solver did not know have probability 0.
                wanted = F.pad((said / c.temperature).softmax(1), (0, logits.shape[1] - said.shape[1]))
                old = {"ce": c.temperature**2 * F.cross_entropy(logits / c.temperature, wanted)}
        return self.mixed({"ce": F.cross_entropy(self.net(batch.x, labels), batch.y)}, old, step)

    # What it makes and answers -----------------------------------------------------------------------------------
    @torch.no_grad()
    def made(self, generator: torch.nn.Module, z: Tensor) -> Tensor:
        """Images [B, C, H, W] in the network's range from noise [B, n_z], with stored statistics."""
        if isinstance(generator, Vae):
            pixels: Tensor = generator(z)
            return (pixels - self.context.network.mean) / self.context.network.std
        images: Tensor = generator(z, z.new_ones(len(z), 1))
        return images

    def generate(self, y: Tensor, *, generator: torch.Generator) -> Tensor:
        """Images that the solver takes for labels ``y`` [N]; where it finds too few, the likeliest of the label."""
        known = self.net.head.n_outputs
        if len(y) and int(y.max()) >= known:
            raise ConfigError(
                f"labels must be of classes that the solver knows, 0 to {known - 1}, got {int(y.max())}: learn their "
                "task first."
            )
        z = torch.randn((DRAWS * len(y), *self.noise.shape), generator=generator, device=y.device)
        source = self.gan.generator if self.config.generator == "gan" else self.vae
        x = torch.cat([self.made(source, part) for part in z.split(BATCH)])
        p = torch.cat([self.net.predict(part, None) for part in x.split(BATCH)]).softmax(1)
        return x[by_answer(y, p)]

    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        return self.net.predict(x, None)

    def facts(self) -> dict[str, str]:
        c = self.config
        return {"generator": c.generator, **({"labels": "soft"} if c.labels == "soft" else {})}


_SMALL = (
    f"{small.FIT}, gan_epochs=2, gan_steps=2, gan_batch=6, gan_critic=2, gan_lr=1e-3, gan_beta1=0, gan_beta2=0.9, "
    "lambda_gp=10, vae_lr=1e-3, vae_hidden=10, vae_z=5, temperature=2"
)

ENTRIES = {
    "dgr": Entry(
        Dgr,
        DgrConfig(),
        "deep generative replay, with a GAN or a VAE (Shin et al., NIPS 2017)",
        small={
            "gan": f"{_SMALL}, generator=gan, ratio=none, labels=hard",
            "vae": f"{_SMALL}, generator=vae, ratio=0.3, labels=soft",
        },
        skipped={("vae", "builds_from_defaults"): "the default, a GAN, needs a network that has a generator"},
    )
}
