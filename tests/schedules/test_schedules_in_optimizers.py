"""Schedules as learning rates of optimizers: which step they are asked for, and that they come back."""

from __future__ import annotations

import json
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from schedule_cases import CLASSES, GOOD, make


def _all_good() -> list[Any]:
    return [pytest.param(name, GOOD[name], id=name) for name in CLASSES]


every_schedule = pytest.mark.parametrize(("name", "arguments"), _all_good())
ONE = np.array([1.0, -2.0, 0.5])


@every_schedule
def test_weights_follow(name: str, arguments: dict[str, Any]) -> None:
    schedule = make(name, **arguments)
    optimizer, w = fo.SGD(learning_rate=schedule), np.zeros(3)
    optimizer.build([w])
    expected = np.zeros(3)
    for step in range(40):
        assert optimizer.learning_rate == schedule(step)
        optimizer.apply([ONE])
        expected -= schedule(step) * ONE
        np.testing.assert_array_equal(w, expected)
    assert len(optimizer.variables) == 1


@every_schedule
def test_accumulation_counts_every_call(name: str, arguments: dict[str, Any]) -> None:
    schedule = make(name, **arguments)
    optimizer, w = fo.SGD(learning_rate=schedule, gradient_accumulation_steps=4), np.zeros(3)
    optimizer.build([w])
    expected = np.zeros(3)
    for step in range(24):
        optimizer.apply([ONE])
        if step % 4 == 3:
            expected -= schedule(step) * ONE
        np.testing.assert_array_equal(w, expected)


@every_schedule
def test_skipped_step_does_not_count(name: str, arguments: dict[str, Any]) -> None:
    schedule = make(name, **arguments)
    optimizer = fo.LossScaleOptimizer(fo.SGD(learning_rate=schedule), initial_scale=8.0)
    w = np.zeros(3)
    optimizer.build([w])
    optimizer.apply([ONE * np.inf])
    optimizer.apply([ONE * 4.0])
    np.testing.assert_array_equal(w, -schedule(0) * ONE)


@every_schedule
def test_optimizer_round_trip(name: str, arguments: dict[str, Any]) -> None:
    schedule = make(name, **arguments, name="mine")
    optimizer = fo.AdamW(learning_rate=schedule, weight_decay=0.1)
    config = optimizer.get_config()
    assert config["learning_rate"] == fo.schedules.serialize(schedule)
    twins: list[Any] = [
        fo.AdamW.from_config(json.loads(json.dumps(config))),
        fo.deserialize(json.loads(json.dumps(fo.serialize(optimizer)))),
    ]
    weights = []
    for each in (optimizer, *twins):
        assert each.get_config() == config
        w = np.linspace(-1.0, 1.0, 5)
        each.build([w])
        for step in range(12):
            each.apply([np.cos(np.arange(5.0) + step)])
        weights.append(w.tobytes())
    assert weights == [weights[0]] * 3


def test_schedule_is_set_later() -> None:
    optimizer, w = fo.SGD(learning_rate=0.5), np.zeros(3)
    optimizer.build([w])
    optimizer.apply([ONE])
    schedule = fo.schedules.CosineDecay(0.25, 10)
    optimizer.learning_rate = schedule
    optimizer.apply([ONE])
    np.testing.assert_array_equal(w, -0.5 * ONE - schedule(1) * ONE)
    other = fo.schedules.ExponentialDecay(0.25, 1, 0.5)
    optimizer.learning_rate = other
    assert optimizer.learning_rate == other(2) == 0.0625


def test_learning_rate_that_overflows_stops_the_step() -> None:
    schedule = fo.schedules.ExponentialDecay(1.0, 1, 1e200)
    optimizer, w = fo.SGD(learning_rate=schedule), np.zeros(3)
    optimizer.build([w])
    optimizer.apply([np.zeros(3)])
    optimizer.apply([np.zeros(3)])
    before = [array.tobytes() for array in (w, *optimizer.variables)]
    with pytest.raises(ValueError, match="learning_rate: expected a finite number >= 0, found inf"):
        optimizer.apply([ONE])
    assert [array.tobytes() for array in (w, *optimizer.variables)] == before
