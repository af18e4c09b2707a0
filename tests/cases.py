"""The one table of cases: every rule with its variants, every common option, and how they are combined.

Exact tests, golden recordings and benchmarks all read it. The rules are those of `reference.py`, so a rule that has a
formula there joins every one of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import reference

# Another value of what several rules have. A rule has its defaults and these, unless VARIANTS_OF says more.
OTHER: dict[str, float] = {
    "beta_1": 0.8,
    "beta_2": 0.95,
    "epsilon": 1e-5,
    "initial_accumulator_value": 0.2,
}

# The rules whose variants keep other state, or that need other values.
VARIANTS_OF: dict[str, list[dict[str, Any]]] = {
    "SGD": [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}],
    "RMSprop": [
        {},
        {"momentum": 0.9},
        {"centered": True},
        {"momentum": 0.9, "centered": True, "rho": 0.8, "epsilon": 1e-5},
    ],
    "Adam": [{}, {"amsgrad": True}, {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-5}],
    "AdamW": [{}, {"amsgrad": True, "weight_decay": 0.01}],
    "Adagrad": [{}, {"initial_accumulator_value": 0.0, "epsilon": 1e-5}],
    "Adadelta": [{}, {"rho": 0.8, "epsilon": 1e-4}],
    "Ftrl": [
        {},
        {
            "initial_accumulator_value": 0.2,
            "l1_regularization_strength": 0.05,
            "l2_regularization_strength": 0.1,
            "l2_shrinkage_regularization_strength": 0.02,
            "beta": 0.3,
        },
        {"learning_rate_power": -0.3, "l1_regularization_strength": 0.01},
    ],
    "ScheduleFreeAdamW": [{}, {"beta_1": 0.8, "beta_2": 0.95, "warmup_steps": 4}],
    "Adafactor": [
        {},
        {"beta_2_decay": -0.5, "epsilon_1": 1e-6, "epsilon_2": 0.01, "clip_threshold": 0.7},
    ],
    "Muon": [
        {},
        {
            "nesterov": False,
            "ns_steps": 2,
            "momentum": 0.8,
            "adam_lr_ratio": 0.5,
            "adam_weight_decay": None,
            "rms_rate": None,
        },
    ],
}

RULES: dict[str, list[dict[str, Any]]] = {
    rule: VARIANTS_OF.get(rule)
    or [{}, {name: OTHER[name] for name in known.defaults if name in OTHER}]
    for rule, known in reference.RULES.items()
}
"""Each rule's own hyperparameters, one dictionary per variant."""

KERAS_RULES = [rule for rule, known in reference.RULES.items() if known.model == "keras"]
"""The rules that Keras has."""

# Every common option by itself, then the ones that meet inside a step.
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "weight_decay": {"weight_decay": 0.02},
    "clipnorm": {"clipnorm": 0.5},
    "clipvalue": {"clipvalue": 0.3},
    "global_clipnorm": {"global_clipnorm": 0.7},
    "ema": {"use_ema": True, "ema_momentum": 0.9},
    "ema_overwrite": {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 3},
    "loss_scale_factor": {"loss_scale_factor": 1024.0},
    "accumulation": {"gradient_accumulation_steps": 3},
    "accumulation_everything": {
        "weight_decay": 0.02,
        "global_clipnorm": 0.7,
        "use_ema": True,
        "ema_momentum": 0.9,
        "ema_overwrite_frequency": 2,
        "loss_scale_factor": 1000.0,
        "gradient_accumulation_steps": 2,
    },
    "everything": {
        "weight_decay": 0.02,
        "clipnorm": 0.5,
        "use_ema": True,
        "ema_momentum": 0.9,
        "ema_overwrite_frequency": 4,
        "loss_scale_factor": 256.0,
    },
}


class Case(NamedTuple):
    """One optimizer configuration: a rule, its own arguments and the common ones."""

    rule: str
    arguments: dict[str, Any]
    label: str

    def __str__(self) -> str:
        return self.label


def _label(rule: str, variant: dict[str, Any], option: str) -> str:
    own = ",".join(f"{key}={value}" for key, value in variant.items())
    return f"{rule}({own})-{option}"


VARIANTS: list[Case] = [
    Case(rule, variant, _label(rule, variant, "plain"))
    for rule, variants in RULES.items()
    for variant in variants
]
"""Every variant of every rule, without common options."""

CASES: list[Case] = [
    Case(rule, {**variant, **options}, _label(rule, variant, option))
    for rule, variants in RULES.items()
    for variant in variants
    for option, options in OPTIONS.items()
]
"""Every variant of every rule with every common option."""
