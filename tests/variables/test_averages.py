"""Averages of variables (`use_ema`): their values, overwriting, and `finalize_variable_values`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from reference import Array
from subject import Subject
from training import bits, everything, new_variables, take_steps, wrapped_or_not


def test_average_and_overwriting() -> None:
    w = np.zeros(1)
    optimizer = fo.SGD(learning_rate=1.0, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=3)
    optimizer.build([w])
    average = optimizer.variables[2]
    values, averages = [], []
    for _ in range(6):
        optimizer.apply([np.ones(1)])
        values.append(float(w[0]))
        averages.append(float(average[0]))
    # The first average is the first value; every third update takes the average over.
    assert averages == [-1.0, -1.5, -2.25, -2.75, -3.5, -4.375]
    assert values == [-1.0, -2.0, -2.25, -3.25, -4.25, -4.375]


@pytest.mark.parametrize("frequency", [None, 0])
def test_average_without_overwriting(frequency: int | None) -> None:
    w = np.zeros(1)
    optimizer = fo.SGD(learning_rate=1.0, use_ema=True, ema_overwrite_frequency=frequency)
    optimizer.build([w])
    for _ in range(4):
        optimizer.apply([np.ones(1)])
    assert w.tolist() == [-4.0]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@wrapped_or_not
def test_finalize_takes_the_averages(wrap: Callable[[Any], Any], dtype: str) -> None:
    variables = new_variables(dtype)
    optimizer = wrap(fo.SGD(learning_rate=1.0, use_ema=True, ema_momentum=0.5))
    optimizer.build(variables)
    take_steps(optimizer, range(3), dtype)
    state = bits(optimizer.variables)
    averages = [v.copy() for v in optimizer.variables[-3:]]
    optimizer.finalize_variable_values([w[...] for w in variables])
    assert bits(variables) == bits([a.astype(dtype) for a in averages])
    assert bits(optimizer.variables) == state


def test_finalize_without_averages_does_nothing() -> None:
    variables = new_variables()
    optimizer = fo.SGD()
    optimizer.build(variables)
    take_steps(optimizer, range(2))
    before = everything(optimizer, variables)
    optimizer.finalize_variable_values(variables)
    assert everything(optimizer, variables) == before


def test_average_moves_where_there_is_no_gradient() -> None:
    w, x = np.zeros(1), np.zeros(1)
    optimizer = fo.SGD(learning_rate=1.0, use_ema=True, ema_momentum=0.5)
    optimizer.build([w, x])
    optimizer.apply([np.ones(1), np.ones(1)])
    x[...] = 3.0
    optimizer.apply([np.ones(1)], [w])
    assert x.tolist() == [3.0]
    assert [float(v[0]) for v in optimizer.variables[2:]] == [-1.5, 1.0]


# Refused


@pytest.mark.parametrize(
    ("choose", "part"),
    [
        (lambda w: w[:3], "expected 4 variables, found 3"),
        (lambda w: [*w, w[0]], "expected 4 variables, found 5"),
        (lambda w: [], "expected 4 variables, found 0"),
        (lambda w: [w[0], w[2], w[1], w[3]], "in the place of variable 1 ('bias')"),
        (lambda w: [w[0], w[0], w[2], w[3]], "in the place of variable 1 ('bias')"),
        (lambda w: [*w[:3], w[3].copy()], "in the place of variable 3 ('half')"),
        (lambda w: [w[0].reshape(3, 2).T, *w[1:]], "in the place of variable 0 ('kernel')"),
    ],
    ids=["fewer", "more", "none", "swapped", "twice", "copy", "reordered"],
)
def test_finalize_of_other_variables(
    subject: Subject, choose: Callable[[list[Array]], list[Array]], part: str
) -> None:
    with subject.refuses(ValueError, "finalize_variable_values", part):
        subject.optimizer.finalize_variable_values(choose(subject.variables))


@pytest.mark.parametrize("value", [None, 1.0, "half"], ids=repr)
def test_finalize_of_no_array(subject: Subject, value: Any) -> None:
    with subject.refuses(TypeError, "finalize_variable_values: variable 3", type(value).__name__):
        subject.optimizer.finalize_variable_values([*subject.variables[:3], value])
