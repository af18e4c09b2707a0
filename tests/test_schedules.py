"""Every schedule against its formula, against recordings of the real Keras, and inside an optimizer.

`golden/record_schedules.py` made the recordings.
"""

from __future__ import annotations

import copy
import doctest
import importlib
import inspect
import itertools
import json
import math
import pickle
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from fusedopt.schedules import LearningRateSchedule

RECORDING = json.loads((Path(__file__).parent / "golden" / "schedules.json").read_text())
STEPS: list[int] = RECORDING["steps"]
CLASSES = [
    name
    for name in fo.schedules.__all__
    if inspect.isclass(getattr(fo.schedules, name)) and name != "LearningRateSchedule"
]
FAR = [10**6, 10**9, 10**12]


def make(name: str, /, **arguments: Any) -> Any:
    return getattr(fo.schedules, name)(**arguments)


# The formulas, as one would write them on paper; a step is a whole number or a Fraction.


def _exponential(
    s: Any,
    initial_learning_rate: float,
    decay_steps: float,
    decay_rate: float,
    staircase: bool = False,
) -> float:
    p = Fraction(s) / Fraction(decay_steps)
    return float(initial_learning_rate * decay_rate ** float(p // 1 if staircase else p))


def _inverse_time(
    s: Any,
    initial_learning_rate: float,
    decay_steps: float,
    decay_rate: float,
    staircase: bool = False,
) -> float:
    p = Fraction(s) / Fraction(decay_steps)
    return float(
        Fraction(initial_learning_rate) / (1 + Fraction(decay_rate) * (p // 1 if staircase else p))
    )


def _polynomial(
    s: Any,
    initial_learning_rate: float,
    decay_steps: float,
    end_learning_rate: float = 0.0001,
    power: float = 1.0,
    cycle: bool = False,
) -> float:
    end = Fraction(decay_steps)
    while cycle and end < s:
        end *= math.ceil(s / end)
    p = min(Fraction(s) / end, Fraction(1))
    return float(
        (initial_learning_rate - end_learning_rate) * float(1 - p) ** power + end_learning_rate
    )


def _piecewise_constant(s: Any, boundaries: list[float], values: list[float]) -> float:
    for boundary, value in zip(boundaries, values, strict=False):
        if s <= boundary:
            return value
    return values[-1]


def _wave(p: Fraction) -> float:
    """(1 + cos(pi p)) / 2 without its cancellation near p = 1."""
    return math.sin(math.pi * float(1 - p) / 2) ** 2


def _cosine(
    s: Any,
    initial_learning_rate: float,
    decay_steps: float,
    alpha: float = 0.0,
    warmup_target: float | None = None,
    warmup_steps: float = 0,
) -> float:
    start, first = initial_learning_rate, Fraction(0)
    if warmup_target is not None:
        start, first = warmup_target, Fraction(warmup_steps)
        if s < first:
            before = Fraction(initial_learning_rate)
            return float(before + (Fraction(warmup_target) - before) * s / first)
    p = min((s - first) / Fraction(decay_steps), Fraction(1))
    return start * ((1 - alpha) * _wave(p) + alpha)


def _periods(first: Fraction, t_mul: Fraction) -> Iterator[tuple[int, Fraction, Fraction]]:
    """Number, start and length of each period, exactly."""
    start, length = Fraction(0), first
    for i in itertools.count():
        yield i, start, length
        start, length = start + length, length * t_mul


def _decimal(value: float) -> Fraction:
    """What was meant: 1.1 is eleven tenths."""
    return Fraction(repr(value))


def _cosine_restarts(
    s: Any,
    initial_learning_rate: float,
    first_decay_steps: float,
    t_mul: float = 2.0,
    m_mul: float = 1.0,
    alpha: float = 0.0,
) -> float:
    first, factor = _decimal(first_decay_steps), _decimal(t_mul)
    if factor < 1 and s >= first / (1 - factor):
        return initial_learning_rate * alpha
    if factor == 1:
        i = s // first
        p = s / first - i
    else:
        i, p = next(
            (i, (s - start) / length)
            for i, start, length in _periods(first, factor)
            if s < start + length
        )
    return initial_learning_rate * ((1 - alpha) * m_mul**i * _wave(p) + alpha)


FORMULAS: dict[str, Callable[..., float]] = {
    "ExponentialDecay": _exponential,
    "InverseTimeDecay": _inverse_time,
    "PolynomialDecay": _polynomial,
    "PiecewiseConstantDecay": _piecewise_constant,
    "CosineDecay": _cosine,
    "CosineDecayRestarts": _cosine_restarts,
}

# Every combination of these; all numbers of steps are exact in binary.
ARGUMENTS: dict[str, dict[str, list[Any]]] = {
    "ExponentialDecay": {
        "initial_learning_rate": [0.1, 0.0, 1],
        "decay_steps": [1, 7, 50, 2.5],
        "decay_rate": [0.96, 0.5, 1, 0.0, 1.0001],
        "staircase": [False, True],
    },
    "InverseTimeDecay": {
        "initial_learning_rate": [0.1, 0.0, 1],
        "decay_steps": [1, 7, 50, 2.5],
        "decay_rate": [0.96, 0.5, 0.0, 3],
        "staircase": [False, True],
    },
    "PolynomialDecay": {
        "initial_learning_rate": [0.1, 1],
        "decay_steps": [1, 7, 50, 2.5],
        "end_learning_rate": [0.0001, 0.0, 0.25],
        "power": [1.0, 2, 0.5, 0.0],
        "cycle": [False, True],
    },
    "CosineDecay": {
        "initial_learning_rate": [0.1, 0, 0.7],
        "decay_steps": [1, 7, 50, 2.5],
        "alpha": [0.0, 0.25, 1.0],
        "warmup_target": [None, 0.5, 0.0],
        "warmup_steps": [0, 3, 40, 0.5],
    },
    "CosineDecayRestarts": {
        "initial_learning_rate": [0.1, 1],
        "first_decay_steps": [1, 7, 50, 2.5],
        "t_mul": [2.0, 1.0, 1.5, 3, 1.1, 0.5],
        "m_mul": [1.0, 0.9, 1.0001],
        "alpha": [0.0, 0.25],
    },
    "PiecewiseConstantDecay": {
        "boundaries": [[3, 7]],
        "values": [[0.3, 0.2, 0.1], [0, 1, 0]],
    },
}


def combinations(name: str) -> list[dict[str, Any]]:
    table = ARGUMENTS[name]
    return [dict(zip(table, values, strict=True)) for values in itertools.product(*table.values())]


def marks(arguments: dict[str, Any]) -> list[Any]:
    """The steps where something begins or ends."""
    length = arguments.get("decay_steps", arguments.get("first_decay_steps", 0))
    first = arguments.get("warmup_steps", 0)
    found = [first, *(first + length * k for k in (1, 2, 3, 10, 1000)), length]
    found += arguments.get("boundaries", [])
    if "t_mul" in arguments:
        periods = _periods(_decimal(length), _decimal(arguments["t_mul"]))
        found += [start for _, start, _ in itertools.islice(periods, 12)]
    return found


def steps_around(arguments: dict[str, Any]) -> list[Any]:
    steps = {*range(30), *FAR}
    for mark in marks(arguments):
        steps |= {math.floor(mark) + d for d in (-1, 0, 1, 2)}
        if float(mark) == mark:
            steps.add(mark)  # fractional ones too
    return sorted(step for step in steps if step >= 0)


def _tolerance(
    formula: Callable[..., float], step: Any, arguments: dict[str, Any], value: float
) -> float:
    """Some roundings; far away also what some roundings of the step move the value by."""
    tolerance = 1e-12 * abs(value) + 1e-15
    if step > 10**5:
        moved = Fraction(1, 2**46)
        for nearby in (step * (1 - moved), step * (1 + moved)):
            tolerance += abs(formula(nearby, **arguments) - value)
    return tolerance


@pytest.mark.parametrize("name", CLASSES)
def test_formula(name: str) -> None:
    formula = FORMULAS[name]
    for arguments in combinations(name):
        schedule = make(name, **arguments)
        for step in steps_around(arguments):
            actual = schedule(step)
            assert type(actual) is float
            try:
                expected = formula(step, **arguments)
            except OverflowError:
                assert not math.isfinite(actual), (arguments, step)
                continue
            tolerance = _tolerance(formula, step, arguments, expected)
            assert abs(actual - expected) <= tolerance, (arguments, step)


def test_every_schedule_is_tested() -> None:
    assert set(CLASSES) == set(FORMULAS) == set(ARGUMENTS)
    assert set(CLASSES) == {case["class"] for case in RECORDING["cases"]}


@pytest.mark.parametrize("step", [2**53 - 1, 2**53, 2**62, 2**63 - 1, 1e300])
def test_counter_at_its_end(step: float) -> None:
    """Where a step is no longer told from the next, a value is at least one of the schedule's."""
    for name in ("PolynomialDecay", "CosineDecay", "CosineDecayRestarts"):
        for arguments in combinations(name):
            if arguments.get("m_mul", 1.0) > 1.0:
                continue
            schedule = make(name, **arguments)
            names = ("initial_learning_rate", "end_learning_rate", "warmup_target")
            largest = max(arguments.get(argument) or 0.0 for argument in names)
            assert 0.0 <= schedule(step) <= largest * (1.0 + 1e-15), (name, arguments)


def test_formula_of_a_fractional_step() -> None:
    for name in CLASSES:
        arguments = combinations(name)[-1]
        schedule = make(name, **arguments)
        for step in (0.25, 2.5, 3.75, 6.5, 100.125):
            assert schedule(step) == pytest.approx(
                FORMULAS[name](Fraction(step), **arguments), 1e-12
            )


# Boundaries, to the bit


def test_piecewise_boundaries() -> None:
    schedule = fo.schedules.PiecewiseConstantDecay([0, 5, 100], [0.4, 0.3, 0.2, 0.1])
    expected = {0: 0.4, 0.5: 0.3, 5: 0.3, 5.5: 0.2, 6: 0.2, 100: 0.2, 101: 0.1, 10**18: 0.1}
    assert {step: schedule(step) for step in expected} == expected
    assert fo.schedules.PiecewiseConstantDecay([], [0.5])(7) == 0.5
    halves = fo.schedules.PiecewiseConstantDecay([2.5, 7.5], [3, 2, 1])
    assert [halves(step) for step in (2, 3, 7, 8)] == [3.0, 2.0, 2.0, 1.0]


def test_polynomial_ends() -> None:
    once = fo.schedules.PolynomialDecay(0.5, 10, 0.125, power=3.0)
    assert [once(step) for step in (0, 10, 11, 10**12)] == [0.5, 0.125, 0.125, 0.125]
    cycle = fo.schedules.PolynomialDecay(0.5, 10, 0.125, cycle=True)
    assert [cycle(step) for step in (0, 10, 20, 30, 10**12)] == [0.5, *[0.125] * 4]
    assert [cycle(step) for step in (5, 15, 25)] == [0.3125, 0.21875, 0.1875]
    assert cycle(11) == pytest.approx(0.125 + 0.375 * 9 / 20, rel=1e-15)


def test_cosine_ends() -> None:
    schedule = fo.schedules.CosineDecay(0.25, 100, alpha=0.5, warmup_target=1.0, warmup_steps=10)
    assert [schedule(step) for step in (0, 5, 10)] == [0.25, 0.625, 1.0]
    assert [schedule(step) for step in (110, 111, 10**15)] == [0.5] * 3
    no_warmup = fo.schedules.CosineDecay(0.25, 100, warmup_target=1.0)
    assert no_warmup(0) == 1.0
    ignored = fo.schedules.CosineDecay(0.25, 100, warmup_steps=10)
    assert (ignored(0), ignored(100)) == (0.25, 0.0)


@pytest.mark.parametrize("t_mul", [1.0, 1.001, 1.1, 1.2, 1.25, 1.5, 2.0, 3, 7.3, 10.0, 0.9, 0.5])
@pytest.mark.parametrize("first", [1, 3, 10, 49, 1000, 0.1, 3.3])
def test_restart_steps_land_on_the_restart(t_mul: float, first: float) -> None:
    schedule = fo.schedules.CosineDecayRestarts(1.0, first, t_mul, m_mul=0.999)
    for i, start, length in _periods(_decimal(first), _decimal(t_mul)):
        if i > 300 or start > 10**12 or length < 1e-4 * start:
            break
        assert schedule(float(start)) == 0.999**i, (i, float(start))
        middle = float(start + length / 2)
        assert schedule(middle) == pytest.approx(0.999**i / 2, rel=1e-6), (i, middle)


def test_naive_floor_would_miss_restarts() -> None:
    """The test above is about something: the plain formula fails on some of its steps."""
    missed = [
        (t_mul, i)
        for t_mul in (1.1, 1.2, 1.5, 3.0, 10.0)
        for i in range(1, 20)
        if math.floor(math.log(1 + (t_mul**i - 1) / (t_mul - 1) * (t_mul - 1)) / math.log(t_mul))
        != i
    ]
    assert missed


def test_periods_that_shrink_come_to_an_end() -> None:
    schedule = fo.schedules.CosineDecayRestarts(0.5, 10, t_mul=0.5, alpha=0.25)
    assert [schedule(step) for step in (0, 10, 15)] == [0.5] * 3
    assert [schedule(step) for step in (20, 21, 10**9)] == [0.125] * 3
    # 1 / (1 - 0.9) is not quite ten.
    assert fo.schedules.CosineDecayRestarts(0.5, 10, t_mul=0.9)(100) == 0.0


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        (
            "CosineDecay",
            {"initial_learning_rate": 0, "decay_steps": 9, "warmup_target": 1, "warmup_steps": 4},
        ),
        ("ExponentialDecay", {"initial_learning_rate": 1, "decay_steps": 4, "decay_rate": 0.5}),
        ("PolynomialDecay", {"initial_learning_rate": 1, "decay_steps": 4}),
    ],
)
def test_whole_numbers_are_numbers(name: str, arguments: dict[str, Any]) -> None:
    """Keras would compute in integers."""
    whole = make(name, **arguments)
    real = make(name, **{key: float(value) for key, value in arguments.items()})
    assert [whole(step) for step in range(20)] == [real(step) for step in range(20)]
    assert 0 < whole(1) < 1


# The real Keras


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


# Configuration


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


class Halving(LearningRateSchedule):
    def __init__(self, start: float) -> None:
        self.start = start

    def __call__(self, step: int) -> float:
        return float(self.start * 0.5**step)

    def get_config(self) -> dict[str, Any]:
        return {"start": self.start}


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


# Refusals

GOOD: dict[str, dict[str, Any]] = {
    "ExponentialDecay": {"initial_learning_rate": 0.1, "decay_steps": 10, "decay_rate": 0.5},
    "InverseTimeDecay": {"initial_learning_rate": 0.1, "decay_steps": 10, "decay_rate": 0.5},
    "PolynomialDecay": {"initial_learning_rate": 0.1, "decay_steps": 10},
    "PiecewiseConstantDecay": {"boundaries": [3, 7], "values": [0.3, 0.2, 0.1]},
    "CosineDecay": {"initial_learning_rate": 0.1, "decay_steps": 10},
    "CosineDecayRestarts": {"initial_learning_rate": 0.1, "first_decay_steps": 10},
}
POSITIVE = {"decay_steps", "first_decay_steps", "t_mul", "m_mul"}
FLAGS = {"staircase", "cycle"}
LISTS = {"boundaries", "values"}
OTHERS = {"name", *FLAGS, *LISTS}


def _arguments(names: Iterable[str]) -> list[tuple[str, str]]:
    return [
        (name, argument)
        for name in CLASSES
        for argument in inspect.signature(getattr(fo.schedules, name)).parameters
        if argument in names
    ]


NUMBERS = _arguments({a for s in RECORDING["signatures"].values() for a in s} - OTHERS)


@pytest.mark.parametrize(("name", "argument"), NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1, -1e-300, 0])
def test_number_out_of_range(name: str, argument: str, value: float) -> None:
    arguments = {**GOOD[name], argument: value}
    if value == 0 and argument not in POSITIVE:
        make(name, **arguments)
        return
    sign = ">" if argument in POSITIVE else ">="
    message = f"{argument}: expected a finite number {sign} 0, found {value}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make(name, **arguments)


@pytest.mark.parametrize(("name", "argument"), NUMBERS)
@pytest.mark.parametrize("value", [None, "0.1", True, [0.1], np.array([0.1]), 1j, b"1"], ids=repr)
def test_number_of_another_type(name: str, argument: str, value: Any) -> None:
    arguments = {**GOOD[name], argument: value}
    if argument == "warmup_target" and value is None:
        make(name, **arguments)
        return
    with pytest.raises(TypeError, match=f"^{argument}: expected a real number, found "):
        make(name, **arguments)


@pytest.mark.parametrize(("name", "argument"), NUMBERS)
def test_number_beyond_double(name: str, argument: str) -> None:
    with pytest.raises(ValueError, match=f"^{argument}: expected a number of double's range"):
        make(name, **{**GOOD[name], argument: 10**400})


@pytest.mark.parametrize(("name", "argument"), _arguments(FLAGS))
@pytest.mark.parametrize("value", [None, 0, 1, "yes", 1.0], ids=repr)
def test_flag_of_another_type(name: str, argument: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{argument}: expected True or False, found "):
        make(name, **{**GOOD[name], argument: value})
    make(name, **{**GOOD[name], argument: np.True_})


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("value", [5, b"name", ["name"]], ids=repr)
def test_name_of_another_type(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match="^name: expected a string, found "):
        make(name, **GOOD[name], name=value)


@pytest.mark.parametrize(
    ("boundaries", "values", "message"),
    [
        ([], [], "values: expected one more than boundaries, 1 of them, found 0"),
        ([1], [1.0], "values: expected one more than boundaries, 2 of them, found 1"),
        ([1, 2], [1.0] * 4, "values: expected one more than boundaries, 3 of them, found 4"),
        (
            [5, 5],
            [1.0] * 3,
            "boundaries[1]: expected a number greater than the one before, found 5",
        ),
        (
            [5, 2],
            [1.0] * 3,
            "boundaries[1]: expected a number greater than the one before, found 2",
        ),
        ([math.nan], [1.0] * 2, "boundaries[0]: expected a finite number, found nan"),
        ([1, math.inf], [1.0] * 3, "boundaries[1]: expected a finite number, found inf"),
        ([1], [0.5, -0.5], "values[1]: expected a finite number >= 0, found -0.5"),
        ([1], [math.nan, 0.5], "values[0]: expected a finite number >= 0, found nan"),
        ([1], [0.5, math.inf], "values[1]: expected a finite number >= 0, found inf"),
    ],
)
def test_lists_out_of_range(boundaries: Any, values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fo.schedules.PiecewiseConstantDecay(boundaries, values)


@pytest.mark.parametrize("argument", sorted(LISTS))
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, ": expected a list of real numbers, found None"),
        (3, ": expected a list of real numbers, found 3"),
        ("123", ": expected a list of real numbers, found '123'"),
        ([1, "2", 3], "[1]: expected a real number, found '2'"),
        ([None], "[0]: expected a real number, found None"),
        ([True], "[0]: expected a real number, found True"),
    ],
    ids=str,
)
def test_lists_of_another_type(argument: str, value: Any, message: str) -> None:
    arguments = {**GOOD["PiecewiseConstantDecay"], argument: value}
    with pytest.raises(TypeError, match=f"^{re.escape(argument + message)}$"):
        make("PiecewiseConstantDecay", **arguments)


@pytest.mark.parametrize("name", CLASSES)
def test_step_of_any_number_type(name: str) -> None:
    schedule = make(name, **GOOD[name])
    for step in (5, 5.0, np.int32(5), np.uint64(5), np.float32(5), Fraction(5)):
        assert schedule(step) == schedule(5)


@pytest.mark.parametrize("name", CLASSES)
def test_arguments_missing_or_unknown(name: str) -> None:
    for argument in GOOD[name]:
        with pytest.raises(TypeError, match=argument):
            make(name, **{k: v for k, v in GOOD[name].items() if k != argument})
    with pytest.raises(TypeError, match="unknown"):
        make(name, **GOOD[name], unknown=1)


# In an optimizer


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


# Documentation

MODULES = [
    f"fusedopt.schedules.{module.name}" for module in pkgutil.iter_modules(fo.schedules.__path__)
]


@pytest.mark.parametrize("name", ["fusedopt.schedules", *MODULES])
def test_examples_of_the_docstrings(name: str) -> None:
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0
    assert module.__doc__


@pytest.mark.parametrize("name", fo.schedules.__all__)
def test_docstring(name: str) -> None:
    value = getattr(fo.schedules, name)
    text = inspect.getdoc(value) or ""
    assert re.search(r"^Examples\n-{8}\n(.|\n)*>>> ", text, re.MULTILINE)
    if name in CLASSES:
        for argument in inspect.signature(value).parameters:
            assert re.search(rf"^{argument} : ", text, re.MULTILINE), argument
        assert ".. math::" in text
        assert f"``keras.optimizers.schedules.{name}``" in text
