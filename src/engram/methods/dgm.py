"""Dynamic Generative Memory: a generator that masks, freezes and grows its weights replays old classes to a classifier.

Ostapenko, Puscas, Klein, Jaehnichen, Nabi: "Learning to Remember: A Synaptic Plasticity Driven Framework for Continual
Learning", CVPR 2019, arXiv 1904.03137 ("DGM"). Equations here: masks (2, 3), annealing (4, 5), gradient gating (6, 7),
sparsity (8), losses of Sec. 3.3, growth of Sec. 3.2. Embedding-gradient compensation: Serra et al., "Overcoming
Catastrophic Forgetting with Hard Attention to the Task" (HAT), ICML 2018, Sec. 2.5. AC-GAN: Odena et al. (ICML 2017);
WGAN-GP: Gulrajani et al. (NIPS 2017).

Departures from the paper, each an option that can be set back:
- old classes are generated with exact binary masks (``replay_mask=soft`` is the released code);
- masks per unit act after the ReLU (``act_gate=pre_bn``), else closed units leak into frozen ones;
- the slope of epoch e uses (e + 1) / I (``annealing=official | paper``), else the first epoch anneals backwards;
- running statistics of the critic are reset with its weights (``reset_statistics=False``);
- data and replay are shuffled in every epoch (``shuffle=False``);
- ``solver=separate`` trains a classifier of its own on generated samples after the generator, ``discriminants`` fits
  one in closed form; ``shared`` is the paper.
The recipe ``dgmw-mnist-official`` sets all of them as released.

Cost: one embedding a masked weight (or unit) while a task is learned, one bit a masked weight (or unit) and task
afterwards; batch norm and an output layer a task; t classifier steps an iteration at task t with ``solver=shared``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
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
    evaluating,
    named_parameters,
)
from engram.errors import ConfigError
from engram.methods.dgm_options import DgmConfig
from engram.methods.registry import Entry
from engram.networks import masks
from engram.networks.masked import MaskedGenerator
from engram.parts import gan, replay
from engram.parts.averaging import WeightAverage
from engram.parts.discriminants import GeneratedDiscriminants
from engram.parts.memory import SampleMemory
from engram.parts.solver import Solver
from engram.parts.statistics import kept_statistics, reestimated_statistics

N_LABEL = 10  # as released for MNIST and SVHN
REPLAY_BATCH = 500


class Dgm(Method):
    """Dynamic Generative Memory, with masks per weight (``dgmw``) or per unit (``dgma``)."""

    Config = DgmConfig
    config: DgmConfig
    scenarios: ClassVar = frozenset({"class"})
    generative: ClassVar = True

    def __init__(self, config: DgmConfig, context: Context) -> None:
        super().__init__(config, context)
        shape = context.network.generator(context.image_shape, mask=config.mask)
        of_stream = config.label == "within_stream"
        least = self.beforehand("n_classes") if of_stream else 1
        self.n_label = config.n_label or (least if of_stream else N_LABEL)
        if not least <= self.n_label <= shape.n_z:
            raise ConfigError(
                f"n_label must lie between the number of classes, {least}, and that of noise entries, {shape.n_z}, "
                f"got {self.n_label}: give another n_label or a network with a larger n_z."
            )
        self.precisions = ("float32", "bf16") if config.mask == "weight" else ("float32",)
        self.reads = "memory" if config.memory_ratio or config.memory_budget else "task"
        self.generator = MaskedGenerator(shape, mask=config.mask, act_gate=config.act_gate, seed=context.seed)
        self.critic = gan.Critic(context, config.critic_norm, 0)
        self.solver = Solver(config, context) if config.solver == "separate" else None
        self.discriminants = (
            GeneratedDiscriminants(
                context,
                scales=config.solver_scales,
                angles=config.solver_angles,
                eps=config.solver_shrinkage,
            )
            if config.solver == "discriminants"
            else None
        )
        self.memory = SampleMemory(context.image_shape, config.memory_budget or None)
        self.generator_average = WeightAverage()
        self.solver_average = WeightAverage()
        self.stops: list[int] = []  # first label after each task begun
        self.use: list[list[dict[str, int]]] = []  # mask use of each task frozen

    # The course of a task --------------------------------------------------------------------------------------
    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        self._check_fits(task)
        c, g, seed, device = self.config, self.generator, self.context.seed, self.memory.labels.device
        g.begin(task.index)
        self.stops.append(task.stop)
        if c.reinit_d and task.index > 0:
            fresh = gan.Critic(self.context, c.critic_norm, task.index)
            if not c.reset_statistics:
                kept = {k: v for k, v in self.critic.trunk.state_dict().items() if "running_" in k}
                fresh.trunk.load_state_dict(kept, strict=False)
            self.critic = fresh
        elif task.index > 0:
            with seeds.seeded(seed, "adversarial", task.index):
                self.critic.adversarial.reset_parameters()
        self.critic.classes.grow(task.n_seen, seed, task.index)
        if self.solver is not None:
            self.solver = self.solver.for_task(task)
        self.to(device)
        if self._leaks:
            for i, w in enumerate(g.weights):
                self.register_buffer(f"start_{i}", w.detach().clone())

    def _check_fits(self, task: TaskInfo) -> None:
        n_codes = task.n_classes if self.config.label == "within_task" else task.n_seen
        if n_codes > self.n_label:
            raise ConfigError(
                f"n_label must be at least the {n_codes} classes that task {task.index + 1} brings the label code to, "
                f"got {self.n_label}: start again with a larger n_label."
            )
        budget = self.config.memory_budget
        if 0 < budget < task.n_seen:
            raise ConfigError(
                f"memory_budget must be 0 or at least one sample for each of the {task.n_seen} classes seen, got "
                f"{budget}: start again with a larger budget."
            )

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        c = self.config
        z, u = Noise((self.generator.shape.n_z,)), Noise((1,) * len(self.context.image_shape), "uniform")
        classify: list[Update] = []
        if c.solver == "shared":
            pools = ("task", *(f"replay/{t}" for t in range(task.index)))
            fresh = {"z": z} if c.replay_refresh == "step" else {}
            n = task.index + 1
            classify = [Update("class", "critic", self.class_loss, pools, (k, n), fresh) for k in range(n)]
        elif self.class_weight(task) > 0:
            pools = ("task", "old") if self._class_on_old(task) else ("task",)
            classify = [Update("class", "critic", self.class_loss, pools)]
        learn = Phase(
            "gan",
            c.epochs,
            (
                *classify,
                *[Update("critic", "critic", self.critic_loss, noise={"z": z, "u": u})] * c.n_critic,
                Update("generator", "generator", self.generator_loss, noise={"z": z}),
            ),
            c.batch_size,
            c.steps_per_epoch,
            shuffle=c.shuffle,
            refresh="epoch" if c.replay_refresh == "epoch" else "phase",
        )
        return (learn,) if self.solver is None else (learn, self.solver.phase())

    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        if self.solver is not None and phase == "solver":
            return {"solver": self.solver.player(named_parameters(self, "solver."))}
        c = self.config
        # New optimisers in every task, and no weight decay: otherwise frozen weights would move.
        critic, generator = (
            Optimiser("adam", lr, (c.beta1, c.beta2), schedule=c.schedule) for lr in (c.lr_d, c.lr_g)
        )
        own = named_parameters(self, "generator.embeddings.", *self._own(task))
        return {
            "critic": Player(named_parameters(self, "critic."), critic, zero_unused=c.zero_unused),
            "generator": Player(own, generator, clip_norm=c.clip_norm),
        }

    def _own(self, task: TaskInfo) -> tuple[str, ...]:
        t = task.index
        return ("generator.weights.", f"generator.norms.{t}.", f"generator.outputs.{t}.")

    def begin_phase(self, task: TaskInfo, phase: str) -> None:
        if phase == "gan" and self.config.average_g:
            self.generator_average.start(named_parameters(self, *self._own(task)))
        if phase == "solver" and self.config.solver_average:
            self.solver_average.start(named_parameters(self, "solver."))

    def after_backward(self, player: str, grads: dict[str, Tensor], step: Step) -> None:
        """Gate the gradients of the generator's weights (Eq. 7) and free those of its gates of the slope (HAT)."""
        if player != "generator":
            return
        s, s_e = self.slopes(step)
        for i, blocked in enumerate(self.generator.blocked() if step.task.index else []):
            # A select, not a product: 0 * NaN is NaN.
            grads[f"generator.weights.{i}"].masked_fill_(blocked, 0.0)
        for i, e in enumerate(self.generator.embeddings):
            q = grads.get(f"generator.embeddings.{i}")  # none once the gates are hard
            if self.config.compensate and q is not None:
                masks.compensate(q, e.detach(), s, s_e)

    def after_step(self, player: str, step: Step) -> None:
        c = self.config
        if player == "generator":
            if c.emb_clamp is not None:
                for e in self.generator.embeddings:
                    e.detach().clamp_(-c.emb_clamp, c.emb_clamp)
            if c.average_g:
                self.generator_average.update(named_parameters(self, *self._own(step.task)), c.average_g)
        elif player == "solver" and c.solver_average:
            self.solver_average.update(named_parameters(self, "solver."), c.solver_average)

    def end_phase(self, task: TaskInfo, phase: str) -> None:
        """Freeze the generator (Eq. 6), or put the solver's averaged weights in place."""
        c, g = self.config, self.generator
        if self.solver is not None and phase == "solver":
            if c.solver_average:
                self.solver_average.finish(named_parameters(self, "solver."))
                noise = self._noise("solver-statistics", task.index)
                self.solver.recalibrate(partial(self.generate, generator=noise), noise)
            return
        if c.average_g:
            held = {f"generator.weights.{i}": b for i, b in enumerate(g.blocked())} if task.index else {}
            self.generator_average.finish(named_parameters(self, *self._own(task)), held)
        if c.replay_mask == "soft":
            for i, m in enumerate(g.soft_gates(c.s_max)):
                self.register_buffer(f"soft_{task.index}_{i}", m.detach().clone())
        on = self._on()
        use = g.freeze(on)
        for row, m, e in zip(use, on, g.embeddings, strict=True):
            row["untouched"] = int((m & (e == 0)).sum())
        self.use.append(use)
        if c.bn_reestimate:
            self._reestimate(task)
        if self.discriminants is not None:
            noise = self._noise("discriminants", task.index)
            generate = partial(self.generate, generator=noise)
            self.discriminants.fit(range(task.n_seen), c.solver_samples, generate)

    def _reestimate(self, task: TaskInfo) -> None:
        """Take the generator's running statistics anew, with the mask that replay will use."""
        g, n = self.generator, self.config.batch_size
        noise = self._noise("statistics", task.index)
        gates = self._replay_gates(task.index)
        with reestimated_statistics(g.norms[task.index]), torch.no_grad():
            for _ in range(self.config.bn_reestimate):
                z = torch.randn((n, g.shape.n_z), generator=noise, device=noise.device)
                y = torch.randint(task.start, task.stop, (n,), generator=noise, device=noise.device)
                g(self.condition(z, y, task.index), task.index, gates, statistics=True)

    def _noise(self, *names: object) -> torch.Generator:
        return seeds.generator(self.context.seed, *names, device=self.memory.labels.device)

    def end_task(self, task: TaskInfo, data: Samples) -> None:
        """Grow the generator by what the task reserved (Sec. 3.2); in the relaxed mode store real samples."""
        c = self.config
        newly = [row["newly"] for row in self.use[-1]]
        self.generator.grow(self.generator.growth(newly, c.expansion))
        if self.reads == "memory":
            n_t = round(len(data) / task.n_classes)
            per_class = c.memory_budget // task.n_seen if c.memory_budget else round(c.memory_ratio * n_t)
            if c.memory_choice == "random":
                g = seeds.generator(self.context.seed, "memory", task.index)
                self.memory.add_random(data, per_class, g)
            else:
                self.memory.add_herded(data, per_class, self.features)

    def features(self, x: Tensor) -> Tensor:
        """The critic's features [B, F], of length 1, of samples as they are stored."""
        with evaluating(self.critic):
            return F.normalize(self.critic.trunk(self.context.network.normalise(x)))

    # Masks -----------------------------------------------------------------------------------------------------
    def slopes(self, step: Step) -> tuple[float, float]:
        """The slope of this step and the largest of its epoch: (s, s_e) (DGM, Eq. 4 and 5)."""
        c = self.config
        s_e = masks.slope_of_epoch(c.s_max, step.epoch, step.n_epochs, c.annealing)
        local = c.mask == "weight" if c.local_annealing is None else c.local_annealing
        return (masks.slope_of_step(s_e, step.step, step.n_steps, c.annealing) if local else s_e), s_e

    def gates(self, step: Step) -> list[Tensor]:
        """Gates of the current task: soft, or from the start of the hard tail on their binary values."""
        c = self.config
        if self._hardened(step):
            return [m.float() for m in self._on()]
        return self.generator.soft_gates(self.slopes(step)[0], closed_form=c.mask_grad == "closed_form")

    def _hardened(self, step: Step) -> bool:
        done = (step.epoch * step.n_steps + step.step) / (step.n_epochs * step.n_steps)
        return self.config.hard_tail > 0 and done >= 1.0 - self.config.hard_tail

    def _on(self) -> list[Tensor]:
        """Binary masks of the current task, bool.

        An embedding is 0 exactly where no gradient ever moved it: the task has no use for the element. With
        ``threshold=ge`` it is on, as in the released code, but only where an earlier task reserved the element.
        """
        g, gt = self.generator, self.config.threshold == "gt"
        embeddings = [e.detach() for e in g.embeddings]
        return [
            e > 0 if gt else (e > 0) | ((e == 0) & r) for e, r in zip(embeddings, g.reserved, strict=True)
        ]

    # Losses ----------------------------------------------------------------------------------------------------
    def _fakes(self, batch: Batch, step: Step) -> tuple[Tensor, list[Tensor]]:
        gates = self.gates(step)
        z = self.condition(batch.noise["z"], batch.y, step.task.index)
        return self.generator(z, step.task.index, gates, statistics=True), gates

    def class_loss(self, batch: Batch, step: Step) -> Terms:
        """Cross entropy of the critic's class head on current real and replayed old samples (L_c of Sec. 3.3)."""
        x = batch.x
        if "z" in batch.noise:
            old = (batch.y < step.task.start).nonzero().flatten()
            x = x.index_copy(0, old, self.generate_from(batch.noise["z"][old], batch.y[old]))
        return {"ce": F.cross_entropy(self.critic.classify(x), batch.y)}

    def critic_loss(self, batch: Batch, step: Step) -> Terms:
        """Wasserstein loss with gradient penalty on the current task (L_s + lambda_GP L_gp)."""
        c = self.config
        with torch.no_grad():
            fake, _ = self._fakes(batch, step)
        with kept_statistics(self.critic, c.d_statistics == "class"):
            real_score, fake_score = self.critic.score(batch.x), self.critic.score(fake)
            terms = {"wasserstein": gan.wasserstein(real_score, fake_score)}
            if step.step % c.penalty_every == 0:
                penalty = gan.gradient_penalty(self.critic.gradient, batch.x, fake, batch.noise["u"])
                terms["penalty"] = c.penalty_every * c.lambda_gp * penalty
            if c.d_class_on_fake:
                terms["ce_fake"] = F.cross_entropy(self.critic.classify(fake), batch.y)
        return terms

    def generator_loss(self, batch: Batch, step: Step) -> Terms:
        """Adversarial term, sparsity with its growth factor (Eq. 8), and the class term where it is on."""
        c = self.config
        fake, gates = self._fakes(batch, step)
        with kept_statistics(self.critic, c.d_statistics == "class"):
            features = self.critic.trunk(fake)
            terms = {"adversarial": -c.lambda_adv * self.critic.adversarial(features).mean()}
            if c.feature_matching:
                with torch.no_grad():
                    real = self.critic.trunk(batch.x).mean(0)
                terms["features"] = c.feature_matching * (features.mean(0) - real).square().sum()
            if (weight := self.class_weight(step.task)) > 0:
                terms["class"] = weight * F.cross_entropy(self.critic.classify(fake), batch.y)
        terms["sparsity"] = c.lambda_ru * self.alpha * masks.sparsity(gates, self.generator.reserved)
        return terms

    def class_weight(self, task: TaskInfo) -> float:
        """Weight of the class term in the generator's loss."""
        weight = self.config.g_class_weight
        return float(task.n_classes > 1) if weight is None else weight

    def _class_on_old(self, task: TaskInfo) -> bool:
        return self.config.class_on_old and task.index > 0 and self.class_weight(task) > 0

    @property
    def alpha(self) -> float:
        """Growth factor S_t / S_free: size at the start of the task against the first (Sec. 3.3)."""
        first, now = self.generator.widths[0], self.generator.widths[-1]
        if self.config.ratio == "neurons":
            return sum(now) / sum(first)
        return self.generator.n_weights(now) / self.generator.n_weights(first)

    # Replay ----------------------------------------------------------------------------------------------------
    def pools(self, task: TaskInfo, phase: str, epoch: int, data: Samples) -> dict[str, Samples]:
        """Generated samples: a pool for each old task beside the critic's, one of them all, or one for the solver."""
        c = self.config
        g = self._noise("replay", task.index, phase, epoch)
        if phase == "solver":
            generate, normalise = partial(self.generate, generator=g), self.context.network.normalise
            return {"solver": replay.solver_set(c, task, data, generate, self.memory, normalise, g)}
        if c.solver != "shared":
            if not self._class_on_old(task):
                return {}
            sets = [self._replay(t, c.solver_samples, g) for t in range(task.index)]
            return {"old": replay.joined(sets)}
        per_class = round(len(data) / task.n_classes)
        with self._at_start():
            return {f"replay/{t}": self._replay(t, per_class, g) for t in range(task.index)}

    def _replay(self, task: int, per_class: int, g: torch.Generator) -> Samples:
        generate = partial(self.generate, generator=g)
        return replay.replayed(
            self.labels(task), per_class, generate, self.memory, self.context.network.normalise
        )

    def generate(self, y: Tensor, *, generator: torch.Generator) -> Tensor:
        """Images [N, C, H, W] in [-1, 1] of labels ``y`` [N], all of frozen tasks: exact masks, stored statistics."""
        z = torch.randn((len(y), self.generator.shape.n_z), generator=generator, device=y.device)
        return self.generate_from(z, y)

    def generate_from(self, z: Tensor, y: Tensor) -> Tensor:
        """As :meth:`generate`, from given noise [N, n_z]."""
        known = self.stops[self.generator.n_frozen - 1] if self.generator.n_frozen else 0
        if len(y) and int(y.max()) >= known:
            raise ConfigError(
                f"labels must be of classes whose generator is frozen, 0 to {known - 1}, got {int(y.max())}: "
                "learn their task first."
            )
        x = z.new_empty((len(y), *self.context.image_shape))
        with torch.no_grad():
            for task in range(self.generator.n_frozen):
                labels = self.labels(task)
                rows = ((y >= labels.start) & (y < labels.stop)).nonzero().flatten()
                if len(rows):
                    gates = self._replay_gates(task)
                    for part in rows.split(REPLAY_BATCH):
                        made = self.generator(self.condition(z[part], y[part], task), task, gates)
                        x[part] = made.to(x.dtype)  # fewer bits within a loss of fewer bits
        return x

    def _replay_gates(self, task: int) -> list[Tensor]:
        if self.config.replay_mask == "exact":
            return self.generator.binary_gates(task)
        return [getattr(self, f"soft_{task}_{i}") for i in range(len(self.generator.weights))]

    def labels(self, task: int) -> range:
        """Labels of a task that has begun."""
        return range(self.stops[task - 1] if task else 0, self.stops[task])

    def condition(self, z: Tensor, y: Tensor, task: int) -> Tensor:
        """Noise [N, n_z] whose first ``n_label`` entries are the one-hot of labels ``y`` [N] of one task."""
        code = y - self.labels(task).start if self.config.label == "within_task" else y
        return torch.cat([F.one_hot(code, self.n_label).to(z.dtype), z[:, self.n_label :]], dim=1)

    @property
    def _leaks(self) -> bool:
        """Whether a replay set drawn once a task needs the weights of its start: training moves what old ones use."""
        c = self.config
        moves = c.replay_mask == "soft" or (c.mask == "unit" and c.act_gate == "pre_bn")
        return moves and c.replay_refresh == "task" and c.solver == "shared"

    @contextmanager
    def _at_start(self) -> Iterator[None]:
        """The generator's weights as they were when the task began, so that a resume draws the same replay set."""
        now = [w.data for w in self.generator.weights]
        try:
            for i, w in enumerate(self.generator.weights):
                w.data = getattr(self, f"start_{i}", w.data)
            yield
        finally:
            for w, data in zip(self.generator.weights, now, strict=True):
                w.data = data

    # Answers and state -----------------------------------------------------------------------------------------
    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        if self.discriminants is not None:
            return self.discriminants.predict(x, self.stops[-1])
        with evaluating(self):
            return self.critic.classify(x) if self.solver is None else self.solver.predict(x, None)

    def structure(self) -> dict[str, Any]:
        return {
            "generator": self.generator.structure(),
            "classes": self.critic.classes.sizes,
            "solver": self.solver.head.sizes if self.solver is not None else [],
            "discriminants": 0 if self.discriminants is None else self.discriminants.structure(),
            "stops": self.stops,
            "use": self.use,
            "memory": len(self.memory),
            "averages": [self.generator_average.structure(), self.solver_average.structure()],
            "buffers": {name: list(b.shape) for name, b in self.named_buffers(recurse=False)},
        }

    def rebuild(self, structure: dict[str, Any]) -> None:
        self.generator.rebuild(structure["generator"])
        self.critic.classes.rebuild(structure["classes"])
        if self.solver is not None:
            self.solver.head.rebuild(structure["solver"])
        if self.discriminants is not None:
            self.discriminants.rebuild(structure["discriminants"])
        self.stops = list(structure["stops"])
        self.use = [list(rows) for rows in structure["use"]]
        self.memory.rebuild(structure["memory"])
        self.generator_average.rebuild(structure["averages"][0])
        self.solver_average.rebuild(structure["averages"][1])
        for name, shape in structure["buffers"].items():
            self.register_buffer(name, torch.zeros(shape))

    def storage_bytes(self) -> dict[str, int]:
        kept = self.generator.storage_bytes()
        soft = sum(b.numel() * 4 for n, b in self.named_buffers() if n.startswith("soft_"))
        solver = self.solver or self.discriminants or self.critic
        other = sum(t.numel() * t.element_size() for t in solver.state_dict().values())
        exemplars = self.memory.images.numel() + 8 * len(self.memory)
        n_masks = kept["masks"] + soft
        return {**kept, "masks": n_masks, "exemplars": exemplars, "statistics": 0, "other": other}

    # Observed --------------------------------------------------------------------------------------------------
    def facts(self) -> dict[str, str]:
        c = self.config
        return {"solver": f"separate ({c.solver_data})" if c.solver == "separate" else c.solver}

    def measures(self, step: Step) -> dict[str, Any]:
        if step.phase != "gan":
            return {}
        s_e = self.slopes(step)[1]
        found = self.gates(step) if self._hardened(step) else self.generator.soft_gates(s_e)
        gates = {
            f"layer{i}": {
                "mean": round(float(m.mean()), 6),
                "on": round(float((m >= 0.5).float().mean()), 6),
                "hist": torch.histc(m.cpu(), 10, 0.0, 1.0).long().tolist(),
            }
            for i, m in enumerate(x.detach() for x in found)
        }
        return {"slope": s_e, "gates": gates}

    def report(self) -> dict[str, Any]:
        g = self.generator
        return {
            "growth": {
                "widths": g.widths[-1],
                "weights": g.n_weights(g.widths[-1]),
                "reserved": [int(r.sum()) for r in g.reserved],
                "widths_after": g.current,
                "weights_after": g.n_weights(),
                "alpha": self.alpha,
            },
            "mask_use": self.use[-1],
        }


_SMALL = (
    "epochs=2, steps_per_epoch=none, batch_size=6, lr_d=2e-3, lr_g=2e-3, beta1=0.5, beta2=0.999, n_critic=1, "
    "lambda_gp=1, lambda_adv=1, lambda_ru=0.08, g_class_weight=none, d_class_on_fake=false, s_max=1e4, "
    "annealing=shifted, local_annealing=none, mask_grad=autograd, compensate=true, hard_tail=0, "
    "emb_clamp=none, clip_norm=1e4, act_gate=post, threshold=ge, replay_mask=exact, replay_refresh=task, "
    "expansion=per_task, ratio=neurons, reinit_d=true, reset_statistics=true, critic_norm=batch, "
    "d_statistics=all, bn_reestimate=0, average_g=0, zero_unused=false, shuffle=true, label=within_stream, "
    "n_label=none, solver=shared, memory_ratio=0, memory_budget=0, memory_choice=random, penalty_every=1, "
    "schedule=constant, feature_matching=0, class_on_old=false"
)
_SOLVER = (
    f"{_SMALL}, solver=separate, solver_data=generated, solver_epochs=2, solver_steps=3, solver_batch=6, "
    "solver_samples=8, solver_lr=1e-3, solver_norm=batch, solver_start=fresh, solver_shift=0, "
    "solver_rotate=0, solver_mirror=false, solver_colour=0, solver_blur=0, solver_noise=0, solver_cut=0, "
    "solver_average=0, solver_smoothing=0"
)
_OFFICIAL = (
    f"{_SMALL}, annealing=official, act_gate=pre_bn, replay_mask=soft, reset_statistics=false, "
    "shuffle=false, zero_unused=true"
)
_FULL = (
    f"{_SOLVER}, solver_data=mixed, solver_norm=group, solver_start=continue, solver_shift=1, "
    "solver_rotate=10, solver_average=0.9, solver_smoothing=0.1, hard_tail=0.4, average_g=0.9, "
    "bn_reestimate=3, mask_grad=closed_form, expansion=carry, d_statistics=class, g_class_weight=0.1, "
    "class_on_old=true, solver_blur=1, solver_noise=0.1, solver_cut=2"
)
_DISCRIMINANTS = (
    f"{_SMALL}, solver=discriminants, solver_samples=8, solver_scales=1, solver_angles=2, solver_shrinkage=0.1, "
    "penalty_every=2, schedule=cosine, feature_matching=0.5"
)
_REINIT = "the critic, which is the classifier, starts afresh in every task (DGM, released settings)"
_FRESH = "the solver starts afresh in every task and is trained on generated samples of all classes"
_GROWING = "growing_keeps_old_logits"

ENTRIES = {
    "dgmw": Entry(
        Dgm,
        DgmConfig(mask="weight"),
        "Dynamic Generative Memory, a mask per weight (Ostapenko et al., CVPR 2019)",
        fixed=("mask",),
        small={
            "shared": _SMALL,
            "separate": _FULL,
            "discriminants": _DISCRIMINANTS,
            "official": _OFFICIAL,
            "relaxed": f"{_SMALL}, memory_budget=7, replay_refresh=epoch, d_class_on_fake=true",
        },
        skipped={(v, _GROWING): _REINIT for v in ("shared", "official", "relaxed")},
    ),
    "dgma": Entry(
        Dgm,
        DgmConfig(mask="unit", s_max=1e5, lambda_ru=0.01),
        "Dynamic Generative Memory, a mask per unit (Ostapenko et al., CVPR 2019)",
        fixed=("mask",),
        small={
            "shared": f"{_SMALL}, s_max=1e5, reinit_d=false, replay_refresh=step, g_class_weight=0.5",
            "separate": f"{_SOLVER}, s_max=400, emb_clamp=6, solver_norm=none",
            "official": f"{_OFFICIAL}, s_max=1e5",
            "relaxed": f"{_SMALL}, s_max=400, memory_ratio=0.5, ratio=params, critic_norm=group",
        },
        skipped={
            ("official", _GROWING): _REINIT,
            ("relaxed", _GROWING): _REINIT,
            ("separate", _GROWING): _FRESH,
        },
    ),
}
