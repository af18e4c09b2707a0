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


def test_schedules_and_maps_show_their_arguments() -> None:
    schedule = fo.schedules.CosineDecay(0.1, 10, alpha=0.5)
    assert repr(schedule) == ("CosineDecay(initial_learning_rate=0.1, decay_steps=10, alpha=0.5)")
    pieces = fo.schedules.PiecewiseConstantDecay([5], [0.1, 0.01])
    assert repr(pieces) == "PiecewiseConstantDecay(boundaries=[5], values=[0.1, 0.01])"
    optimizers = fo.OptimizerMap(fo.SGD(schedule), {"b": fo.Adam(beta_1=0.5)})
    assert repr(fo.MultiOptimizer(optimizers)) == (
        f"<MultiOptimizer(optimizer_map=OptimizerMap(<SGD(learning_rate={schedule!r}), not built>, "
        "{'b': <Adam(beta_1=0.5), not built>})), not built>"
    )


def test_schedules_of_your_own() -> None:
    class Halving(fo.schedules.LearningRateSchedule):
        def __call__(self, step: int) -> float:
            return 0.5**step

    class Named(Halving):
        start = 3

        def get_config(self) -> dict[str, int]:
            return {"start": self.start}

    assert "Halving object at" in repr(Halving())
    assert repr(Named()) == "Named(start=3)"
    del Named.start
    assert "object at" in repr(Named())
