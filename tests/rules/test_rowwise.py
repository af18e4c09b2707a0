"""One second moment per row: exact bits, what the moments are, and which variables have rows."""

from __future__ import annotations

from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import OPTIONS, ROWWISE, Case
from fusedopt import _core
from machine import LEVELS
from reference import Array, Reference
from sample_arrays import numbers, same_bits

# Rows of one element, of less and more than a cache line, a tile, more than a tile; three dimensions; no rows.
SHAPES = [
    *((6, 1), (5, 7), (3, 33), (19, 16), (4, 1024), (3, 2500), (1, 40)),
    *((7, 5, 3), (2, 3, 500), (40,), (), (0, 4)),
]
MOMENTS = {"velocity", "velocity_hat", "accumulator"}
STEPS = 5

every_case = pytest.mark.parametrize("case", ROWWISE, ids=str)


def variables(dtype: Any = np.float32) -> list[Array]:
    return [numbers(shape, dtype, seed=k) for k, shape in enumerate(SHAPES)]


def gradients(step: int, factor: float, dtype: Any = np.float32) -> list[Any]:
    grads: list[Any] = [
        numbers(shape, np.float64, seed=100 * step + k + 50) * factor
        for k, shape in enumerate(SHAPES)
    ]
    grads = [np.asarray(g, dtype) for g in grads]
    if step == 2:
        grads[3] = None
    return grads


def made(case: Case, **arguments: Any) -> Any:
    return getattr(fo, case.rule)(**{**case.arguments, **arguments})


def moments(optimizer: Any) -> dict[str, Array]:
    named = optimizer.named_variables()
    return {name: array for name, array in named.items() if name.partition("/")[0] in MOMENTS}


@pytest.mark.filterwarnings("ignore:No gradient for variable 3")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("option", OPTIONS)
@every_case
def test_bits_of_the_reference(case: Case, option: str, dtype: Any) -> None:
    arguments = {**case.arguments, **OPTIONS[option]}
    factor = arguments.get("loss_scale_factor", 1.0)
    reference = Reference(case.rule, **arguments)
    reference.build(variables(dtype), excluded=(1,))
    for step in range(STEPS):
        reference.apply(gradients(step, factor, dtype))
    threads, level = fo.get_num_threads(), _core.level()
    try:
        for number, name in [*((1, name) for name in LEVELS), (3, level)]:
            fo.set_num_threads(number)
            _core.set_level(name)
            optimizer, weights = getattr(fo, case.rule)(**arguments), variables(dtype)
            optimizer.exclude_from_weight_decay([weights[1]])
            optimizer.build(weights)
            for step in range(STEPS):
                optimizer.apply(gradients(step, factor, dtype))
            for mine, expected in zip(weights, reference.stored(), strict=True):
                assert same_bits(mine, expected)
            for mine, expected in zip(optimizer.variables, reference.variables(), strict=True):
                assert same_bits(mine, expected)
            assert optimizer.global_norm == reference.global_norm
    finally:
        fo.set_num_threads(threads)
        _core.set_level(level)


TABLES = [(50, 1), (50, 7), (40, 16), (30, 5, 7), (20, 1100), (60,)]
ROW_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipnorm": {"weight_decay": 0.02, "clipnorm": 0.5, "loss_scale_factor": 64.0},
    "clipvalue": {"weight_decay": 0.02, "clipvalue": 0.3},
    "global_clipnorm": {"weight_decay": 0.02, "global_clipnorm": 0.7},
}


def row_gradients(step: int, dtype: Any) -> list[Any]:
    random = np.random.default_rng(step)
    grads: list[Any] = []
    for shape in TABLES:
        indices = random.integers(0, shape[0], random.integers(1, shape[0] // 2))
        values = random.standard_normal((len(indices), *shape[1:])).astype(dtype)
        grads.append(fo.RowGradient(values, indices))
    if step == 3:
        grads[1] = numbers(TABLES[1], dtype)  # a dense one
    return grads


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("option", ROW_OPTIONS)
@pytest.mark.parametrize("row_updates", ["lazy", "caught_up"])
@every_case
def test_gradients_of_rows(case: Case, row_updates: Any, option: str, dtype: Any) -> None:
    arguments = {**case.arguments, **ROW_OPTIONS[option], "row_updates": row_updates}
    initial = [numbers(shape, dtype, seed=k) for k, shape in enumerate(TABLES)]
    reference = Reference(case.rule, **arguments)
    reference.build(initial)
    for step in range(STEPS):
        reference.apply(row_gradients(step, dtype))
    for number in (1, 3):
        with_threads, weights = getattr(fo, case.rule)(**arguments), [w.copy() for w in initial]
        with_threads.build(weights)
        before = fo.get_num_threads()
        try:
            fo.set_num_threads(number)
            for step in range(STEPS):
                with_threads.apply(row_gradients(step, dtype))
        finally:
            fo.set_num_threads(before)
        for mine, expected in zip(with_threads.variables, reference.variables(), strict=True):
            assert same_bits(mine, expected)
        for mine, expected in zip(weights, reference.stored(), strict=True):
            assert same_bits(mine, expected)


@every_case
def test_a_row_has_one_moment(case: Case) -> None:
    optimizer = made(case)
    optimizer.build(dict(zip("abcdefghijkl", variables(), strict=True)))
    found = moments(optimizer)
    assert found
    for name, array in found.items():
        shape = SHAPES["abcdefghijkl".index(name.partition("/")[2])]
        assert array.shape == (shape[:1] if len(shape) > 1 else shape)
    plain = made(case, rowwise=False)
    plain.build(dict(zip("abcdefghijkl", variables(), strict=True)))
    assert list(optimizer.named_variables()) == list(plain.named_variables())


@every_case
def test_arrays_without_rows_are_as_ever(case: Case) -> None:
    results = []
    for rowwise in (True, False):
        optimizer, weights = made(case, rowwise=rowwise), variables()[-3:-1]
        optimizer.build(weights)
        for step in range(3):
            optimizer.apply(gradients(step, 1.0)[-3:-1])
        results.append([array.tobytes() for array in (*weights, *optimizer.variables)])
    assert results[0] == results[1]


@every_case
def test_a_row_of_equal_magnitudes_is_as_ever(case: Case) -> None:
    """The mean of equal squares is each of them."""
    sign = np.sign(numbers((4, 8)))
    results = []
    for rowwise in (True, False):
        w = np.ones((4, 8))
        optimizer = made(case, rowwise=rowwise)
        optimizer.build([w])
        for step in range(4):
            optimizer.apply([sign * np.array([[0.5], [2.0], [0.25], [1.0]]) * 2.0**-step])
        results.append(w.tobytes())
    assert results[0] == results[1]


def test_known_numbers() -> None:
    w = np.zeros((2, 2))
    optimizer = fo.Adagrad(1.0, initial_accumulator_value=0.0, rowwise=True)
    optimizer.build([w])
    optimizer.apply([np.array([[3.0, 4.0], [0.0, 2.0]])])
    (accumulator,) = moments(optimizer).values()
    assert accumulator.tolist() == [12.5, 2.0]
    np.testing.assert_allclose(w, [[-3 / 12.5**0.5, -4 / 12.5**0.5], [0.0, -(2**0.5)]], rtol=1e-7)


def test_numbers_of_fbgemm() -> None:
    """Its rowwise Adagrad adds epsilon to the root, so one that is next to nothing is taken."""
    w, a = numbers((50, 24), np.float32), np.zeros(50)
    expected = w.astype(np.float64)
    optimizer = fo.Adagrad(0.1, initial_accumulator_value=0.0, epsilon=1e-30, rowwise=True)
    optimizer.build([w])
    for step in range(20):
        g = numbers((50, 24), np.float32, seed=step)
        optimizer.apply([g])
        a += np.square(g, dtype=np.float64).mean(axis=1)
        expected -= 0.1 * g / (np.sqrt(a) + 1e-15)[:, None]
    np.testing.assert_allclose(moments(optimizer)["accumulator/0"], a, rtol=3e-6)
    np.testing.assert_allclose(w, expected, rtol=1e-5, atol=1e-6)


@every_case
def test_a_nan_stays_in_its_row(case: Case) -> None:
    w = np.ones((3, 40))
    optimizer = made(case)
    optimizer.build([w])
    g = np.ones((3, 40))
    g[1, 7] = np.nan
    optimizer.apply([g])
    assert np.isnan(w[1]).all()
    assert np.isfinite(w[[0, 2]]).all()
    for moment in moments(optimizer).values():
        assert np.isnan(moment).tolist() == [False, True, False]


@every_case
def test_rows_of_nothing(case: Case) -> None:
    w = np.ones((3, 0))
    optimizer = made(case)
    optimizer.build([w, np.ones(1)])
    before = [moment.tobytes() for moment in moments(optimizer).values()][:1]
    optimizer.apply([np.ones((3, 0)), np.ones(1)])
    assert [moment.tobytes() for moment in moments(optimizer).values()][:1] == before


def test_the_centered_form_has_no_rows() -> None:
    with pytest.raises(
        ValueError, match="^centered, rowwise: expected at most one of them, found both"
    ):
        fo.RMSprop(centered=True, rowwise=True)
    optimizer = fo.RMSprop(rowwise=True)
    with pytest.raises(ValueError, match="^centered, rowwise: expected at most one of them"):
        optimizer.centered = True
    assert optimizer.get_config() == fo.RMSprop(rowwise=True).get_config()


@every_case
def test_wrappers_change_nothing(case: Case) -> None:
    kinds: list[Any] = [
        lambda optimizer: optimizer,
        lambda optimizer: fo.LossScaleOptimizer(optimizer, initial_scale=1.0),
        lambda optimizer: fo.MultiOptimizer(fo.OptimizerMap(optimizer)),
    ]
    results = []
    for wrap in kinds:
        weights = variables()
        optimizer = wrap(made(case))
        optimizer.build({str(k): w for k, w in enumerate(weights)})
        for step in (0, 1):
            optimizer.apply(gradients(step, 1.0))
        results.append([w.tobytes() for w in weights])
    assert results[0] == results[1] == results[2]
