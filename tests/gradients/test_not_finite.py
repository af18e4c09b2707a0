"""NaN and infinity in a gradient or in the state show wherever the NumPy reference shows them, at every level."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fusedopt as fo
import ml_dtypes
import numpy as np
import pytest
from cases import CASES, VARIANTS, Case
from fusedopt import _core
from machine import LEVELS
from reference import Array, Reference
from selection import first

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")

SHAPES = [(70,), (5, 9), (2, 4, 3)]


@pytest.fixture(autouse=True)
def restore_level() -> Iterator[None]:
    level = _core.level()
    yield
    _core.set_level(level)


def gradients(step: int, special: float) -> list[Array]:
    rng = np.random.default_rng(step)
    grads = [rng.standard_normal(shape).astype(np.float32) for shape in SHAPES]
    if step == 1:
        for g in grads:
            g.flat[2] = g.flat[-1] = special
    return grads


def variables(dtype: Any) -> list[Array]:
    rng = np.random.default_rng(7)
    return [rng.standard_normal(shape).astype(dtype) for shape in SHAPES]


def assert_same(found: list[Array], expected: list[Array]) -> None:
    for i, (mine, other) in enumerate(zip(found, expected, strict=True)):
        np.testing.assert_array_equal(
            mine.astype(np.float64), other.astype(np.float64), err_msg=f"array {i}"
        )


@pytest.mark.parametrize("special", first(2, [np.nan, np.inf, -np.inf]))
@pytest.mark.parametrize("case", [case for case in CASES if case.rule != "Muon"], ids=str)
def test_as_in_the_reference(case: Case, special: float) -> None:
    for dtype in (np.float32, np.float64, np.float16):
        reference = Reference(case.rule, **case.arguments)
        reference.build(variables(dtype))
        for step in range(5):
            reference.apply(list(gradients(step, special)))
        for level in LEVELS:
            _core.set_level(level)
            mine = variables(dtype)
            optimizer = getattr(fo, case.rule)(**case.arguments)
            optimizer.build(mine)
            for step in range(5):
                optimizer.apply(gradients(step, special))
            assert_same(mine, reference.stored())
            assert_same(optimizer.variables, reference.variables())


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
def test_muon(dtype: Any, special: float) -> None:
    matrix = np.ones((4, 6), dtype)
    optimizer = fo.Muon()
    optimizer.build([matrix])
    gradient = np.ones((4, 6), np.float32)
    gradient[1, 2] = special
    optimizer.apply([gradient])
    assert np.isnan(matrix.astype(np.float64)).all()
    assert not np.isfinite(optimizer.variables[2][1, 2])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("case", VARIANTS, ids=str)
def test_a_nan_of_the_state_stays(case: Case, dtype: Any) -> None:
    """Whichever slot holds it, it reaches the weight and the slot keeps it."""
    count = sum(v.dtype.kind == "f" and v.shape == (20,) for v in state_of(case, dtype))
    for slot in range(count):
        for level in LEVELS:
            _core.set_level(level)
            w = np.ones(20, dtype)
            optimizer = getattr(fo, case.rule)(**case.arguments)
            optimizer.build([w])
            optimizer.apply([np.full(20, 0.5, np.float32)])
            slots = [v for v in optimizer.variables if v.dtype.kind == "f" and v.shape == (20,)]
            slots[slot][[3, 19]] = np.nan
            optimizer.apply([np.full(20, 0.5, np.float32)])
            optimizer.apply([np.full(20, 0.25, np.float32)])
            found = np.isnan(w.astype(np.float64))
            if case.rule == "Adafactor":  # the update's root mean square is NaN
                assert found.all()
            else:
                assert found.nonzero()[0].tolist() == [3, 19]
            assert np.isnan(slots[slot][[3, 19]]).all()


def state_of(case: Case, dtype: Any) -> list[Array]:
    optimizer = getattr(fo, case.rule)(**case.arguments)
    optimizer.build([np.ones(20, dtype)])
    variables: list[Array] = optimizer.variables
    return variables


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_adafactor_with_a_row_of_zeros_and_one_of_nan(dtype: Any) -> None:
    """0 divided by a mean of NaN is NaN, not the 0 of a row without a gradient."""
    for level in LEVELS:
        _core.set_level(level)
        w = np.ones((3, 4), dtype)
        optimizer = fo.Adafactor(epsilon_1=0.0)
        optimizer.build([w])
        gradient = np.ones((3, 4), np.float32)
        gradient[0] = 0.0
        gradient[2, 1] = np.nan
        optimizer.apply([gradient])
        assert np.isnan(w).all()
        assert np.isnan(optimizer.variables[4][0]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    "own",
    [
        {},
        {"initial_accumulator_value": 0.0},
        {"learning_rate_power": -0.3, "beta": 0.1},
        {
            "l1_regularization_strength": 0.05,
            "l2_regularization_strength": 0.1,
            "l2_shrinkage_regularization_strength": 0.02,
            "beta": 0.3,
            "weight_decay": 0.1,
        },
    ],
)
def test_ftrl_holds_still_at_the_end_of_its_schedule(own: dict[str, Any], dtype: Any) -> None:
    for level in LEVELS:
        _core.set_level(level)
        w = np.linspace(-1, 1, 70).astype(dtype)
        schedule = fo.schedules.PolynomialDecay(0.1, 2, end_learning_rate=0.0)
        optimizer = fo.Ftrl(learning_rate=schedule, **own)
        optimizer.build([w])
        rng = np.random.default_rng(3)
        for _ in range(2):
            optimizer.apply([rng.standard_normal(70).astype(np.float32)])
        before = [w.tobytes(), *(v.tobytes() for v in optimizer.variables[1:])]
        for _ in range(3):
            optimizer.apply([rng.standard_normal(70).astype(np.float32)])
        assert [w.tobytes(), *(v.tobytes() for v in optimizer.variables[1:])] == before
        assert optimizer.iterations == 5
        assert np.isfinite(w.astype(np.float64)).all()
        optimizer.learning_rate = fo.schedules.PiecewiseConstantDecay([4], [0.0, 0.1])
        optimizer.apply([np.ones(70, np.float32)])  # and it goes on
        assert np.isfinite(w.astype(np.float64)).all()
        assert w.tobytes() != before[0]
