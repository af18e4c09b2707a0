"""Copies of schedules, and of optimizers that have one."""

from __future__ import annotations

import copy
from typing import Any

import fusedopt as fo
import pytest
from copies import Model, assert_same_future, way

SCHEDULES = {
    "CosineDecay": {"initial_learning_rate": 0.1, "decay_steps": 10},
    "CosineDecayRestarts": {"initial_learning_rate": 0.1, "first_decay_steps": 10},
    "ExponentialDecay": {"initial_learning_rate": 0.1, "decay_steps": 10, "decay_rate": 0.5},
    "InverseTimeDecay": {"initial_learning_rate": 0.1, "decay_steps": 10, "decay_rate": 0.5},
    "PiecewiseConstantDecay": {"boundaries": [2, 4], "values": [1.0, 0.5, 0.1]},
    "PolynomialDecay": {"initial_learning_rate": 0.1, "decay_steps": 10},
}


class Scaled(fo.schedules.LearningRateSchedule):
    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.factor = 2

    def __call__(self, step: int) -> float:
        return float(self.factor * self.inner(step))


def test_every_schedule_is_here() -> None:
    base = fo.schedules.LearningRateSchedule
    own = {name for name, cls in vars(fo.schedules).items() if isinstance(cls, type)}
    assert {name for name in own if getattr(fo.schedules, name) is not base} == set(SCHEDULES)


@way
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name: str, way: Any) -> None:
    schedule = Scaled(getattr(fo.schedules, name)(**SCHEDULES[name]))
    schedule.factor = 3
    for copied in (way(schedule), copy.copy(schedule)):
        assert [copied(step) for step in range(30)] == [schedule(step) for step in range(30)]
    model = Model(fo.Adam(schedule))
    assert_same_future(model, way(model))
