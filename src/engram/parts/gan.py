"""The Wasserstein GAN with gradient penalty, its critic with a class head, and what methods that go on with one share.

Gulrajani et al. (NIPS 2017); class head: Odena et al. (ICML 2017).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engram import seeds
from engram.core.contract import (
    Batch,
    Context,
    Noise,
    Optimiser,
    Phase,
    Player,
    Samples,
    TaskInfo,
    Terms,
    Update,
    named_parameters,
)
from engram.core.network import Norm, n_features
from engram.core.options import BelowOne, Count, NonNegative, Positive
from engram.core.values import Checked
from engram.errors import ConfigError
from engram.networks.conditional import ConditionalGenerator
from engram.networks.dcgan import ConvTrunk
from engram.networks.heads import Head
from engram.parts.memory import SampleMemory
from engram.parts.replay import solver_set
from engram.parts.solver import SolverOptions

BATCH = 500


def wasserstein(real: Tensor, fake: Tensor) -> Tensor:
    """Critic's loss: mean score of the fake minus mean score of the real, scores [B]."""
    return fake.mean() - real.mean()


def input_gradient(critic: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Gradient [B, C, H, W] of the scores at images ``x``, as a function that can be differentiated."""
    x = x.requires_grad_(True)
    (grad,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return grad


def gradient_penalty(gradient: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, u: Tensor) -> Tensor:
    """Mean of (||grad a(x^)||_2 - 1)^2 at x^ = u x + (1 - u) x~, one u in [0, 1] a sample.

    Args:
        gradient: maps images [B, C, H, W] to the gradients of their scores there.
        real, fake: images [B, C, H, W]; the fake needs no gradient.
        u: uniform numbers [B, 1, 1, 1], or [B, 1] for vectors.

    The square root has a small offset (1e-12), so that a zero gradient gives a finite derivative.
    """
    grad = gradient(u * real + (1.0 - u) * fake)
    norm = (grad.flatten(1).square().sum(1) + 1e-12).sqrt()
    return (norm - 1.0).square().mean()


class Critic(nn.Module):
    """One trunk, two heads: adversarial score a(x) [B] and class logits c(x) [B, n_seen]."""

    def __init__(self, context: Context, norm: Norm, task: int) -> None:
        super().__init__()
        with seeds.seeded(context.seed, "critic", task):
            self.trunk = context.network.trunk(context.image_shape, norm=norm)
            self.adversarial = nn.Linear(n_features(self.trunk), 1)
        self.classes = Head(n_features(self.trunk), "single")

    def score(self, x: Tensor) -> Tensor:
        return self.adversarial(self.trunk(x)).squeeze(1)

    def gradient(self, x: Tensor) -> Tensor:
        """As :func:`input_gradient` of the score."""
        if isinstance(self.trunk, ConvTrunk) and self.trunk.linear:
            weight = self.adversarial.weight
            with torch.autocast(x.device.type, enabled=False):  # it does not know gradients of convolutions
                return self.trunk.input_gradient(x.float(), weight.new_ones(len(x), 1) @ weight)
        return input_gradient(self.score, x)

    def classify(self, x: Tensor) -> Tensor:
        return self.classes(self.trunk(x), (0, self.classes.n_outputs))

    def judge(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Score and class logits, of one pass through the trunk."""
        h = self.trunk(x)
        return self.adversarial(h).squeeze(1), self.classes(h, (0, self.classes.n_outputs))


@dataclass(frozen=True)
class GanOptions(Checked):
    """Options of a GAN that goes on from task to task. Defaults are those of Wu et al. (NeurIPS 2018) for MNIST.

    Args:
        gan_epochs: epochs of the generative phase of a task, each a block of ``gan_steps``.
        gan_steps: steps of the generator in an epoch.
        gan_batch: images in a step of critic or generator.
        gan_critic: critic steps before each generator step, each on other samples.
        gan_lr: learning rate of generator and critic.
        gan_beta1, gan_beta2: decay rate of Adam's first (beta1) and second (beta2) moment; its state starts empty in
            every task.
        lambda_gp: weight of the gradient penalty.
    """

    gan_epochs: Count = 40
    gan_steps: Count = 100
    gan_batch: Count = 64
    gan_critic: Count = 5
    gan_lr: Positive = 1e-4
    gan_beta1: BelowOne = 0.0
    gan_beta2: BelowOne = 0.9
    lambda_gp: NonNegative = 10.0


class Gan(nn.Module):
    """A conditional generator and its critic, which has no normalisation: the penalty is each sample's own.

    Args:
        options: how it is trained.
        context: names the network and the seed.
    """

    def __init__(self, options: GanOptions, context: Context) -> None:
        super().__init__()
        self.options, self.context = options, context
        self.generator = self.make()
        self.critic = Critic(context, "none", 0)

    def make(self) -> ConditionalGenerator:
        """A generator of its kind that knows no label."""
        shape = self.context.network.generator(self.context.image_shape, mask="none")
        return ConditionalGenerator(shape, self.context.seed)

    @property
    def noise(self) -> Noise:
        """What the generator makes one image of."""
        return Noise((self.generator.shape.n_z,))

    def phase(self, critic: Update, generator: Update) -> Phase:
        """``gan_critic`` steps of the critic, then one of the generator, on other parts of what a step draws."""
        c, n = self.options, self.options.gan_critic
        if n > 1:
            critics = [replace(critic, chunk=(k, n)) for k in range(n)]
            generator = replace(generator, chunk=(0, n))
        else:
            critics = [critic]
        return Phase("gan", c.gan_epochs, (*critics, generator), c.gan_batch * n, c.gan_steps)

    def players(self, method: nn.Module) -> dict[str, Player]:
        """Critic and generator of the method that holds this as ``gan``, with optimisers that start empty."""
        c = self.options
        adam = Optimiser("adam", c.gan_lr, (c.gan_beta1, c.gan_beta2))
        names = {"critic": "gan.critic.", "generator": "gan.generator."}
        return {player: Player(named_parameters(method, name), adam) for player, name in names.items()}

    def fake(self, z: Tensor, y: Tensor, of: ConditionalGenerator | None = None) -> Tensor:
        """Images of labels ``y`` [B] from noise [B, n_z] as in training, by the present generator or an older one."""
        generator = of or self.generator
        return generator(z, generator.hot(y), statistics=True)

    def penalty(self, real: Tensor, fake: Tensor, u: Tensor) -> Tensor:
        """The gradient penalty with its weight."""
        return self.options.lambda_gp * gradient_penalty(self.critic.gradient, real, fake, u)

    def critic_terms(self, batch: Batch, lambda_class: float) -> Terms:
        """The critic's loss on a task's own samples: Wasserstein, gradient penalty, class term on the real ones."""
        with torch.no_grad():
            fake = self.fake(batch.noise["z"], batch.y)
        score, logits = self.critic.judge(batch.x)
        return {
            "wasserstein": wasserstein(score, self.critic.score(fake)),
            "penalty": self.penalty(batch.x, fake, batch.noise["u"]),
            "class": lambda_class * F.cross_entropy(logits, batch.y),
        }

    def generator_terms(self, batch: Batch, lambda_class: float) -> Terms:
        """The generator's loss on a task's own labels: adversarial and class term."""
        score, logits = self.critic.judge(self.fake(batch.noise["z"], batch.y))
        return {"adversarial": -score.mean(), "class": lambda_class * F.cross_entropy(logits, batch.y)}

    def settle(self, task: int) -> None:
        """Take the statistics with which images are generated from now on, of `BATCH` images a label."""
        device = self.generator.first.weight.device
        self.generator.settle(seeds.generator(self.context.seed, "statistics", task, device=device), BATCH)

    def solver_pool(
        self, options: SolverOptions, task: TaskInfo, epoch: int, data: Samples
    ) -> dict[str, Samples]:
        """What a separate solver learns from in an epoch: images of the generator as it is, and real ones if asked."""
        g = seeds.generator(self.context.seed, "replay", task.index, epoch, device=data.y.device)
        none = SampleMemory(self.context.image_shape).to(data.y.device)
        generate, normalise = partial(self.generate, generator=g), self.context.network.normalise
        return {"solver": solver_set(options, task, data, generate, none, normalise, g)}

    def generate(self, y: Tensor, generator: torch.Generator) -> Tensor:
        """Images [N, C, H, W] in [-1, 1] of known labels ``y`` [N], with stored statistics."""
        known = self.generator.n_labels
        if len(y) and int(y.max()) >= known:
            raise ConfigError(
                f"labels must be of classes that the generator knows, 0 to {known - 1}, got {int(y.max())}: learn "
                "their task first."
            )
        z = torch.randn((len(y), *self.noise.shape), generator=generator, device=y.device)
        with torch.no_grad():
            parts = zip(z.split(BATCH), self.generator.hot(y).split(BATCH), strict=True)
            return torch.cat([self.generator(*part) for part in parts])
