"""Memory replay GANs: the generator of the task before replays old classes to the next one, or is aligned with it.

C. Wu, L. Herranz, X. Liu, Y. Wang, J. van de Weijer, B. Raducanu: "Memory Replay GANs: learning to generate images
from new categories without forgetting", NeurIPS 2018, arXiv 1809.02058 ("MeRGAN"). Here: joint retraining with replay
(``mergan-jtr``) and replay alignment (``mergan-ra``). Base: a conditional Wasserstein GAN with gradient penalty
(Gulrajani et al., NIPS 2017) and a class head on the critic (Odena et al., ICML 2017). Sums and weights follow the
released code.

Departures: answers come from a classifier of its own, trained on generated images after the generator
(``parts/solver.py``); the paper judges generated images only. Class head and label rows grow with the classes, where
the code has ten of each from the start. While training, each label's samples in a batch are normalised by themselves,
as in the code; to generate, with statistics of 500 images a label, taken when the generator has learned a task, where
the code uses the batch's. The paper pads 28x28 images to 32x32, here they are resized.
Cost: a copy of the generator while a task is learned; critic and generator stay as large as they are, but for a row a
label in each norm.

Shapes: B batch, K old classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from engram.core.contract import (
    Batch,
    Context,
    Method,
    Noise,
    Phase,
    Player,
    Samples,
    Step,
    TaskInfo,
    Terms,
    Update,
    named_parameters,
)
from engram.core.options import NonNegative
from engram.methods.registry import Entry
from engram.parts.gan import Gan, GanOptions, wasserstein
from engram.parts.solver import Solver, SolverOptions
from engram.parts.teacher import FrozenCopy


@dataclass(frozen=True)
class MerganConfig(GanOptions, SolverOptions):
    """Options of memory replay GANs.

    Args:
        replay: joint, old classes are learned from the images of the old generator; or alignment, the generator is
            to make what the old one makes of the same noise and label.
        lambda_class: weight of the class terms of critic and generator.
        alignment: weight lambda_RA of the squared distance summed over samples and pixels, as the released code: 1e-3
            for MNIST, 1e-2 for SVHN.
        over_classes: whether replayed terms of each old class are added up, as in the released code for MNIST and
            SVHN, or averaged (mean), as for LSUN.
    """

    replay: Literal["joint", "alignment"] = "joint"
    lambda_class: NonNegative = 1.0
    alignment: NonNegative = 1e-3
    over_classes: Literal["sum", "mean"] = "sum"


def old_labels(batch_size: int, n_old: int, step: int, device: torch.device | None = None) -> Tensor:
    """Labels of the replayed samples of a batch, int64: floor(B / K) of each old class, or 1 in turn where K > B."""
    n = min(batch_size, max(1, batch_size // n_old) * n_old)
    first = step * n if n_old > batch_size else 0
    return (torch.arange(n, device=device) + first) % n_old


class Mergan(Method):
    """A conditional GAN that goes on from task to task, with replay by its copy of before the task."""

    Config = MerganConfig
    config: MerganConfig
    scenarios: ClassVar = frozenset({"class"})
    generative: ClassVar = True

    def __init__(self, config: MerganConfig, context: Context) -> None:
        super().__init__(config, context)
        self.gan = Gan(config, context)
        self.old = FrozenCopy(self.gan.make)
        self.solver = Solver(config, context)

    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        if task.index:
            self.old.learn(self.gan.generator)
        self.gan.generator.grow(task.n_seen)
        self.gan.critic.classes.grow(task.n_seen, self.context.seed, task.index)
        self.solver = self.solver.for_task(task)

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        z, u = self.gan.noise, Noise((1, 1, 1), "uniform")
        critic = Update("critic", "critic", self.critic_loss, noise={"z": z, "u": u, "old": z})
        generator = Update("generator", "generator", self.generator_loss, noise={"z": z, "old": z})
        return (self.gan.phase(critic, generator), self.solver.phase())

    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        if phase == "solver":
            return {"solver": self.solver.player(named_parameters(self, "solver."))}
        return self.gan.players(self)

    def replayed(self, batch: Batch, step: Step) -> tuple[Tensor, Tensor, Tensor, float]:
        """Noise and labels of old classes, what the old generator makes of them, and the weight of a mean over them."""
        n_old = step.task.start
        y = old_labels(len(batch.y), n_old, step.step, batch.y.device)
        z = batch.noise["old"][: len(y)]
        with torch.no_grad():
            x = self.gan.fake(z, y, self.old.net)
        return z, y, x, float(n_old if self.config.over_classes == "sum" else 1)

    def critic_loss(self, batch: Batch, step: Step) -> Terms:
        """L_D and the class term on the task's samples; with joint replay, on replayed ones as well."""
        c, critic = self.config, self.gan.critic
        terms = self.gan.critic_terms(batch, c.lambda_class)
        if step.task.start and c.replay == "joint":
            z, y, old, weight = self.replayed(batch, step)
            with torch.no_grad():
                new = self.gan.fake(z, y)
            score, logits = critic.judge(old)
            # The penalty is taken on the task's own samples only, as in the released code.
            terms["replay"] = weight * wasserstein(score, critic.score(new))
            terms["replay_class"] = weight * c.lambda_class * F.cross_entropy(logits, y)
        return terms

    def generator_loss(self, batch: Batch, step: Step) -> Terms:
        """L_G and the class term; of old classes too, or the distance to the old generator."""
        c = self.config
        terms = self.gan.generator_terms(batch, c.lambda_class)
        if step.task.start:
            z, y, old, weight = self.replayed(batch, step)
            new = self.gan.fake(z, y)
            if c.replay == "alignment":
                # lambda_RA / K times the sum over old classes, samples and pixels of half the squared difference.
                terms["alignment"] = c.alignment / step.task.start * 0.5 * (new - old).square().sum()
            else:
                score, logits = self.gan.critic.judge(new)
                terms["replay"] = -weight * score.mean()
                terms["replay_class"] = weight * c.lambda_class * F.cross_entropy(logits, y)
        return terms

    def end_phase(self, task: TaskInfo, phase: str) -> None:
        if phase == "gan":
            self.gan.settle(task.index)

    def end_task(self, task: TaskInfo, data: Samples) -> None:
        self.old.forget()

    def pools(self, task: TaskInfo, phase: str, epoch: int, data: Samples) -> dict[str, Samples]:
        return self.gan.solver_pool(self.config, task, epoch, data) if phase == "solver" else {}

    def generate(self, y: Tensor, *, generator: torch.Generator) -> Tensor:
        return self.gan.generate(y, generator)

    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        return self.solver.predict(x, None)

    def report(self) -> dict[str, Any]:
        return {"generator_parameters": sum(p.numel() for p in self.gan.generator.parameters())}

    def facts(self) -> dict[str, str]:
        return {"solver": f"separate ({self.config.solver_data})"}


_SMALL = (
    "gan_epochs=2, gan_steps=2, gan_batch=6, gan_critic=2, gan_lr=1e-3, gan_beta1=0, gan_beta2=0.9, lambda_gp=10, "
    "lambda_class=1, solver_epochs=2, solver_steps=3, solver_batch=6, solver_samples=8, solver_lr=1e-3, "
    "solver_norm=batch, solver_start=continue, solver_shift=0, solver_rotate=0, solver_mirror=false, "
    "solver_colour=0, solver_smoothing=0"
)

ENTRIES = {
    "mergan-jtr": Entry(
        Mergan,
        MerganConfig(replay="joint"),
        "memory replay GAN, joint retraining with replay (Wu et al., NeurIPS 2018)",
        fixed=("replay", "alignment"),
        small={"joint": f"{_SMALL}, over_classes=sum, solver_data=mixed"},
    ),
    "mergan-ra": Entry(
        Mergan,
        MerganConfig(replay="alignment"),
        "memory replay GAN, replay alignment (Wu et al., NeurIPS 2018)",
        fixed=("replay", "over_classes"),
        small={"alignment": f"{_SMALL}, alignment=1e-3, solver_data=generated"},
    ),
}
