"""The `repr` of an optimizer shows what differs from the defaults, and calls no function."""

from __future__ import annotations

import fusedopt as fo
import numpy as np


def test_repr() -> None:
    optimizer = fo.AdamW(name="mine")
    assert repr(optimizer) == "<AdamW(name='mine'), not built>"
    optimizer.build([np.zeros(1)])
    optimizer.apply([np.zeros(1)])
    optimizer.beta_1 = 0.5
    assert repr(optimizer) == "<AdamW(beta_1=0.5, name='mine'), 1 iterations>"
    wrapped = fo.LossScaleOptimizer(fo.SGD(fo.schedules.CosineDecay(0.1, 10)), initial_scale=2.0)
    assert repr(wrapped).startswith("<LossScaleOptimizer(inner_optimizer=<SGD(learning_rate=")
    assert "initial_scale=2.0" in repr(wrapped)


def test_repr_calls_no_function() -> None:
    def fail() -> float:
        raise AssertionError("nobody asked for the learning rate")

    optimizer = fo.SGD(learning_rate=fail)
    optimizer.build([np.zeros(1)])
    assert "SGD" in repr(optimizer)
    assert len(optimizer.variables) == 1
