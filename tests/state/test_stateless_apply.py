"""`stateless_apply`: it returns what a step would make of given values, and changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import fusedopt as fo
import numpy as np
import numpy.typing as npt
import pytest
from cases import OPTIONS, Case
from reference import Array
from subject import Subject, stored
from training import (
    NAMES,
    Halving,
    bits,
    every_case,
    every_dtype,
    everything,
    gradients,
    make,
    new_variables,
    take_steps,
    wrapped_or_not,
)


def check_stateless(optimizer: Any, variables: list[Array], dtype: npt.DTypeLike) -> None:
    some = gradients(7, optimizer.scale_loss(1.0), dtype)
    before = everything(optimizer, variables)
    new, state = optimizer.stateless_apply(optimizer.variables, some, variables)
    assert everything(optimizer, variables) == before
    assert not any(np.shares_memory(a, b) for a in [*new, *state] for b in variables)
    optimizer.apply(some)
    assert bits(new) == bits(variables)
    assert bits(state) == bits(optimizer.variables)


@every_dtype
@every_case
def test_stateless_apply(case: Case, dtype: str) -> None:
    variables = new_variables(dtype)
    optimizer = make(case)
    optimizer.build(variables)
    for step in range(3):
        take_steps(optimizer, range(step, step + 1), dtype)
        check_stateless(optimizer, variables, dtype)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("option", OPTIONS)
@wrapped_or_not
def test_stateless_apply_from_the_start(
    wrap: Callable[[Any], Any], option: str, dtype: str
) -> None:
    variables = new_variables(dtype)
    optimizer = wrap(fo.AdamW(**{"weight_decay": 0.1, **OPTIONS[option]}))
    optimizer.exclude_from_weight_decay([variables[1]], ["gain"])
    optimizer.build(dict(zip(NAMES, variables, strict=True)))
    check_stateless(optimizer, variables, dtype)


@wrapped_or_not
def test_stateless_apply_from_other_values(wrap: Callable[[Any], Any]) -> None:
    optimizer, source = (wrap(fo.Adam(learning_rate=Halving(), use_ema=True)) for _ in range(2))
    optimizer.build(new_variables())
    variables = new_variables()
    source.build(variables)
    take_steps(source, range(3))
    values = [np.array(variable) for variable in source.variables]
    new, state = optimizer.stateless_apply(values, gradients(3, source.scale_loss(1.0)), variables)
    take_steps(source, range(3, 4))
    assert bits(new) == bits(variables)
    assert bits(state) == bits(source.variables)
    assert optimizer.iterations == 0


def test_stateless_apply_of_a_skipped_step() -> None:
    w = np.ones(3)
    optimizer = fo.LossScaleOptimizer(fo.Adam(), initial_scale=8.0)
    optimizer.build([w])
    new, state = optimizer.stateless_apply(optimizer.variables, [np.full(3, math.inf)], [w])
    assert optimizer.dynamic_scale == 8.0
    assert new[0].tolist() == [1.0] * 3
    assert float(state[3]) == 4.0


def test_stateless_apply_may_read_and_write_read_only_values() -> None:
    w = np.ones(3)
    optimizer = fo.SGD(learning_rate=1.0, momentum=0.5)
    optimizer.build([w])
    values = [np.array(variable) for variable in optimizer.variables]
    for value in [*values, w]:
        value.flags.writeable = False
    new, _ = optimizer.stateless_apply(values, [np.ones(3)], [w])
    assert new[0].tolist() == [0.0] * 3


# Refused


@pytest.mark.parametrize(
    ("variables", "grads", "part"),
    [
        (lambda w: w[:3], lambda g: g[:3], "expected"),
        (lambda w: [*w[:3], np.zeros(4)], lambda g: g, "expected"),
        (lambda w: w, lambda g: g[:3], "expected 4 gradients"),
        (lambda w: w, lambda g: [None] * 4, "No gradients"),
    ],
    ids=["variables", "shape", "gradients", "none"],
)
def test_refused_stateless_apply(
    subject: Subject, variables: Callable[[Any], Any], grads: Callable[[Any], Any], part: str
) -> None:
    with subject.refuses(ValueError, part):
        subject.optimizer.stateless_apply(
            stored(subject), grads(subject.gradients()), variables(subject.variables)
        )
    with subject.refuses(ValueError, "expected", "arrays, found"):
        subject.optimizer.stateless_apply([], subject.gradients(), subject.variables)
