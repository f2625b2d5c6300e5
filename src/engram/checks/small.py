"""Options that make each registered method run in a blink, and the checks that a method need not pass.

Every option that decides what is computed is given, so that these runs do not change with defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Variants = Mapping[str, Mapping[str, Any]]

_DGM: dict[str, Any] = {
    "epochs": 2,
    "steps_per_epoch": None,
    "batch_size": 6,
    "lr_d": 2e-3,
    "lr_g": 2e-3,
    "beta1": 0.5,
    "beta2": 0.999,
    "n_critic": 1,
    "lambda_gp": 1.0,
    "lambda_adv": 1.0,
    "lambda_ru": 0.08,
    "g_class_weight": None,
    "d_class_on_fake": False,
    "s_max": 1e4,
    "annealing": "shifted",
    "local_annealing": None,
    "mask_grad": "autograd",
    "compensate": True,
    "hard_tail": 0.0,
    "emb_clamp": None,
    "clip_norm": 1e4,
    "act_gate": "post",
    "threshold": "ge",
    "replay_mask": "exact",
    "replay_refresh": "task",
    "expansion": "per_task",
    "ratio": "neurons",
    "reinit_d": True,
    "reset_statistics": True,
    "critic_norm": "batch",
    "d_statistics": "all",
    "bn_reestimate": 0,
    "average_g": 0.0,
    "zero_unused": False,
    "shuffle": True,
    "label": "within_stream",
    "n_label": None,
    "solver": "shared",
    "memory_ratio": 0.0,
    "memory_budget": 0,
}
_SOLVER: dict[str, Any] = {
    "solver": "separate",
    "solver_data": "generated",
    "solver_epochs": 2,
    "solver_steps": 3,
    "solver_batch": 6,
    "solver_samples": 8,
    "solver_lr": 1e-3,
    "solver_norm": "batch",
    "solver_start": "fresh",
    "solver_shift": 0.0,
    "solver_rotate": 0.0,
    "solver_average": 0.0,
    "solver_smoothing": 0.0,
}
_OFFICIAL: dict[str, Any] = {
    "annealing": "official",
    "act_gate": "pre_bn",
    "replay_mask": "soft",
    "reset_statistics": False,
    "shuffle": False,
    "zero_unused": True,
}
_FULL: dict[str, Any] = {
    **_SOLVER,
    "solver_data": "mixed",
    "solver_start": "continue",
    "solver_norm": "group",
    "solver_shift": 1.0,
    "solver_rotate": 10.0,
    "hard_tail": 0.4,
    "solver_average": 0.9,
    "solver_smoothing": 0.1,
    "average_g": 0.9,
    "bn_reestimate": 3,
    "mask_grad": "closed_form",
    "expansion": "carry",
    "d_statistics": "class",
}
_FIT: dict[str, Any] = {
    "epochs": 2,
    "steps_per_epoch": None,
    "batch_size": 5,
    "optimiser": "adam",
    "lr": 1e-3,
    "schedule": "constant",
}
_TRAIN: dict[str, Any] = {
    **_FIT,
    "momentum": 0.0,
    "weight_decay": 0.0,
    "keep_optimiser": False,
    "masked_head": False,
    "zero_head": False,
    "freeze_norms": False,
    "memory_per_class": 0,
    "memory_choice": "random",
    "memory_weight": "samples",
    "memory_share": 0.5,
}
_STORED: dict[str, Any] = {
    "optimiser": "sgd",
    "lr": 0.02,
    "momentum": 0.9,
    "keep_optimiser": True,
    "zero_head": True,
    "memory_per_class": 2,
    "memory_share": 0.4,
}
_SI: dict[str, Any] = {
    "c": 1.0,
    "xi": 1e-3,
    "clamp": "accumulated",
    "first_reference": "initial",
    "keep_omegas": False,
}
_ONLINE: dict[str, Any] = {"strength": 10.0, "fisher_samples": None}
_IMM: dict[str, Any] = {"ratio": 0.4, "statistics": "merge"}
_LWF: dict[str, Any] = {"strength": 1.0, "balance": "sum", "temperature": 2.0}
_RESCL: dict[str, Any] = {
    **_FIT,
    "later_epochs": None,
    "later_lr": None,
    "momentum": 0.0,
    "weight_decay": 0.0,
    "keep_optimiser": False,
    "decay": 0.5,
    "decay_step": "proximal",
    "temperature": 2.0,
    "old_tasks": "sum",
    "combine_epochs": None,
    "combine_lr": None,
    "alpha_start": (-0.5, 0.5),
    "per_channel": True,
    "trained": "both",
    "train_old_heads": False,
    "reestimate": True,
}
_HAT: dict[str, Any] = {
    "momentum": 0.0,
    "weight_decay": 0.0,
    "keep_optimiser": False,
    "s_max": 50.0,
    "c": 0.5,
    "compensate": True,
    "emb_clamp": 6.0,
    "clip_norm": 1e4,
}

#: Small options by method and variant; every variant is checked.
SMALL: dict[str, Variants] = {
    "dgmw": {
        "shared": _DGM,
        "separate": {**_DGM, **_FULL},
        "official": {**_DGM, **_OFFICIAL},
        "relaxed": {**_DGM, "memory_budget": 7, "replay_refresh": "epoch", "d_class_on_fake": True},
    },
    "dgma": {
        "shared": {**_DGM, "s_max": 1e5, "reinit_d": False, "replay_refresh": "step", "g_class_weight": 0.5},
        "separate": {**_DGM, **_SOLVER, "s_max": 400.0, "emb_clamp": 6.0, "solver_norm": "none"},
        "official": {**_DGM, **_OFFICIAL, "s_max": 1e5},
        "relaxed": {**_DGM, "s_max": 400.0, "memory_ratio": 0.5, "ratio": "params", "critic_norm": "group"},
    },
    "finetune": {
        "adam": {**_FIT, "momentum": 0.0, "keep_optimiser": False},
        "sgd": {
            **_FIT,
            "optimiser": "sgd",
            "lr": 0.05,
            "momentum": 0.9,
            "schedule": "cosine",
            "keep_optimiser": True,
            "steps_per_epoch": 3,
        },
    },
    "joint": {
        "adam": {**_FIT, "at": None},
        "cosine": {**_FIT, "schedule": "cosine", "steps_per_epoch": 3, "at": None},
    },
    "scratch": {
        "adam": {**_FIT, "momentum": 0.0, "weight_decay": 0.0, "keep_optimiser": False, "zero_head": False},
        "sgd": {
            **_FIT,
            "optimiser": "sgd",
            "lr": 0.05,
            "momentum": 0.9,
            "weight_decay": 0.0,
            "keep_optimiser": False,
            "zero_head": True,
        },
    },
}

SMALL |= {
    "si": {
        "adam": {**_TRAIN, **_SI},
        "omegas": {**_TRAIN, **_SI, "c": 0.5, "xi": 0.1, "clamp": "increment", "keep_omegas": True},
        "stored": {
            **_TRAIN,
            **_STORED,
            **_SI,
            "c": 0.5,
            "xi": 0.1,
            "clamp": "none",
            "first_reference": "zero",
        },
    },
    "ewc": {
        "sampled": {
            **_TRAIN,
            "strength": 10.0,
            "penalty_step": "gradient",
            "fisher_labels": "sampled",
            "fisher_samples": None,
        },
        "stored": {
            **_TRAIN,
            **_STORED,
            "strength": 10.0,
            "penalty_step": "proximal",
            "fisher_labels": "exact",
            "fisher_samples": 9,
        },
    },
    "ewc-online": {
        "sampled": {**_TRAIN, **_ONLINE, "gamma": 0.9, "normalise": "none", "fisher_labels": "sampled"},
        "stored": {
            **_TRAIN,
            **_STORED,
            **_ONLINE,
            "gamma": 1.0,
            "normalise": "max",
            "fisher_labels": "empirical",
        },
    },
    "rwalk": {
        "adam": {**_TRAIN, "strength": 1.0, "alpha": 0.9, "interval": 3, "damping": 1e-3, "normalise": True},
        "stored": {
            **_TRAIN,
            **_STORED,
            "memory_choice": "mean_of_features",
            "memory_weight": "classes",
            "strength": 0.01,
            "alpha": 0.5,
            "interval": 2,
            "damping": 0.1,
            "normalise": False,
        },
    },
    "mas": {
        "adam": {**_TRAIN, "strength": 1.0, "samples": None},
        "stored": {**_TRAIN, **_STORED, "strength": 0.1, "samples": 9},
    },
    "lwf": {
        "adam": {**_TRAIN, **_LWF, "temperature_squared": False, "distil": "per_head", "warmup_epochs": 1},
        "stored": {
            **_TRAIN,
            **_STORED,
            **_LWF,
            "temperature_squared": True,
            "distil": "per_head",
            "warmup_epochs": 2,
            "freeze_norms": True,
        },
        # Only with task labels.
        "joint": {**_TRAIN, **_LWF, "temperature_squared": False, "distil": "joint", "warmup_epochs": 1},
    },
    "rescl": {
        "adam": _RESCL,
        "sgd": {
            **_RESCL,
            "optimiser": "sgd",
            "lr": 0.05,
            "momentum": 0.9,
            "weight_decay": 1e-3,
            "keep_optimiser": True,
            "schedule": "cosine",
            "later_lr": 0.02,
            "later_epochs": 3,
            "decay_step": "subgradient",
            "temperature": 1.0,
            "old_tasks": "mean",
            "combine_epochs": 2,
            "combine_lr": 0.01,
            "alpha_start": (-0.25, 0.75),
            "per_channel": False,
            "train_old_heads": True,
            "reestimate": False,
        },
    },
    "l2sp": {
        "adam": {**_TRAIN, "strength": 1.0, "head_strength": 0.0},
        "stored": {**_TRAIN, **_STORED, "strength": 0.1, "head_strength": 0.5},
    },
    "imm-mean": {
        "adam": {**_TRAIN, **_IMM, "l2": 0.1},
        "stored": {**_TRAIN, **_STORED, **_IMM, "ratio": None, "l2": 1.0, "statistics": "recompute"},
    },
    "imm-mode": {
        "adam": {**_TRAIN, **_IMM, "l2": 0.1, "fisher_samples": None},
        "stored": {
            **_TRAIN,
            **_STORED,
            **_IMM,
            "ratio": None,
            "l2": 1.0,
            "statistics": "recompute",
            "fisher_samples": 9,
        },
    },
    "averaging": {"adam": {**_TRAIN, **_IMM}, "stored": {**_TRAIN, **_STORED, **_IMM, "ratio": None}},
    "frozen": {"adam": _TRAIN, "stored": {**_TRAIN, **_STORED, "weight_decay": 0.01}},
    "hat": {
        "sgd": {**_FIT, **_HAT, "optimiser": "sgd", "lr": 0.05, "masks": "binary", "annealing": "paper"},
        "adam": {
            **_FIT,
            **_HAT,
            "momentum": 0.0,
            "weight_decay": 0.01,
            "keep_optimiser": True,
            "masks": "binary",
            "annealing": "official",
        },
        "soft": {**_FIT, **_HAT, "optimiser": "sgd", "lr": 0.05, "masks": "soft", "annealing": "paper"},
    },
}

_FRESH = "every task starts from fresh weights on all data so far: that is what joint training is"
_REINIT = "the critic, which is the classifier, starts afresh in every task (DGM, released settings)"
_SOLVER_FRESH = "the solver starts afresh in every task and is trained on generated samples of all classes"

#: Checks that a method need not pass, with the reason: by method, variant ("" is all variants) and check.
SKIPPED: dict[tuple[str, str, str], str] = {
    ("joint", "", "growing_keeps_old_logits"): _FRESH,
    ("dgmw", "shared", "growing_keeps_old_logits"): _REINIT,
    ("dgmw", "official", "growing_keeps_old_logits"): _REINIT,
    ("dgmw", "relaxed", "growing_keeps_old_logits"): _REINIT,
    ("dgma", "official", "growing_keeps_old_logits"): _REINIT,
    ("dgma", "relaxed", "growing_keeps_old_logits"): _REINIT,
    ("dgma", "separate", "growing_keeps_old_logits"): _SOLVER_FRESH,
}
