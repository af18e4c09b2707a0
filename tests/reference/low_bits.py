"""Which slots of a rule lie in fewer bits, and the guard that keeps an update bounded whatever they lose."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from reference.float8 import Guard
from reference.rule import Array
from reference.slot_codes import SMALLEST_FLOAT8, CodedSlots

UNSIGNED = {"velocity", "velocity_hat", "accumulator", "norm"}
"""The slots that are never below zero."""


def code_of(a: dict[str, Any], name: str, w: Array) -> str:
    """Return how the slots of a variable lie in memory."""
    if w.dtype == np.float64:
        return "float32"
    named = (a["slot_dtypes"] or {}).get(name)
    if named is not None:
        return str(named)
    is_small = a["slot_dtype"] == "float8" and w.size < SMALLEST_FLOAT8
    return "float32" if is_small else str(a["slot_dtype"])


def coded_slots(code: str, w: Array, slots: dict[str, Array], rule: str) -> CodedSlots | None:
    """Return a variable's slots in fewer bits, each at its nearest, or None if all stay as they are."""
    if code == "float32":
        return None
    is_derived = rule == "Adafactor" and w.ndim > 1
    streams = {
        name: 1 + k
        for k, (name, slot) in enumerate(slots.items())
        if slot.shape == w.shape and np.issubdtype(slot.dtype, np.floating) and not is_derived
    }
    if not streams:
        return None
    coded = CodedSlots(code, w.shape, {name: name not in UNSIGNED for name in streams}, streams)
    coded.load({name: slots[name] for name in streams})
    return coded


def guard_of(rule: str, a: dict[str, Any], t: int, coded: CodedSlots) -> Guard | None:
    """Return what the rule's update is bounded by after so many updates."""
    if rule == "Adamax":
        beta_1, beta_2 = a["beta_1"], a["beta_2"]
        if not beta_2:
            return None
        share = math.fsum((beta_1 / beta_2) ** j for j in range(t))
        return Guard("momentum", "norm", 1, 1 / (2 * (1 - beta_1) * share))
    if not {"momentum", "velocity"} <= coded.signs.keys() or rule == "RMSprop":
        return None
    prefix = "adam_" if rule == "Muon" else ""
    beta_1, beta_2 = a[prefix + "beta_1"], a[prefix + "beta_2"]
    if not beta_2:
        return None
    # By Cauchy and Schwarz, momentum being a weighted sum of what velocity is the same of in squares.
    # Over all steps, if that has a sum.
    q = beta_1 * beta_1 / beta_2
    share = 1 / (1 - q) if q < 1 else math.fsum(q**j for j in range(t))
    return Guard("momentum", "velocity", 2, (1 - beta_2) / ((1 - beta_1) ** 2 * share))
