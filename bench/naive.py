"""Rules in plain NumPy, temporaries and all, as one writes them where nobody measures.

The formulas are those of the exact tests, so a new rule joins by itself.
"""

from __future__ import annotations

import fusedopt as fo
import numpy as np
from workloads import Absent, Array, Ready, Workload, of_tests, optimizer_of

RULES = of_tests("reference").RULES
KNOWN_OPTIONS = {"weight_decay", "global_clipnorm", "use_ema"}


def in_numpy(workload: Workload, variables: list[Array], gradients: list[Array]) -> Ready:
    if workload.rule not in RULES:
        raise Absent("no formula")
    formula, slots_of, defaults = RULES[workload.rule]
    if unknown := workload.arguments.keys() - defaults.keys() - KNOWN_OPTIONS:
        raise Absent(f"no {' or '.join(sorted(unknown))} in NumPy here")
    optimizer = optimizer_of(workload)
    scale = optimizer.initial_scale if isinstance(optimizer, fo.LossScaleOptimizer) else None
    settings = getattr(optimizer, "inner_optimizer", optimizer).get_config()
    names = [name for group in slots_of(settings) for name in group]
    slots = [{name: np.zeros_like(w) for name in names} for w in variables]
    averages = [np.zeros_like(w) for w in variables if settings["use_ema"]]
    rate = settings["learning_rate"]
    keep = np.float32(1 - rate * (settings["weight_decay"] or 0.0))
    steps = 0

    def step() -> None:
        nonlocal steps
        grads = gradients
        if scale is not None:
            grads = [g.astype(np.float32) / np.float32(scale) for g in grads]
            if not all(np.isfinite(g).all() for g in grads):
                return
        if settings["global_clipnorm"] is not None:
            norm = sum(float(np.sum(g * g)) for g in grads) ** 0.5
            clip = np.float32(min(1.0, settings["global_clipnorm"] / norm))
            grads = [g * clip for g in grads]
        steps += 1
        for w, g, own in zip(variables, grads, slots, strict=True):
            if keep != 1:
                w[...] = w * keep
            formula(w, g, own, settings, rate, steps)
        for average, w in zip(averages, variables, strict=False):
            momentum = np.float32(settings["ema_momentum"] if steps > 1 else 0.0)
            average[...] = momentum * average + (1 - momentum) * w

    return Ready(step, variables, lambda: [slot for own in slots for slot in own.values()])
