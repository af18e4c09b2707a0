"""The memory of a process does not grow with its steps."""

from __future__ import annotations

import gc
import tracemalloc
import warnings

import fusedopt as fo
import numpy as np
from machine import python

MIXTURE = """
import gc, sys, warnings
import numpy as np
import fusedopt as fo
warnings.simplefilter("ignore")

class Shared:
    def __init__(self, array):
        self.array = array
    def __array__(self, dtype=None, copy=None):
        return self.array

w, x = np.ones((20, 30), np.float32), np.ones(7)
h = np.ones(9, np.float16)
inner = fo.Adam(lambda: 0.001, beta_1=lambda: 0.9, use_ema=True, global_clipnorm=1.0)
optimizer = fo.LossScaleOptimizer(inner)
optimizer.build({"w": w, "x": x, "h": h})
g, k, l = np.ones((30, 20)).T, np.ones(7, np.float32), np.ones(9, np.float16)
bad = np.ones(3)

def mixture(count):
    for _ in range(count):
        optimizer.apply([g, k, l])
        optimizer.apply([g, None, l])
        optimizer.apply({"x": memoryview(k)})
        optimizer.apply_gradients([(Shared(l), h), (g, w[:])])
        optimizer.variables, optimizer.iterations, optimizer.learning_rate
        optimizer.set_weights(optimizer.variables)
        optimizer.stateless_apply(optimizer.variables, [g, k, l], [w, x, h])
        optimizer.finalize_variable_values([w, x, h])
        for wrong in ([g], [bad, bad, bad], [None] * 3, [g, k, "h"], [x, x, x]):
            try:
                optimizer.apply(wrong)
            except (TypeError, ValueError):
                pass
        other = fo.SGD(momentum=0.9)
        other.exclude_from_weight_decay([w])
        other.build([w, x])
        other.apply([g, k])
"""


def test_memory_does_not_grow() -> None:
    program = f"""{MIXTURE}
try:
    import resource
except ImportError:
    resource = None

def peak():
    if resource is None:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def use():
    gc.collect()
    return peak(), sys.getallocatedblocks()

mixture(1000)
before = use()
mixture(2000)
after = use()
print(after[0] - before[0], after[1] - before[1])
"""
    grown, objects = map(int, python(program))
    assert grown < 1_500_000
    assert objects < 1000


def test_step_allocates_nothing_that_stays() -> None:
    w, g = np.ones(1000, np.float32), np.ones(1000, np.float32)
    optimizer = fo.AdamW(global_clipnorm=1.0)
    optimizer.build([w])
    gradients = [g]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.apply(gradients)
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(100):
                optimizer.apply(gradients)
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
    assert grown < 2000
