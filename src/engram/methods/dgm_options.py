"""Options of Dynamic Generative Memory. What each departs from, and why, stands in ``methods/dgm.py``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engram.core.contract import Schedule
from engram.core.network import Norm
from engram.core.options import BelowOne, Count, CountOrZero, NonNegative, Positive, Share
from engram.errors import ConfigError
from engram.networks import masks
from engram.parts.solver import SolverOptions


@dataclass(frozen=True)
class DgmConfig(SolverOptions):
    """Options of Dynamic Generative Memory. Defaults are the paper's MNIST settings for masks per weight.

    Args:
        mask: a gate per weight (DGMw) or per unit (DGMa).
        epochs: epochs of the generative phase of a task.
        steps_per_epoch: steps of an epoch; none for a pass over the task's images.
        batch_size: images in a step of the generative phase.
        lr_d: learning rate of the critic.
        lr_g: learning rate of the generator, weights and gates alike.
        beta1, beta2: decay rate of Adam's first (beta1) and second (beta2) moment, for critic and generator.
        n_critic: steps of the critic for each step of the generator.
        lambda_gp: weight of the gradient penalty in the critic's loss.
        lambda_adv: weight of the adversarial term in the generator's loss.
        lambda_ru: weight of the term that keeps masks sparse, multiplied by the growth factor alpha_t.
        s_max: largest slope of the sigmoids that gates are while they are trained.
        local_annealing: let the slope of the gates rise within each epoch too; none does for masks per weight only, as
            the paper.
        solver: what classifies: shared, the critic's class head, as in the paper; separate, a network trained on
            generated images; or discriminants, linear ones on scattering coefficients of generated images, which train
            nothing.
        memory_ratio: share r of the replayed samples that are stored real ones (the paper's relaxed mode); 0 stores
            none.
        memory_budget: real samples stored over all classes, K (the paper's relaxed mode); 0 stores none.

    Further:
        schedule: how both learning rates fall over the generative phase: constant; cosine, to 0; or step, a tenth from
            half of the epochs on and a hundredth from three quarters on.
        penalty_every: take the gradient penalty in every n-th step only, with n times its weight.
        g_class_weight: weight of the class term in the generator's loss; none is 0 for one-class tasks, else 1.
        class_on_old: with a solver of its own and a class term: the critic's class head also learns generated samples
            of the old classes, so that the term says something in a task of one class too.
        feature_matching: weight, in the generator's loss, of the squared distance between the mean features of real and
            generated samples in the critic's trunk (Salimans et al., NIPS 2016); absent in the released code.
        d_class_on_fake: add the class loss on current fakes to the critic (AC-GAN; absent in the released code).
        annealing: how the slope of the gates rises over epochs and steps: as in the paper, as in the official code, or
            shifted by a step.
        mask_grad: take the gradient of the gates by autograd, or in closed form.
        compensate: make the gradient of the gates' embeddings independent of the slope, as HAT does.
        hard_tail: last share of the generative phase in which the gates are fixed at their binary values, so that the
            weights settle under the very mask that replay will use; 0 for none, as released.
        emb_clamp: bound on the gates' embeddings after each step (HAT has 6); none for no bound, as released.
        clip_norm: bound on the norm of all generator gradients together.
        act_gate: where a unit's gate acts: post (after the ReLU) or pre_bn.
        threshold: a gate is on from 0.5 (ge) or above it (gt).
        replay_mask: generate old classes with exact binary masks, or soft ones as released.
        replay_refresh: draw the replay set once a task, every epoch, or every step.
        expansion: per_task replaces what the task reserved; carry credits earlier roundings.
        ratio: whether the growth factor alpha_t counts neurons or params (weights).
        reinit_d: start the critic afresh in every task.
        reset_statistics: with ``reinit_d``, reset its running statistics too.
        critic_norm: normalisation in the critic: batch, group or none.
        d_statistics: which passes of a shared critic update its running statistics: all, or class only.
        bn_reestimate: batches of noise with which the generator's running statistics are taken anew with the binary
            mask before it freezes; 0 for none, as released.
        average_g: decay of a running average of the generator's free parameters, used from the task's end on; 0 for
            none.
        zero_unused: parameters that a loss does not reach get zero gradients, as in PyTorch 1.0.
        shuffle: new order of data and replay in every epoch.
        label: what the noise vector's one-hot names: the class within its task, so that nothing depends on tasks to
            come; or within_stream, the class among all of the stream, whose number must be known, as released.
        n_label: entries of the noise vector's one-hot; none is 10, or with ``label=within_stream`` the number of
            classes.
        solver_average: decay of a running average of a separate solver's weights, used for prediction; 0 for none.
        solver_scales, solver_angles: scales and angles of the scattering whose coefficients ``solver=discriminants``
            takes.
        solver_shrinkage: share of the mean variance that the discriminants' covariance is shrunk towards.
        memory_choice: which real samples are stored: random, as published; or herding (Rebuffi et al., CVPR 2017,
            Algorithm 4), on the critic's features, of length 1, at the task's end.
    """

    mask: Literal["weight", "unit"] = "weight"
    epochs: Count = 101
    steps_per_epoch: Count | None = None
    batch_size: Count = 64
    lr_d: Positive = 2e-3
    lr_g: Positive = 2e-3
    schedule: Schedule = "constant"
    beta1: BelowOne = 0.5
    beta2: BelowOne = 0.999
    n_critic: Count = 1
    lambda_gp: NonNegative = 1.0
    penalty_every: Count = 1
    lambda_adv: NonNegative = 1.0
    lambda_ru: NonNegative = 0.08
    g_class_weight: NonNegative | None = None
    class_on_old: bool = False
    feature_matching: NonNegative = 0.0
    d_class_on_fake: bool = False
    s_max: Positive = 1e4
    annealing: masks.Annealing = "shifted"
    local_annealing: bool | None = None
    mask_grad: Literal["autograd", "closed_form"] = "autograd"
    compensate: bool = True
    hard_tail: Share = 0.0
    emb_clamp: Positive | None = None
    clip_norm: Positive = 1e4
    act_gate: Literal["post", "pre_bn"] = "post"
    threshold: Literal["ge", "gt"] = "ge"
    replay_mask: Literal["exact", "soft"] = "exact"
    replay_refresh: Literal["task", "epoch", "step"] = "task"
    expansion: Literal["per_task", "carry"] = "per_task"
    ratio: Literal["neurons", "params"] = "neurons"
    reinit_d: bool = True
    reset_statistics: bool = True
    critic_norm: Norm = "batch"
    d_statistics: Literal["all", "class"] = "all"
    bn_reestimate: CountOrZero = 0
    average_g: BelowOne = 0.0
    zero_unused: bool = False
    shuffle: bool = True
    label: Literal["within_task", "within_stream"] = "within_task"
    n_label: Count | None = None
    solver: Literal["shared", "separate", "discriminants"] = "shared"
    solver_average: BelowOne = 0.0
    solver_scales: Count = 2
    solver_angles: Count = 4
    solver_shrinkage: Share = 0.01
    memory_ratio: Share = 0.0
    memory_budget: CountOrZero = 0
    memory_choice: Literal["random", "herding"] = "random"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.replay_refresh == "step" and (self.memory_ratio or self.memory_budget):
            raise ConfigError(
                "replay_refresh must be task or epoch where real samples are stored, got step, which generates every "
                "replayed sample: set replay_refresh=task."
            )
        if self.memory_ratio and self.memory_budget:
            raise ConfigError(
                f"only one of memory_ratio and memory_budget may be given, got {self.memory_ratio} and "
                f"{self.memory_budget}: leave one at 0."
            )
