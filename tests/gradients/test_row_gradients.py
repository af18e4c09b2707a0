"""Gradients of rows: what they stand for, and that they are taken wherever a gradient is."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import fusedopt as fo
import ml_dtypes
import numpy as np
import pytest
from reference import Array

FLOATS = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
every_optimizer = pytest.mark.parametrize(
    "make",
    [
        lambda: fo.SGD(0.5),
        lambda: fo.MultiOptimizer(fo.OptimizerMap(fo.SGD(0.5), {"table": fo.SGD(0.5)})),
        lambda: fo.LossScaleOptimizer(fo.SGD(0.5), initial_scale=1.0),
        lambda: fo.LossScaleOptimizer(
            fo.MultiOptimizer(fo.OptimizerMap(fo.SGD(0.5), {"table": fo.SGD(0.5)})), 1.0
        ),
    ],
    ids=["rule", "multi", "loss_scale", "multi_in_loss_scale"],
)


def model() -> dict[str, Array]:
    random = np.random.default_rng(3)
    return {
        "table": random.normal(size=(6, 3)).astype(np.float32),
        "vector": random.normal(size=4),
        "kernel": random.normal(size=(2, 2)).astype(np.float32),
    }


def rows_of(variable: Array, indices: Any, dtype: Any = None) -> fo.RowGradient:
    """Values that are exact in every type, so that sums are."""
    shape = (len(indices), *variable.shape[1:])
    values = np.arange(1, 1 + np.prod(shape, dtype=int)).reshape(shape) / 8 - 1
    return fo.RowGradient(
        values.astype(variable.dtype if dtype is None else dtype), np.array(indices, np.int64)
    )


def dense(gradient: fo.RowGradient, variable: Array) -> Array:
    total = np.zeros(variable.shape)
    np.add.at(total, gradient.indices, gradient.values.astype(np.float64))
    return total


def gradients(variables: dict[str, Array]) -> dict[str, Any]:
    return {
        "table": rows_of(variables["table"], [4, 1, 4, 0]),
        "vector": rows_of(variables["vector"], [3, 0]),
        "kernel": np.full((2, 2), 0.25, np.float32),
    }


def by_name(optimizer: Any, variables: dict[str, Array]) -> None:
    optimizer.apply(gradients(variables))


def by_some_names(optimizer: Any, variables: dict[str, Array]) -> None:
    given = gradients(variables)
    optimizer.apply({name: given[name] for name in ("kernel", "vector", "table")})


def in_a_list(optimizer: Any, variables: dict[str, Array]) -> None:
    optimizer.apply(list(gradients(variables).values()))


def from_a_generator(optimizer: Any, variables: dict[str, Array]) -> None:
    optimizer.apply(gradient for gradient in gradients(variables).values())


def beside_variables(optimizer: Any, variables: dict[str, Array]) -> None:
    given = gradients(variables)
    order = ["vector", "kernel", "table"]
    optimizer.apply([given[name] for name in order], [variables[name] for name in order])


def in_pairs(optimizer: Any, variables: dict[str, Array]) -> None:
    given = gradients(variables)
    count = optimizer.apply_gradients([(given[name], w) for name, w in variables.items()])
    assert count == optimizer.iterations


def stateless(optimizer: Any, variables: dict[str, Array]) -> None:
    new, state = optimizer.stateless_apply(
        optimizer.variables, list(gradients(variables).values()), list(variables.values())
    )
    for variable, value in zip(variables.values(), new, strict=True):
        variable[...] = value
    optimizer.set_weights(state)


WAYS = [by_name, by_some_names, in_a_list, from_a_generator, beside_variables, in_pairs, stateless]


@pytest.mark.parametrize("way", WAYS)
@every_optimizer
def test_every_way_to_give_gradients(
    make: Callable[[], Any], way: Callable[[Any, dict[str, Array]], None]
) -> None:
    variables, expected = model(), model()
    optimizer = make()
    optimizer.build(variables)
    for _ in range(3):
        way(optimizer, variables)
        for name, gradient in gradients(expected).items():
            is_rows = isinstance(gradient, fo.RowGradient)
            full = dense(gradient, expected[name]) if is_rows else gradient
            expected[name] -= (0.5 * full).astype(expected[name].dtype)
    assert optimizer.iterations == 3
    for name, variable in variables.items():
        np.testing.assert_array_equal(variable, expected[name], err_msg=name)


@pytest.mark.filterwarnings("ignore:optimizer_map. no variable's name matches")
@every_optimizer
def test_first_use_builds(make: Callable[[], Any]) -> None:
    variable = np.zeros((3, 2))
    optimizer = make()
    optimizer.apply([rows_of(variable, [1])], [variable])
    assert optimizer.built
    assert variable[1].all()
    assert not variable[::2].any()


@pytest.mark.parametrize("of_values", FLOATS)
@pytest.mark.parametrize("of_variable", FLOATS)
@pytest.mark.parametrize("of_indices", [np.int32, np.int64])
def test_types(of_variable: Any, of_values: Any, of_indices: Any) -> None:
    variable, other = (np.linspace(-1, 1, 10).reshape(5, 2).astype(of_variable) for _ in range(2))
    gradient = rows_of(variable, [3, 0, 3], of_values)
    gradient.indices = gradient.indices.astype(of_indices)
    optimizer, plain = fo.SGD(0.5), fo.SGD(0.5)
    optimizer.build([variable])
    plain.build([other])
    for _ in range(2):
        optimizer.apply([gradient])
        plain.apply([dense(gradient, other).astype(of_values)])
    assert variable.tobytes() == other.tobytes()


@pytest.mark.parametrize("shape", [(7,), (7, 1), (7, 3), (7, 2, 3), (7, 1, 2, 2), (7, 0)], ids=str)
def test_rows_of_every_shape(shape: tuple[int, ...]) -> None:
    variable, other = np.ones(shape), np.ones(shape)
    gradient = rows_of(variable, [6, 2, 6, 6])
    optimizer, plain = fo.SGD(0.5), fo.SGD(0.5)
    optimizer.build([variable])
    plain.build([other])
    optimizer.apply([gradient])
    plain.apply([dense(gradient, other)])
    assert variable.tobytes() == other.tobytes()


def strided(array: Array) -> Array:
    return np.repeat(array, 2, axis=0)[::2]


def reversed_twice(array: Array) -> Array:
    return np.ascontiguousarray(array[::-1])[::-1]


def in_fortran_order(array: Array) -> Array:
    return np.asfortranarray(array)


def read_only(array: Array) -> Array:
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("laid_out", [strided, reversed_twice, in_fortran_order, read_only])
def test_layouts(laid_out: Callable[[Array], Array]) -> None:
    variable, other = (np.ones((5, 3), np.float32) for _ in range(2))
    given = rows_of(variable, [4, 0, 2, 0])
    optimizer, plain = fo.SGD(0.5), fo.SGD(0.5)
    optimizer.build([variable])
    plain.build([other])
    optimizer.apply([fo.RowGradient(laid_out(given.values), laid_out(given.indices))])
    plain.apply([given])
    assert variable.tobytes() == other.tobytes()
    assert (variable[1] == 1).all()


@every_optimizer
def test_no_rows_are_a_step(make: Callable[[], Any]) -> None:
    variables, before = model(), model()
    optimizer = make()
    optimizer.build(variables)
    optimizer.apply({"table": rows_of(variables["table"], []), "kernel": np.zeros((2, 2))})
    assert optimizer.iterations == 1
    assert [w.tobytes() for w in variables.values()] == [w.tobytes() for w in before.values()]


def test_what_is_left_out_lies_still() -> None:
    table, small = np.ones((6, 3), np.float32), np.ones((2, 3), np.float32)
    options = {"learning_rate": 0.1, "weight_decay": 0.1, "clipvalue": 0.5}
    optimizer, plain = (fo.AdamW(amsgrad=True, **options) for _ in range(2))  # type: ignore[arg-type]
    optimizer.build([table])
    plain.build([small])
    for step in range(4):
        values = np.cos(np.arange(6, dtype=np.float32) + step).reshape(2, 3)
        optimizer.apply([fo.RowGradient(values[::-1], np.array([4, 1]))])
        plain.apply([values])
    for array, expected in zip(
        [table, *optimizer.variables[2:]], [small, *plain.variables[2:]], strict=True
    ):
        assert array[[1, 4]].tobytes() == expected.tobytes()
        assert len(np.unique(array[[0, 2, 3, 5]])) == 1
    assert (table[0] == 1).all()


def test_norms_see_sums() -> None:
    table, kernel = np.zeros((4, 1)), np.zeros(1)
    optimizer = fo.SGD(1.0, global_clipnorm=1.0)
    optimizer.build([table, kernel])
    optimizer.apply(
        [fo.RowGradient(np.array([[1.0], [3.0], [2.0]]), np.array([2, 0, 2])), np.full(1, 12.0)]
    )
    assert optimizer.global_norm == np.sqrt(3**2 + 3**2 + 12**2)
    np.testing.assert_allclose(table.T, -np.array([[3, 0, 3, 0]]) / optimizer.global_norm)


def test_an_overflow_skips_the_whole_step() -> None:
    variables, before = model(), model()
    optimizer = fo.LossScaleOptimizer(fo.Adam(), initial_scale=8.0)
    optimizer.build(variables)
    given = gradients(variables)
    given["table"].values[2, 1] = np.inf
    optimizer.apply(given)
    assert optimizer.consecutive_skipped_steps == 1
    assert optimizer.dynamic_scale == 4.0
    assert [w.tobytes() for w in variables.values()] == [w.tobytes() for w in before.values()]


def test_next_to_none() -> None:
    variables = model()
    optimizer = fo.SGD(0.5)
    optimizer.build(variables)
    kernel = variables["kernel"].copy()
    with pytest.warns(UserWarning, match="No gradient for variable 2 \\('kernel'\\); left"):
        optimizer.apply([*list(gradients(variables).values())[:2], None])
    assert variables["kernel"].tobytes() == kernel.tobytes()


def test_rows_and_dense_gradients_take_turns() -> None:
    variables, expected = ([np.ones((4, 2)) for _ in range(3)] for _ in range(2))
    optimizer, plain = fo.SGD(0.25), fo.SGD(0.25)
    optimizer.build(variables)
    plain.build(expected)
    for step in range(16):
        rows = [rows_of(w, [(step + i) % 4, i]) for i, w in enumerate(variables)]
        full = [dense(gradient, w) for gradient, w in zip(rows, variables, strict=True)]
        optimizer.apply([rows[i] if step >> i & 1 else full[i] for i in range(3)])
        plain.apply(full)
    assert [w.tobytes() for w in variables] == [w.tobytes() for w in expected]


# What the call holds


def test_the_parts_live_as_long_as_the_step() -> None:
    table = np.zeros((4, 256))
    gradient = fo.RowGradient(np.ones((2, 256)), np.array([3, 0]))
    parts = [weakref.ref(gradient.values), weakref.ref(gradient.indices)]
    alive: list[bool] = []

    def rate() -> float:
        gradient.values = gradient.indices = None
        gc.collect()
        alive.extend(part() is not None for part in parts)
        return 1.0

    optimizer = fo.SGD(rate)
    optimizer.build([table])
    optimizer.apply([gradient])
    gc.collect()
    assert alive == [True, True]
    assert [part() for part in parts] == [None, None]
    np.testing.assert_array_equal(table[:, 0], [-1, 0, 0, -1])


# The object itself


def test_it_keeps_what_it_is_given() -> None:
    values, indices = np.ones((2, 3)), np.array([0, 1])
    gradient = fo.RowGradient(values, indices)
    assert gradient.values is values
    assert gradient.indices is indices
    assert fo.RowGradient(indices=indices, values=values).values is values
    with pytest.raises(AttributeError):
        gradient.value = values  # type: ignore[attr-defined]


def test_it_shows_types_and_shapes() -> None:
    gradient = fo.RowGradient(np.ones((2, 3), np.float32), np.array([0, 1]))
    assert repr(gradient) == (
        "RowGradient(values=<ndarray of float32, shape (2, 3)>, "
        "indices=<ndarray of int64, shape (2,)>)"
    )
    assert repr(fo.RowGradient([1.0], None)) == "RowGradient(values=<list>, indices=<NoneType>)"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles(protocol: int) -> None:
    gradient = fo.RowGradient(np.ones((2, 3), np.float32), np.array([0, 1]))
    new = pickle.loads(pickle.dumps(gradient, protocol))
    assert type(new) is fo.RowGradient
    np.testing.assert_array_equal(new.values, gradient.values)
    np.testing.assert_array_equal(new.indices, gradient.indices)


def test_copies() -> None:
    gradient = fo.RowGradient(np.ones((2, 3), np.float32), np.array([0, 1]))
    assert copy.copy(gradient).values is gradient.values
    deep = copy.deepcopy(gradient)
    assert not np.shares_memory(deep.values, gradient.values)
    np.testing.assert_array_equal(deep.indices, gradient.indices)


def test_a_subclass_is_one() -> None:
    class Mine(fo.RowGradient):
        pass

    table = np.zeros((2, 1))
    optimizer = fo.SGD(1.0)
    optimizer.build([table])
    optimizer.apply([Mine(np.ones((1, 1)), np.array([1]))])
    assert table.tolist() == [[0.0], [-1.0]]
