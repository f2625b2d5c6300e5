"""Plain training that takes a blink, for the contract suite: options as text, in the form of ``NAME:option=value``."""

from __future__ import annotations

FIT = "epochs=2, steps_per_epoch=none, batch_size=5, optimiser=adam, lr=1e-3, schedule=constant"
TRAIN = (
    f"{FIT}, momentum=0, weight_decay=0, keep_optimiser=false, masked_head=false, zero_head=false, "
    "freeze_norms=false, memory_per_class=0, memory_choice=random, memory_weight=samples, memory_share=0.5"
)
# With stored samples, and an optimiser that carries moments from task to task.
STORED = (
    f"{TRAIN}, optimiser=sgd, lr=0.02, momentum=0.9, keep_optimiser=true, zero_head=true, "
    "memory_per_class=2, memory_share=0.4"
)
# A pass over the samples, whose result nothing that is drawn changes.
PASS = "batch_size=5, precision=float32, memory_limit=1"
NO_SEED = "nothing is drawn: the result does not depend on the seed"
