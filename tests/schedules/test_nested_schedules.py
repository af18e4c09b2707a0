"""Schedules that hold other schedules: they are serialised with them, and come back with an optimizer and its file."""

from __future__ import annotations

import json
from typing import Any

import fusedopt as fo
import numpy as np
import pytest

schedules = fo.schedules


class WarmUp(schedules.LearningRateSchedule):
    """A straight line, then another schedule."""

    def __init__(self, steps: int, after: schedules.LearningRateSchedule) -> None:
        self.steps, self.after = steps, after

    def __call__(self, step: int) -> float:
        return 0.1 * step / self.steps if step < self.steps else self.after(step - self.steps)

    def get_config(self) -> dict[str, Any]:
        return {"steps": self.steps, "after": self.after}


class Sum(schedules.LearningRateSchedule):
    """Several others, in a list and by name."""

    def __init__(self, parts: list[Any], named: dict[str, Any]) -> None:
        self.parts, self.named = parts, named

    def __call__(self, step: int) -> float:
        return sum(part(step) for part in [*self.parts, *self.named.values()])

    def get_config(self) -> dict[str, Any]:
        return {"parts": self.parts, "named": self.named}


class Clocked(WarmUp):
    """Serialises and makes its schedule itself, as one does in Keras."""

    def get_config(self) -> dict[str, Any]:
        return {"steps": self.steps, "after": schedules.serialize(self.after)}

    @classmethod
    def from_config(cls, config: Any, custom_objects: Any = None) -> Clocked:
        after = schedules.deserialize(config["after"], custom_objects)
        return cls(config["steps"], after)


CUSTOM: dict[str, Any] = {"WarmUp": WarmUp, "Sum": Sum, "Clocked": Clocked}
COSINE = schedules.CosineDecay(0.1, 30)
NESTED: list[schedules.LearningRateSchedule] = [
    WarmUp(5, COSINE),
    WarmUp(5, WarmUp(3, COSINE)),
    Sum([COSINE, WarmUp(5, COSINE)], {"own": schedules.PiecewiseConstantDecay([3], [0.5, 0.25])}),
    Clocked(5, COSINE),
    Clocked(5, WarmUp(3, COSINE)),
    WarmUp(5, Clocked(3, WarmUp(2, COSINE))),
]

every_schedule = pytest.mark.parametrize("schedule", NESTED, ids=range(len(NESTED)))


def rates(schedule: Any) -> list[float]:
    return [schedule(step) for step in range(40)]


@every_schedule
def test_of_a_schedule(schedule: Any) -> None:
    config = json.loads(json.dumps(schedules.serialize(schedule)))
    assert rates(schedules.deserialize(config, CUSTOM)) == rates(schedule)


@every_schedule
def test_of_an_optimizer(schedule: Any) -> None:
    optimizers = {
        "plain": fo.SGD(learning_rate=schedule),
        "scaled": fo.LossScaleOptimizer(fo.SGD(learning_rate=schedule)),
        "several": fo.MultiOptimizer(fo.OptimizerMap(fo.SGD(learning_rate=schedule))),
    }
    for name, optimizer in optimizers.items():
        config = json.loads(json.dumps(fo.serialize(optimizer)))
        for made in (
            fo.deserialize(config, CUSTOM),
            type(optimizer).from_config(config["config"], custom_objects=CUSTOM),
        ):
            inner: Any = made
            inner = inner.inner_optimizer if name == "scaled" else inner
            inner = inner.optimizers[0] if name == "several" else inner
            assert rates(inner._learning_rate) == rates(schedule)


@every_schedule
def test_from_config(schedule: Any) -> None:
    config = schedules.serialize(schedule)["config"]
    assert rates(type(schedule).from_config(config, custom_objects=CUSTOM)) == rates(schedule)


def test_the_form_is_that_of_keras() -> None:
    config = schedules.serialize(NESTED[0])
    assert config["registered_name"] == "WarmUp"
    assert config["config"]["after"] == {
        "module": "keras.optimizers.schedules",
        "class_name": "CosineDecay",
        "config": COSINE.get_config(),
        "registered_name": None,
    }


def test_an_unknown_class_inside_is_named() -> None:
    config = schedules.serialize(WarmUp(5, WarmUp(3, COSINE)))
    with pytest.raises(
        ValueError,
        match=r"^class_name: .*found 'WarmUp'; pass classes of your own in custom_objects",
    ):
        schedules.deserialize(config)
    config = schedules.serialize(WarmUp(5, Sum([], {})))
    with pytest.raises(ValueError, match="found 'Sum'"):
        schedules.deserialize(config, {"WarmUp": WarmUp})
    with pytest.raises(
        ValueError, match="found 'Sum'"
    ):  # the classes of an earlier call are forgotten
        schedules.deserialize(schedules.serialize(Sum([], {})))


def test_a_copy_for_a_step_without_effects() -> None:
    optimizer = fo.SGD(learning_rate=NESTED[2])
    w = np.ones(2)
    optimizer.build([w])
    variables, _ = optimizer.stateless_apply(optimizer.variables, [np.ones(2)], [w])
    optimizer.apply([np.ones(2)])
    assert variables[0].tolist() == w.tolist()
