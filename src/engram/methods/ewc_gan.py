"""EWC in a GAN: Fisher information of the generator, measured through the critic, holds what makes the old classes.

A. Seff, A. Beatson, D. Suo, H. Liu: "Continual Learning in Generative Adversarial Nets", arXiv 1705.08395, 2017. Base:
the conditional Wasserstein GAN of Wu et al. (NeurIPS 2018, arXiv 1809.02058), who compare with it; the row "EWC-M" of
Ostapenko et al. (CVPR 2019) seems to be quoted from there. No old class is replayed to the generator.

The penalty is lambda / 2 sum_i F_i (theta_i - theta*_i)^2 over all parameters of the generator, scales and offsets of
its norms included. F is taken anew after every task, over all classes known, at the latest theta*.

Departures: with a Wasserstein critic there is no log D; F is the mean squared gradient of the critic's score a(G(z, c))
or, with ``fisher_of=class``, of the class head's log probability of c, which tells nothing while one class only is
known. F is scaled to a largest entry of 1 (``normalise``), so that lambda need not follow the critic's scale; no value
of lambda is published. Answers come from a classifier of its own, trained on generated images after the generator.
Cost: two tensors a parameter of the generator; gradients of ``fisher_samples`` single images at a task's end.

Shapes: B batch, * a parameter's shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from engram import seeds
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
from engram.core.options import Count, NonNegative
from engram.methods.registry import Entry
from engram.parts.fisher import CHUNK, importances
from engram.parts.gan import Gan, GanOptions
from engram.parts.penalty import QuadraticPenalty
from engram.parts.solver import Solver, SolverOptions
from engram.parts.tables import Table


@dataclass(frozen=True)
class EwcGanConfig(GanOptions, SolverOptions):
    """Options of EWC in a GAN.

    Args:
        strength: strength of the penalty, lambda, which has a factor 1/2.
        fisher_of: what the Fisher information is the squared gradient of: the critic's score, or the log probability
            that its class head gives the class.
        fisher_samples: images that the Fisher information is taken over, of all classes known as evenly as can be.
        normalise: scale the Fisher information to a largest entry of 1 over all parameters together.
        lambda_class: weight of the class terms of critic and generator.
    """

    strength: NonNegative = 1000.0
    fisher_of: Literal["critic", "class"] = "critic"
    fisher_samples: Count = 500
    normalise: bool = True
    lambda_class: NonNegative = 1.0


class Judged(nn.Module):
    """What the critic says of an image [B, 1] for noise and one-hot label side by side, [B, n_z + L]."""

    def __init__(self, gan: Gan, of: Literal["critic", "class"]) -> None:
        super().__init__()
        self.gan, self.of = gan, of

    def forward(self, given: Tensor) -> Tensor:
        z, hot = given.split([self.gan.noise.shape[0], self.gan.generator.n_labels], 1)
        image = self.gan.generator(z, hot)
        if self.of == "critic":
            return self.gan.critic.score(image)[:, None]
        return (self.gan.critic.classify(image).log_softmax(1) * hot).sum(1, keepdim=True)


class EwcGan(Method):
    """A conditional GAN that goes on from task to task, its generator held by a quadratic penalty."""

    Config = EwcGanConfig
    config: EwcGanConfig
    scenarios: ClassVar = frozenset({"class"})
    generative: ClassVar = True

    def __init__(self, config: EwcGanConfig, context: Context) -> None:
        super().__init__(config, context)
        self.gan = Gan(config, context)
        self.solver = Solver(config, context)
        self.fisher, self.anchor = Table(), Table()
        self.penalty = QuadraticPenalty(self.fisher, self.anchor, config.strength / 2)

    @property
    def theta(self) -> dict[str, nn.Parameter]:
        """The generator's parameters by name."""
        return named_parameters(self, "gan.generator.")

    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        self.gan.generator.grow(task.n_seen)
        self.gan.critic.classes.grow(task.n_seen, self.context.seed, task.index)
        self.solver = self.solver.for_task(task)
        if task.index:
            self.penalty.pad(self.theta)

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        z, u = self.gan.noise, Noise((1, 1, 1), "uniform")
        critic = Update("critic", "critic", self.critic_loss, noise={"z": z, "u": u})
        generator = Update("generator", "generator", self.generator_loss, noise={"z": z})
        return (self.gan.phase(critic, generator), self.solver.phase())

    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        if phase == "solver":
            return {"solver": self.solver.player(named_parameters(self, "solver."))}
        return self.gan.players(self)

    def critic_loss(self, batch: Batch, step: Step) -> Terms:
        """Wasserstein loss with gradient penalty, and the class term on real samples, of the task's classes alone."""
        return self.gan.critic_terms(batch, self.config.lambda_class)

    def generator_loss(self, batch: Batch, step: Step) -> Terms:
        """Adversarial and class term of the task's classes alone."""
        return self.gan.generator_terms(batch, self.config.lambda_class)

    def after_backward(self, player: str, grads: dict[str, Tensor], step: Step) -> None:
        if player == "generator" and step.task.index:
            self.penalty.add_gradient(grads, self.theta)

    def end_phase(self, task: TaskInfo, phase: str) -> None:
        if phase == "gan":
            self.gan.settle(task.index)
            # The critic is that of the same task's end: later it is another.
            self.fisher.hold(self.measured(task))
            self.anchor.hold(self.theta)

    def measured(self, task: TaskInfo) -> dict[str, Tensor]:
        """F of every parameter of the generator, over images of all classes known."""
        c, device = self.config, self.gan.generator.first.weight.device
        g = seeds.generator(self.context.seed, "fisher", task.index, device=device)
        z = torch.randn((c.fisher_samples, *self.gan.noise.shape), generator=g, device=device)
        hot = self.gan.generator.hot(torch.arange(c.fisher_samples, device=device) % task.n_seen)

        def choose(says: Tensor, rows: slice) -> list[tuple[Tensor, Tensor | None]]:
            return [
                (says.new_zeros(len(says), dtype=torch.int64), None)
            ]  # the label is part of what is given

        found = importances(
            Judged(self.gan, c.fisher_of),
            self.theta,
            torch.cat([z, hot], 1),
            (),
            score=lambda says, _: says[:, 0],
            choose=choose,
            reduce="square",
            transform=None,
            chunk=CHUNK,
            paths=None,
        )
        largest = max(float(f.max()) for f in found.values())
        return {n: f / largest if c.normalise and largest > 0 else f for n, f in found.items()}

    def pools(self, task: TaskInfo, phase: str, epoch: int, data: Samples) -> dict[str, Samples]:
        return self.gan.solver_pool(self.config, task, epoch, data) if phase == "solver" else {}

    def generate(self, y: Tensor, *, generator: torch.Generator) -> Tensor:
        return self.gan.generate(y, generator)

    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        return self.solver.predict(x, None)

    def measures(self, step: Step) -> dict[str, float]:
        return {"penalty": self.penalty.value(self.theta)} if step.phase == "gan" and step.task.index else {}

    def facts(self) -> dict[str, str]:
        c = self.config
        return {"solver": f"separate ({c.solver_data})", "fisher": f"per sample, of the {c.fisher_of}"}


_SMALL = (
    "gan_epochs=2, gan_steps=2, gan_batch=6, gan_critic=2, gan_lr=1e-3, gan_beta1=0, gan_beta2=0.9, lambda_gp=10, "
    "lambda_class=1, strength=10, fisher_samples=7, solver_epochs=2, solver_steps=3, solver_batch=6, solver_samples=8, "
    "solver_lr=1e-3, solver_norm=batch, solver_start=continue, solver_shift=0, solver_rotate=0, solver_mirror=false, "
    "solver_colour=0, solver_smoothing=0"
)

ENTRIES = {
    "ewc-gan": Entry(
        EwcGan,
        EwcGanConfig(),
        "EWC on the generator of a GAN, EWC-M (Seff et al., 2017)",
        small={"critic": f"{_SMALL}, fisher_of=critic, normalise=true, solver_data=generated"},
    )
}
