"""iCaRL: exemplars chosen by herding, distillation by binary cross entropy, classification by the nearest mean.

S.-A. Rebuffi, A. Kolesnikov, G. Sperl, C. H. Lampert: "iCaRL: Incremental Classifier and Representation Learning",
CVPR 2017, arXiv 1611.07725 ("iCaRL"). Here: nearest mean of exemplars (Algorithm 1), training (Algorithms 2 and 3),
herding (Algorithm 4), reduction of the exemplar sets (Algorithm 5). Its ablations are options: hybrid1 is
``classify=outputs``, hybrid2 ``distil=false``, hybrid3 both. iCaRL-S of Chaudhry et al. (ECCV 2018) is
``memory_per_class``, a fixed number of exemplars a class instead of a budget.

Departures: the budget K is a bound, floor(K / t) exemplars a class, where the released code rounds up; herding picks no
image twice. As in the released code the outputs read features as they are, and only herding and means read them
normalised; the loss is a mean over samples and outputs, so that the rate need not shrink with their number. The output
layer grows, where the released code has all outputs from the start. Means do not average mirror images. A class cannot
be answered before its exemplars are chosen, at the end of its task. Old outputs on new images are computed by a frozen
copy instead of stored: without augmentation the same numbers.
Cost: the exemplars; a frozen copy of the network and its forward pass in every step; one pass over a task at its end.

Shapes: B batch, C labels seen, F features.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from engram.core.contract import (
    Batch,
    Context,
    Method,
    Phase,
    Player,
    Reads,
    Samples,
    Step,
    TaskInfo,
    Terms,
    evaluating,
    named_parameters,
)
from engram.core.options import CountOrZero
from engram.errors import ConfigError
from engram.methods.registry import Entry
from engram.parts import small
from engram.parts.classifier import Classifier, spread
from engram.parts.fitting import FitOptions
from engram.parts.memory import CHUNK, SampleMemory
from engram.parts.teacher import Teacher


@dataclass(frozen=True)
class IcarlConfig(FitOptions):
    """Options of iCaRL.

    Args:
        memory_budget: exemplars K over all classes together; floor(K / t) of each when t are known.
        memory_per_class: exemplars of each class instead of a budget ("iCaRL-S"); 0 for a budget.
        classify: how images are classified: by the nearest_mean of exemplars, or by the network's outputs (hybrid1).
        distil: keep the old outputs (Algorithm 3); false trains old outputs on labels too (hybrid2).
    """

    memory_budget: CountOrZero = 2000
    memory_per_class: CountOrZero = 0
    classify: Literal["nearest_mean", "outputs"] = "nearest_mean"
    distil: bool = True


def targets(y: Tensor, n_seen: int, old: Tensor | None) -> Tensor:
    """Targets [B, C] of labels ``y`` [B]: one-hot, but the values ``old`` [B, c] for the first c labels."""
    hot = F.one_hot(y, n_seen).float()
    return hot if old is None else torch.cat([old, hot[:, old.shape[1] :]], 1)


class Icarl(Method):
    """Binary cross entropy on new labels and old outputs; the class whose exemplars' mean feature is nearest."""

    Config = IcarlConfig
    config: IcarlConfig
    reads: Reads = "memory"
    scenarios: ClassVar = frozenset({"class", "task"})

    def __init__(self, config: IcarlConfig, context: Context) -> None:
        super().__init__(config, context)
        self.net = Classifier(context)
        self.teacher = Teacher(lambda: Classifier(context))
        self.memory = SampleMemory(
            context.image_shape, None if config.memory_per_class else config.memory_budget
        )

    def begin_task(self, task: TaskInfo, data: Samples) -> None:
        budget = self.config.memory_budget
        if not self.config.memory_per_class and budget < task.n_seen:
            raise ConfigError(
                f"memory_budget must be at least one exemplar for each of the {task.n_seen} classes, got {budget}: "
                "start again with a larger budget."
            )
        if task.index and self.config.distil:
            self.teacher.learn(self.net)
        self.net.grow(task)

    def phases(self, task: TaskInfo, n_samples: int) -> tuple[Phase, ...]:
        plain = self.config.for_task(task).phase(self.loss)
        return (replace(plain, updates=(replace(plain.updates[0], pools=("union",)),), primary="union"),)

    def players(self, task: TaskInfo, phase: str) -> dict[str, Player]:
        return {"net": self.config.for_task(task).player(named_parameters(self, "net."))}

    def pools(self, task: TaskInfo, phase: str, epoch: int, data: Samples) -> dict[str, Samples]:
        """D of Algorithm 3: the task's samples and all exemplars."""
        m = self.memory
        return {"union": Samples(torch.cat([data.x, m.images]), torch.cat([data.y, m.labels]))}

    def loss(self, batch: Batch, step: Step) -> Terms:
        """Minus the mean of q log g + (1 - q) log(1 - g), q the label or the old output (Algorithm 3)."""
        seen, old = (0, step.task.n_seen), None
        if step.task.index and self.config.distil:
            old = self.teacher(batch.x, (0, step.task.start)).sigmoid()
        wanted = targets(batch.y, step.task.n_seen, old)
        return {"bce": F.binary_cross_entropy_with_logits(self.net(batch.x, seen), wanted)}

    def end_task(self, task: TaskInfo, data: Samples) -> None:
        """Old sets are cut to their first exemplars (Algorithm 5), new ones herded (Algorithm 4)."""
        per_class = self.config.memory_per_class or self.config.memory_budget // task.n_seen
        self.memory.add_herded(data, per_class, self.features)
        self.teacher.forget()

    def features(self, x: Tensor) -> Tensor:
        """phi [B, F], of length 1, of samples as they are stored."""
        weight = self.net.head.layers[0].weight
        with evaluating(self.net):
            return F.normalize(self.net.trunk(self.context.network.normalise(x).to(weight.dtype)))

    @cached_property
    def means(self) -> Tensor:
        """mu_y [C, F], of length 1 (Algorithm 1); NaN for a class without exemplars."""
        weight = self.net.head.layers[0].weight
        y = F.one_hot(self.memory.labels, self.net.head.n_outputs).to(weight.dtype)
        total = weight.new_zeros((y.shape[1], self.net.head.n_features))
        for images, hot in zip(self.memory.images.split(CHUNK), y.split(CHUNK), strict=True):
            total += hot.T @ self.features(images)
        return F.normalize(total / y.sum(0)[:, None])

    def predict(self, x: Tensor, *, task: TaskInfo | None = None) -> Tensor:
        """The cosine of each image's feature with each class's mean: the larger, the nearer. Or the outputs."""
        if self.config.classify == "outputs":
            return self.net.predict(x, task)
        with evaluating(self.net):
            cosine = F.normalize(self.net.trunk(x)) @ self.means.T
        known = cosine.masked_fill(cosine.isnan(), -torch.inf)
        active = (0, known.shape[1]) if task is None else task.active
        return spread(known[:, active[0] : active[1]], active, known.shape[1])

    def facts(self) -> dict[str, str]:
        c = self.config
        stored = f"{c.memory_per_class} a class" if c.memory_per_class else f"{c.memory_budget}"
        left_out = [] if c.distil else ["no distillation"]
        left_out += [] if c.classify == "nearest_mean" else ["answers of the outputs"]
        return {
            "stored samples": f"{stored}, herded",
            **({"left out": ", ".join(left_out)} if left_out else {}),
        }


_SMALL = f"{small.FIT}, memory_budget=7"

ENTRIES = {
    "icarl": Entry(
        Icarl,
        IcarlConfig(),
        "iCaRL: herded exemplars, distillation, nearest mean of exemplars (Rebuffi et al., CVPR 2017)",
        small={
            "budget": f"{_SMALL}, memory_per_class=0, classify=nearest_mean, distil=true",
            "s": f"{_SMALL}, memory_per_class=2, classify=outputs, distil=false",
        },
    )
}
