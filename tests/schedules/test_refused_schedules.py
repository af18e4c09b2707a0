"""Arguments of schedules: those out of range or of another type are refused."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from schedule_cases import CLASSES, GOOD, RECORDING, make

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
    with pytest.raises(TypeError, match=rf"^{name}: unknown argument\(s\): unknown$"):
        make(name, **GOOD[name], unknown=1)
