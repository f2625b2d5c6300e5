"""Fine-tuning: the lower bound. Every task is learned with plain cross entropy, nothing protects the old ones.

Source: the baseline of every paper here, such as "vanilla" in Chaudhry et al. (ECCV 2018), Sec. 6; with stored samples
(``memory_per_class``) their "vanilla-S".

Departures: where a task holds a single class, the loss is taken over all classes seen, old rows of the head kept.
Cost: none beyond training.
"""

from __future__ import annotations

from dataclasses import dataclass

from engram.methods.registry import Entry
from engram.parts import small
from engram.parts.fitting import TrainOptions
from engram.parts.one_network import PlainTraining


@dataclass(frozen=True)
class FinetuneConfig(TrainOptions):
    """Options of fine-tuning."""


class Finetune(PlainTraining):
    """Cross entropy on the current task, nothing else."""

    Config = FinetuneConfig
    config: FinetuneConfig


ENTRIES = {
    "finetune": Entry(
        Finetune,
        FinetuneConfig(),
        "plain training on each task: the lower bound",
        small={
            "adam": f"{small.FIT}, momentum=0, keep_optimiser=false",
            "sgd": f"{small.FIT}, optimiser=sgd, lr=0.05, momentum=0.9, schedule=cosine, keep_optimiser=true, "
            "steps_per_epoch=3",
        },
    )
}
