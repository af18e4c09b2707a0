"""The variables of a step: some of those built, in any order or in pairs. Others are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from reference import Array
from subject import OPTIMIZERS, Subject
from training import everything, gradients, new_variables, take_steps, wrapped_or_not


def test_build_twice_with_the_same_variables_does_nothing() -> None:
    variables = new_variables()
    optimizer = fo.Adam()
    optimizer.build(variables)
    take_steps(optimizer, range(2))
    before = everything(optimizer, variables)
    optimizer.build([w[...] for w in variables])
    assert everything(optimizer, variables) == before


@pytest.mark.parametrize(
    "pairs",
    [list, tuple, iter, lambda pairs: (pair for pair in pairs), lambda pairs: map(list, pairs)],
    ids=["list", "tuple", "iterator", "generator", "lists"],
)
@wrapped_or_not
def test_apply_gradients(wrap: Callable[[Any], Any], pairs: Callable[[Any], Any]) -> None:
    variables, expected = new_variables(), new_variables()
    optimizer, reference = wrap(fo.Adam()), wrap(fo.Adam())
    reference.build(expected)
    for step in range(3):
        found = zip(gradients(step), variables, strict=True)
        assert optimizer.apply_gradients(pairs(found)) == step + 1
        reference.apply(gradients(step))
        assert everything(optimizer, variables) == everything(reference, expected)


@pytest.mark.parametrize("order", [[2, 0, 1], [1], [2, 1], [0, 2]], ids=str)
def test_some_variables_in_any_order(order: list[int]) -> None:
    variables, expected = new_variables(), new_variables()
    optimizer, reference = fo.Adam(weight_decay=0.1), fo.Adam(weight_decay=0.1)
    optimizer.build(variables)
    reference.build(expected)
    for step in range(3):
        some = gradients(step)
        optimizer.apply([some[i] for i in order], [variables[i] for i in order])
        chosen = [some[i] if i in order else None for i in range(3)]
        if any(gradient is None for gradient in chosen):
            with pytest.warns(UserWarning, match="No gradient for"):
                reference.apply(chosen)
        else:
            reference.apply(chosen)
        assert everything(optimizer, variables) == everything(reference, expected)


def test_first_step_builds_on_all_its_variables() -> None:
    variables = new_variables()
    optimizer = fo.Adam()
    some = gradients(0)
    with pytest.warns(UserWarning, match="No gradient for variable at position 1"):
        optimizer.apply([some[0], None, some[2]], variables)
    assert optimizer.built
    assert len(optimizer.variables) == 2 + 2 * 3
    assert variables[1].tobytes() == new_variables()[1].tobytes()
    optimizer.apply([some[1]], [variables[1]])
    assert variables[1].tobytes() != new_variables()[1].tobytes()


# Refused


def test_unknown_variable(subject: Subject) -> None:
    other = np.zeros((2, 3), dtype=np.float32)
    variables = [subject.variables[1], other]
    gradients = [np.ones(2), np.ones((2, 3), dtype=np.float32)]
    parts = "variable at position 1", "expected one given to build", "shape (2, 3)"
    with subject.refuses(ValueError, *parts):
        subject.optimizer.apply(gradients, variables)


@pytest.mark.parametrize(
    "make",
    [
        lambda w: w.copy(),
        lambda w: w[:1],
        lambda w: w[::-1],
        lambda w: w[:, :2],
        lambda w: w.reshape(-1)[1:],
        lambda w: w.T,
        lambda w: w.reshape(3, 2).T,
    ],
    ids=["copy", "part", "reversed", "columns", "tail", "transposed", "reordered"],
)
def test_other_view_of_a_variable(subject: Subject, make: Callable[[Array], Array]) -> None:
    view = make(subject.variables[0])
    gradient = np.ones(view.shape, dtype=np.float32)
    with subject.refuses(ValueError, "position 0"):
        subject.optimizer.apply([gradient], [view])


def test_transposed_variable_is_not_taken_for_the_built_one() -> None:
    w = np.zeros((3, 3))
    optimizer = fo.SGD(learning_rate=1.0)
    optimizer.build([w])
    with pytest.raises(ValueError, match="variable at position 0"):
        optimizer.apply([np.arange(9.0).reshape(3, 3)], [w.T])
    assert not w.any()


def test_variable_twice_in_a_step(subject: Subject) -> None:
    gradient, w = subject.gradients()[1], subject.variables[1]
    parts = "expected each variable once", "variable 1 ('bias') twice"
    with subject.refuses(ValueError, *parts):
        subject.optimizer.apply([gradient, gradient], [w, w])
    with subject.refuses(ValueError, *parts):
        subject.optimizer.apply_gradients([(gradient, w), (-gradient, w[:])])


@pytest.mark.parametrize(
    ("call", "error", "part"),
    [
        (lambda o: o.apply([np.ones(2)]), ValueError, "not built"),
        (lambda o: o.apply({"w": np.ones(2)}), ValueError, "not built"),
        (lambda o: o.set_weights(o.variables), ValueError, "not built"),
        (lambda o: o.load_own_variables({"0": 0, "1": 0.1}), ValueError, "not built"),
        (lambda o: o.load_own_variables(dict.fromkeys("0123456", 0)), ValueError, "not built"),
        (lambda o: o.finalize_variable_values([np.ones(2)]), ValueError, "not built"),
        (lambda o: o.stateless_apply([], [], []), ValueError, "not built"),
    ],
)
@pytest.mark.parametrize("kind", ["ema", "loss_scale"])
def test_call_before_build(
    kind: str, call: Callable[[Any], Any], error: type[Exception], part: str
) -> None:
    optimizer = OPTIMIZERS[kind]()
    with pytest.raises(error, match=part):
        call(optimizer)
    assert not optimizer.built
    assert optimizer.iterations == 0
