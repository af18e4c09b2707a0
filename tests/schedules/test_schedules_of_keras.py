"""Every schedule against recordings of the real Keras: values, configurations, arguments and defaults."""

from __future__ import annotations

import inspect
import json
import math
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from schedule_cases import CLASSES, RECORDING, STEPS, make

# Some combinations have warmup_steps that do nothing.
pytestmark = pytest.mark.filterwarnings("ignore:warmup_steps. no effect")


def _recorded() -> list[Any]:
    return [
        pytest.param(case, id=f"{case['class']}-{i}") for i, case in enumerate(RECORDING["cases"])
    ]


every_recording = pytest.mark.parametrize("case", _recorded())


@every_recording
def test_values_are_those_of_keras(case: dict[str, Any]) -> None:
    schedule = make(case["class"], **case["arguments"])
    actual = np.array([schedule(step) for step in STEPS])
    # The same formulas in the same dtype; another mathematical library may round differently.
    np.testing.assert_allclose(actual, case["float64"], rtol=1e-13, atol=1e-16)


@every_recording
def test_values_are_those_of_keras_in_float32(case: dict[str, Any]) -> None:
    schedule = make(case["class"], **case["arguments"])
    arguments = case["arguments"]
    actual, expected = np.array([schedule(step) for step in STEPS]), np.array(case["float32"])
    length = arguments.get("decay_steps", arguments.get("first_decay_steps", math.inf))
    # The value's own rounding, and that of step / decay_steps, on which the value depends.
    tolerance = np.finfo(np.float32).eps * (4 + np.array(STEPS) / length) * np.max(expected)
    assert np.all(np.abs(actual - expected) <= tolerance)


@every_recording
def test_configuration_is_that_of_keras(case: dict[str, Any]) -> None:
    ours = make(case["class"], **case["arguments"])
    assert fo.schedules.serialize(ours) == case["serialized"]
    assert list(ours.get_config()) == list(case["serialized"]["config"])
    assert json.dumps(fo.schedules.serialize(ours)) == json.dumps(case["serialized"])


@every_recording
def test_configuration_of_keras_is_understood(case: dict[str, Any]) -> None:
    schedule = fo.schedules.deserialize(case["serialized"])
    assert type(schedule) is getattr(fo.schedules, case["class"])
    twin = make(case["class"], **case["arguments"])
    assert [schedule(step) for step in STEPS] == [twin(step) for step in STEPS]
    optimizer = fo.deserialize(
        {"class_name": "SGD", "config": {"learning_rate": case["serialized"], "momentum": 0.5}}
    )
    assert optimizer.learning_rate == twin(0)


@pytest.mark.parametrize("name", CLASSES)
def test_arguments_and_defaults_are_those_of_keras(name: str) -> None:
    arguments = {
        p.name: "required" if p.default is p.empty else p.default
        for p in inspect.signature(getattr(fo.schedules, name)).parameters.values()
    }
    assert list(arguments.items()) == list(RECORDING["signatures"][name].items())


def test_numpy_values_in_a_configuration_of_keras() -> None:
    """Keras writes a NumPy number or array as a dictionary of its own."""

    def tensor(value: Any, kind: str = "__tensor__") -> dict[str, Any]:
        return {"class_name": kind, "config": {"value": value, "dtype": "float64"}}

    schedule = fo.schedules.deserialize(
        {
            "class_name": "PiecewiseConstantDecay",
            "config": {"boundaries": [tensor(3)], "values": tensor([0.5, 0.25], "__numpy__")},
        }
    )
    assert schedule.get_config() == {
        "boundaries": [3],
        "values": [0.5, 0.25],
        "name": "PiecewiseConstant",
    }
    config = {"initial_learning_rate": tensor(0.5), "decay_steps": 2, "decay_rate": 0.5}
    assert fo.schedules.ExponentialDecay.from_config(config)(2) == 0.25
