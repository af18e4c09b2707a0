"""The cases: every rule with its variants, every common option, and how they are combined.

Exact tests, golden recordings and benchmarks all read them. The rules are those of `reference/`, so a rule that has a
formula there joins every one of them. The variants are those of `cases.txt`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import reference

_LINES = Path(__file__).with_name("cases.txt").read_text(encoding="utf-8").splitlines()
_TABLE = [line.split() for line in _LINES if line and not line.startswith("#")]
_KNOWN = {**reference.RULES, **reference.TORCH_RULES, "*": None}
if unknown := {rule for rule, *_ in _TABLE} - _KNOWN.keys():
    raise ValueError(f"cases.txt: expected rules, found {', '.join(sorted(unknown))}")


def _variants_of(rule: str) -> list[dict[str, Any]]:
    """Read the table's lines of a rule."""
    return [
        {name: json.loads(value) for name, _, value in (word.partition("=") for word in words)}
        for first, *words in _TABLE
        if first == rule
    ]


(_OTHER,) = _variants_of("*")


def _with_variants(rules: dict[str, reference.Rule]) -> dict[str, list[dict[str, Any]]]:
    return {
        rule: [
            {},
            *(
                _variants_of(rule)
                or [{name: _OTHER[name] for name in known.defaults if name in _OTHER}]
            ),
        ]
        for rule, known in rules.items()
    }


RULES = _with_variants(reference.RULES)
"""Each rule's own hyperparameters, one dictionary per variant."""

TORCH_RULES = _with_variants(reference.TORCH_RULES)
"""The same of the rules in PyTorch's numbers, which have no class of their own."""

LAZY_ONLY = {"Adafactor", "Ftrl", "Lamb", "ScheduleFreeAdamW"}
"""The rules that cannot give rows what they have missed."""

NO_FLOAT8 = {
    "Adadelta": "ratio",
    "Adafactor": "row and column",
    "Ftrl": "anew from its slots",
    "ScheduleFreeAdamW": "holds weights",
}
"""The rules that have no slots of 8 bits, and a word of the reason that they give."""

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


ROWWISE: list[Case] = [
    Case(rule, variant, _label(rule, variant, "plain"))
    for rule, variant in [
        ("RMSprop", {"rowwise": True}),
        ("RMSprop", {"rowwise": True, "momentum": 0.9}),
        ("Adam", {"rowwise": True}),
        ("AdamW", {"rowwise": True, "amsgrad": True}),
        ("Adagrad", {"rowwise": True}),
        ("Nadam", {"rowwise": True}),
        ("Yogi", {"rowwise": True}),
    ]
]
"""Variants with one second moment per row. No other library has them, so there are no recordings."""

VARIANTS: list[Case] = [
    *(
        Case(rule, variant, _label(rule, variant, "plain"))
        for rule, variants in RULES.items()
        for variant in variants
    ),
    *ROWWISE,
]
"""Every variant of every rule, without common options."""

CASES: list[Case] = [
    Case(rule, {**variant, **options}, _label(rule, variant, option))
    for rule, variants in RULES.items()
    for variant in variants
    for option, options in OPTIONS.items()
]
"""Every variant of every rule with every common option."""
