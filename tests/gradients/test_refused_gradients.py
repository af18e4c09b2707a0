"""Gradients that a step refuses: wrong in number, shape, dtype, kind or name. A refusal changes nothing."""

from __future__ import annotations

from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from subject import FLOATS, NAMES, OPTIMIZERS, OTHER_DTYPES, Elsewhere, Subject


@pytest.mark.parametrize("count", [1, 3, 5])
def test_number_of_gradients(subject: Subject, count: int) -> None:
    gradients = (subject.gradients() * 2)[:count]
    with subject.refuses(ValueError, "expected 4 gradients", f"found {count}"):
        subject.optimizer.apply(gradients)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_number_of_gradients_beside_variables(subject: Subject, count: int) -> None:
    message = f"apply: expected 2 gradients, one for each variable, found {count}"
    with subject.refuses(ValueError, message) as caught:
        subject.optimizer.apply(subject.gradients()[:count], subject.variables[:2])
    assert str(caught.value) == message


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("kind", [*OPTIMIZERS, "multi_optimizer"])
def test_number_of_gradients_before_build(kind: str, count: int) -> None:
    optimizer: Any = (
        fo.MultiOptimizer(fo.OptimizerMap(fo.SGD()))
        if kind not in OPTIMIZERS
        else OPTIMIZERS[kind]()
    )
    variables = [np.ones(2), np.ones(3)]
    with pytest.raises(ValueError, match=f"expected 2 gradients, .* found {count}$"):
        optimizer.apply((np.ones(2) for _ in range(count)), variables)
    assert not optimizer.built
    optimizer.apply([np.ones(2), np.ones(3)], variables)
    assert optimizer.built


SHAPES = [(1,), (), (1, 1), (3, 2), (6,), (2, 3, 1), (0,), (4,), (1,) * 32]


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("beside_variables", [False, True])
def test_shape_of_a_gradient(position: int, shape: tuple[int, ...], beside_variables: bool) -> None:
    subject = Subject("adamw")
    gradients = subject.gradients()
    expected = gradients[position].shape
    shape = (7, 7) if shape == expected else shape
    gradients[position] = np.zeros(shape, dtype=np.float32)
    parts = f"gradient of variable {position} ('{NAMES[position]}')", f"expected shape {expected}"
    with subject.refuses(ValueError, *parts, f"found {shape}"):
        subject.optimizer.apply(gradients, subject.variables if beside_variables else None)


def test_shape_of_a_gradient_in_every_optimizer(subject: Subject) -> None:
    gradients = subject.gradients()
    gradients[1] = gradients[1][:, None]
    parts = "gradient of variable 1 ('bias')", "expected shape (2,)", "found (2, 1)"
    with subject.refuses(ValueError, *parts):
        subject.optimizer.apply(gradients)


@pytest.mark.parametrize("dtype", OTHER_DTYPES)
def test_dtype_of_a_gradient(dtype: str) -> None:
    subject = Subject("loss_scale")
    gradients = subject.gradients()
    gradients[3] = np.zeros(3, dtype=dtype)
    parts = (
        "gradient of variable 3 ('half')",
        f"expected {FLOATS}",
        f"found dtype {np.dtype(dtype)}",
    )
    with subject.refuses(TypeError, *parts):
        subject.optimizer.apply(gradients)


def test_dtype_of_a_gradient_in_every_optimizer(subject: Subject) -> None:
    gradients = subject.gradients()
    gradients[0] = np.ones((2, 3), dtype=np.int32)
    parts = "gradient of variable 0 ('kernel')", f"expected {FLOATS}", "found dtype int32"
    with subject.refuses(TypeError, *parts):
        subject.optimizer.apply(gradients)


def test_dtype_of_a_gradient_beside_variables(subject: Subject) -> None:
    pairs = [
        (subject.gradients()[3], subject.variables[3]),
        (np.ones(2, dtype=np.int64), subject.variables[1]),
    ]
    with subject.refuses(TypeError, "gradient 1", f"expected {FLOATS}", "found dtype int64"):
        subject.optimizer.apply_gradients(pairs)


@pytest.mark.parametrize(
    ("gradient", "found"),
    [
        (1.5, "float"),
        ([1.0, 2.0], "list"),
        ("ab", "str"),
        (object(), "object"),
        (b"ab", "found dtype |S2"),
        (Elsewhere(), "Elsewhere"),
    ],
    ids=["float", "list", "str", "object", "bytes", "device"],
)
def test_gradient_that_is_no_array(subject: Subject, gradient: Any, found: str) -> None:
    gradients = subject.gradients()
    gradients[1] = gradient
    with subject.refuses(TypeError, "gradient of variable 1 ('bias')", "expected", found):
        subject.optimizer.apply(gradients)


NO_SEQUENCES = [np.zeros((4, 1)), "abcd", b"abcd", 5, 1.0]


@pytest.mark.parametrize("value", [*NO_SEQUENCES, None], ids=repr)
def test_gradients_that_are_no_sequence(subject: Subject, value: Any) -> None:
    with subject.refuses(TypeError, "grads", "expected a sequence", type(value).__name__):
        subject.optimizer.apply(value)


@pytest.mark.parametrize("value", NO_SEQUENCES, ids=repr)
def test_variables_that_are_no_sequence(subject: Subject, value: Any) -> None:
    parts = "trainable_variables", "expected a sequence", type(value).__name__
    with subject.refuses(TypeError, *parts):
        subject.optimizer.apply(subject.gradients(), value)


@pytest.mark.parametrize("pair", [(1,), (1, 2, 3), 5, None], ids=str)
def test_pairs_that_are_none(subject: Subject, pair: Any) -> None:
    pairs: list[Any] = list(zip(subject.gradients(), subject.variables, strict=True))
    pairs[2] = pair
    parts = "expected (gradient, variable) at position 2", type(pair).__name__
    with subject.refuses(ValueError, *parts):
        subject.optimizer.apply_gradients(pairs)


# By name


def test_unknown_names_of_gradients(subject: Subject) -> None:
    gradients = dict(zip(NAMES, subject.gradients(), strict=True))
    parts = "'kernel', 'bias', 'gain', 'half'", "found 'weight'"
    with subject.refuses(ValueError, *parts):
        subject.optimizer.apply({**gradients, "weight": np.ones(2)})
    with subject.refuses(ValueError, *parts):
        subject.optimizer.apply({"weight": np.ones(2)})


def test_gradients_by_name_beside_variables(subject: Subject) -> None:
    gradients = {"bias": np.ones(2)}
    with subject.refuses(TypeError, "expected a sequence", "found a dict"):
        subject.optimizer.apply(gradients, [subject.variables[1]])


def test_gradients_by_name_where_variables_have_none() -> None:
    w = np.ones(2)
    optimizer = fo.SGD()
    optimizer.build([w])
    with pytest.raises(ValueError, match="a dict; give build a dict of variables by name, too"):
        optimizer.apply({"0": np.ones(2)})
    assert w.tolist() == [1.0, 1.0]


def test_gradients_by_name_next_to_variables() -> None:
    w = {"w": np.ones(2)}
    optimizer = fo.SGD()
    for variables in (w, list(w.values())):
        with pytest.raises(
            TypeError, match="^grads: .* give gradients by name alone, and the vari"
        ):
            optimizer.apply({"w": np.ones(2)}, variables)
    assert not optimizer.built
