"""A classifier of a generative method's own, trained on replay in a phase after the generator has learned the task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engram.core.contract import (
    Batch,
    Context,
    Optimiser,
    Phase,
    Player,
    Step,
    TaskInfo,
    Terms,
    Update,
)
from engram.core.network import Norm
from engram.core.options import Count, CountOrZero, NonNegative, Positive, Share
from engram.core.values import Checked
from engram.parts.classifier import Classifier
from engram.parts.images import Augmentation
from engram.parts.statistics import reestimated_statistics

CALIBRATION_BATCHES = 50


@dataclass(frozen=True)
class SolverOptions(Checked):
    """Options of a separate solver.

    Further:
        solver_data: what a separate solver learns from: generated samples of all classes, or mixed (new real, old
            generated).
        solver_epochs: epochs for which a separate solver is trained after each task.
        solver_steps: steps in an epoch of a separate solver.
        solver_batch: samples in a step of a separate solver.
        solver_samples: generated samples of each class that a separate solver is trained on at a time, or that
            discriminants are fitted to.
        solver_lr: learning rate of a separate solver at its start; it falls to 0 as a cosine.
        solver_norm: normalisation in a separate solver: batch, group or none.
        solver_start: whether a separate solver has fresh weights in every task, or continues with its old ones.
        solver_shift: pixels by which a separate solver's training images are shifted at random, at most.
        solver_rotate: degrees by which a separate solver's training images are rotated at random, at most.
        solver_mirror: mirror every second training image of a separate solver: for photographs, not for digits or
            letters.
        solver_colour: share by which contrast and brightness of each channel of a separate solver's training images
            change at random, at most.
        solver_blur: passes of a 1 2 1 filter over a separate solver's training images, each of which is mixed with its
            blurred twin in parts drawn for it. A generator leaves fine traces that tell its classes apart and that
            real images lack: blur and noise hide them.
        solver_noise: standard deviation, at most, of Gaussian noise on a separate solver's training images, whose
            pixels lie in [-1, 1].
        solver_cut: side of a square, in pixels, that is grey in each of a separate solver's training images, somewhere.
        solver_smoothing: label smoothing of a separate solver.
    """

    solver_data: Literal["generated", "mixed"] = "generated"
    solver_epochs: Count = 5
    solver_steps: Count = 100
    solver_batch: Count = 64
    solver_samples: Count = 500
    solver_lr: Positive = 1e-3
    solver_norm: Norm = "batch"
    solver_start: Literal["fresh", "continue"] = "fresh"
    solver_shift: NonNegative = 0.0
    solver_rotate: NonNegative = 0.0
    solver_mirror: bool = False
    solver_colour: Share = 0.0
    solver_blur: CountOrZero = 0
    solver_noise: NonNegative = 0.0
    solver_cut: CountOrZero = 0
    solver_smoothing: Share = 0.0


class Solver(Classifier):
    """A classifier and how it is trained: one phase named ``solver``, on the pool and with the player of that name."""

    def __init__(self, options: SolverOptions, context: Context, task: int = 0) -> None:
        super().__init__(context, norm=options.solver_norm, name=f"solver-{task}" if task else "solver")
        c = options
        self.augment = Augmentation(
            shift=c.solver_shift,
            rotate=c.solver_rotate,
            mirror=c.solver_mirror,
            colour=c.solver_colour,
            blur=c.solver_blur,
            noise=c.solver_noise,
            cut=c.solver_cut,
        )
        self.augment.check(context.image_shape, "solver_")
        self.options, self.context = options, context

    def for_task(self, task: TaskInfo) -> Solver:
        """The one that learns ``task``: itself or, with fresh weights, another; with rows for all labels seen."""
        fresh = self.options.solver_start == "fresh" and task.index > 0
        solver = Solver(self.options, self.context, task.index) if fresh else self
        solver.head.grow(task.n_seen, self.context.seed, task.index)
        return solver.to(next(self.parameters()).device)

    def phase(self) -> Phase:
        """New samples in every epoch, augmented."""
        c, noise = self.options, self.augment.drawn(self.context.image_shape)
        learn = Update("solver", "solver", self.loss, ("solver",), noise=noise)
        return Phase(
            "solver", c.solver_epochs, (learn,), c.solver_batch, c.solver_steps, "solver", refresh="epoch"
        )

    def player(self, parameters: Mapping[str, nn.Parameter]) -> Player:
        """Its parameters, by their names in the method."""
        return Player(parameters, Optimiser("adam", self.options.solver_lr, schedule="cosine"))

    def loss(self, batch: Batch, step: Step) -> Terms:
        """Cross entropy over all classes seen, on augmented images if asked."""
        logits = self(self.augment(batch.x, batch.noise), (0, step.task.n_seen))
        return {"ce": F.cross_entropy(logits, batch.y, label_smoothing=self.options.solver_smoothing)}

    def recalibrate(self, generate: Callable[[Tensor], Tensor], noise: torch.Generator) -> None:
        """Take running statistics anew, as averaged weights need: on generated samples of all classes.

        ``generate`` maps labels [N], which ``noise`` chooses, to images [N, C, H, W] in the network's range.
        """
        size, n_seen = (self.options.solver_batch,), self.head.n_outputs
        with reestimated_statistics(self), torch.no_grad():
            for _ in range(CALIBRATION_BATCHES):
                y = torch.randint(0, n_seen, size, generator=noise, device=noise.device)
                self.trunk(generate(y))
