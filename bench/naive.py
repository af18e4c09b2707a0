"""Rules in plain NumPy, temporaries and all, as one writes them where nobody measures.

The formulas are those of the exact tests, so a new rule joins by itself.
"""

from __future__ import annotations

import fusedopt as fo
import numpy as np
from fusedopt.bench.workload import Absent, Array, Ready, Workload, optimizer_of
from workloads import of_tests

_reference = of_tests("reference")
KNOWN_OPTIONS = {"weight_decay", "global_clipnorm", "use_ema"}

# The tests' sum has the library's order of additions, and takes its time.
vars(of_tests("reference.sums"))["sum_of_squares"] = lambda array: float(np.sum(array * array))


def in_numpy(workload: Workload, variables: list[Array], gradients: list[Array]) -> Ready:
    if workload.rule not in _reference.RULES:
        raise Absent("no formula")
    optimizer = optimizer_of(workload)
    scale = optimizer.initial_scale if isinstance(optimizer, fo.LossScaleOptimizer) else None
    start = _reference.Reference(workload.rule, **workload.arguments)
    unknown = [
        name
        for name, default in _reference.OPTIONS.items()
        if name in workload.arguments.keys() - KNOWN_OPTIONS and start.a[name] != default
    ]
    if unknown:
        raise Absent(f"no {' or '.join(unknown)} in NumPy here")
    start.build(variables)
    formula, settings, slots = start.formula, start.a, start.slots
    averages = start.averages if settings["use_ema"] else []
    del start
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

    return Ready(step, variables, lambda: [[*own.values()] for own in slots])
