"""Configurations of schedules, also of the user's own: they come back, or they are refused."""

from __future__ import annotations

import copy
import json
import pickle
import re
from fractions import Fraction
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from fusedopt.schedules import LearningRateSchedule
from schedule_cases import CLASSES, RECORDING, combinations, make
from training import Halving

# Some combinations have warmup_steps that do nothing.
pytestmark = pytest.mark.filterwarnings("ignore:warmup_steps. no effect")


@pytest.mark.parametrize("name", CLASSES)
def test_configuration_round_trip(name: str) -> None:
    for arguments in combinations(name):
        schedule = make(name, **arguments, name="mine")
        config = schedule.get_config()
        assert config == {**_defaults(name), **arguments, "name": "mine"}
        text = json.dumps(fo.schedules.serialize(schedule))
        copies = [
            type(schedule).from_config(config),
            fo.schedules.deserialize(json.loads(text)),
            copy.deepcopy(schedule),
            pickle.loads(pickle.dumps(schedule)),
        ]
        for each in copies:
            assert type(each) is type(schedule)
            assert each.get_config() == config
            assert each(5) == schedule(5)


def _defaults(name: str) -> dict[str, Any]:
    signature: dict[str, Any] = RECORDING["signatures"][name]
    return {key: value for key, value in signature.items() if value != "required"}


@pytest.mark.parametrize("name", [None, "", "mine"])
def test_name(name: str | None) -> None:
    schedule = fo.schedules.CosineDecay(0.1, 10, name=name)
    assert schedule.name == schedule.get_config()["name"] == name


def test_configuration_is_of_plain_numbers() -> None:
    schedule = fo.schedules.PolynomialDecay(
        np.float32(0.5), np.int64(10), end_learning_rate=Fraction(1, 4), power=np.float64(2.0)
    )
    config = schedule.get_config()
    assert config["initial_learning_rate"] == 0.5
    assert [type(value) for value in config.values()] == [float, int, float, float, bool, str]
    lists = fo.schedules.PiecewiseConstantDecay(
        np.array([1, 2]), (np.float64(v) for v in (3, 2, 1))
    )
    assert json.loads(json.dumps(lists.get_config()))["boundaries"] == [1, 2]
    assert lists.values == [3.0, 2.0, 1.0]


def test_configuration_is_a_copy() -> None:
    boundaries = [1, 2]
    schedule = fo.schedules.PiecewiseConstantDecay(boundaries, [3, 2, 1])
    boundaries.append(3)
    schedule.get_config()["values"].clear()
    assert schedule(9) == 1.0


def test_attributes_are_alive() -> None:
    schedule = fo.schedules.ExponentialDecay(0.5, 10, 0.5)
    schedule.initial_learning_rate = 2.0
    assert (schedule(10), schedule.get_config()["initial_learning_rate"]) == (1.0, 2.0)
    schedule.decay_steps = 0
    with pytest.raises(ValueError, match="decay_steps: expected a finite number > 0, found 0"):
        schedule(1)


class Doubled(fo.schedules.CosineDecay):
    """Whose call needs what its constructor has yet to set."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.factor = 2.0

    def __call__(self, step: float) -> float:
        return self.factor * super().__call__(step)


def test_schedules_of_the_user() -> None:
    serialized = fo.schedules.serialize(Halving(2.0))
    assert serialized == {
        "module": None,
        "class_name": "Halving",
        "config": {"start": 2.0},
        "registered_name": "Halving",
    }
    own = fo.schedules.deserialize(serialized, custom_objects={"Halving": Halving})
    assert type(own) is Halving
    assert own(1) == 1.0
    with pytest.raises(
        ValueError, match="class_name: expected one of CosineDecay, .* found 'Halving'"
    ):
        fo.schedules.deserialize(serialized)
    with pytest.raises(TypeError, match="Halving: expected a subclass of LearningRateSchedule"):
        fo.schedules.deserialize(serialized, custom_objects={"Halving": fo.SGD})
    doubled = Doubled(initial_learning_rate=0.5, decay_steps=4)
    assert doubled(0) == 1.0
    twin = fo.schedules.deserialize(fo.schedules.serialize(doubled), {"Doubled": Doubled})
    assert [twin(step) for step in range(6)] == [doubled(step) for step in range(6)]


def test_base_class() -> None:
    with pytest.raises(TypeError, match="abstract"):
        LearningRateSchedule()  # type: ignore[abstract]

    class Silent(LearningRateSchedule):
        def __call__(self, step: int) -> float:
            return 0.5

    with pytest.raises(TypeError, match="Silent: expected a get_config method"):
        fo.schedules.serialize(Silent())
    assert Silent.from_config({})(3) == 0.5


@pytest.mark.parametrize("value", [None, 0.1, "CosineDecay", fo.schedules.CosineDecay, lambda: 0.1])
def test_serialize_of_no_schedule(value: Any) -> None:
    with pytest.raises(TypeError, match="learning_rate_schedule: expected a LearningRateSchedule"):
        fo.schedules.serialize(value)


@pytest.mark.parametrize(
    ("config", "error", "part"),
    [
        (None, TypeError, "config: expected a dict"),
        (
            {"class_name": "CosineDecay"},
            TypeError,
            "config: expected a dict with class_name and config",
        ),
        ({"class_name": "Nope", "config": {}}, ValueError, "found 'Nope'"),
        ({"class_name": "SGD", "config": {}}, ValueError, "found 'SGD'"),
        ({"class_name": "CosineDecay", "config": {"first": 1}}, TypeError, "first"),
        (
            {
                "class_name": "CosineDecay",
                "config": {"initial_learning_rate": 0.1, "decay_steps": 0},
            },
            ValueError,
            "decay_steps: expected a finite number > 0, found 0",
        ),
    ],
    ids=str,
)
def test_deserialize_of_something_else(config: Any, error: type[Exception], part: str) -> None:
    with pytest.raises(error, match=re.escape(part)):
        fo.schedules.deserialize(config)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("config", [None, 5, [], "text"], ids=repr)
def test_from_config_of_no_dict(name: str, config: Any) -> None:
    with pytest.raises(TypeError, match="config: expected a dict"):
        getattr(fo.schedules, name).from_config(config)
