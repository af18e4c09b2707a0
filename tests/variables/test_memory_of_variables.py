"""The memory of variables and state: who owns it, what keeps it alive, and that listed state is live."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from reference import Array
from sample_arrays import DTYPES, same_bits


def test_neighbours_in_one_buffer_are_told_apart() -> None:
    buffer = np.zeros(12)
    w, x, y = buffer[:4].reshape(2, 2), buffer[4:8].reshape(2, 2), buffer[8:]
    optimizer = fo.SGD(learning_rate=1.0)
    optimizer.build([x, y, w])
    optimizer.apply([np.full(4, 3.0), np.full((2, 2), 1.0)], [buffer[8:], buffer[:4].reshape(2, 2)])
    assert buffer.tolist() == [-1.0] * 4 + [0.0] * 4 + [-3.0] * 4


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_variable_the_caller_let_go_stays_alive(dtype: np.dtype[Any]) -> None:
    w = np.ones(4096, dtype)
    alive = weakref.ref(w)
    optimizer = fo.SGD(learning_rate=0.5)
    optimizer.build({"w": w[:2048]})
    del w
    gc.collect()
    others = [np.full(4096, 7.0, dtype) for _ in range(64)]
    optimizer.apply({"w": np.ones(2048, dtype)})
    base = alive()
    assert base is not None
    assert (base[:2048] == 0.5).all()
    assert (base[2048:] == 1.0).all()
    assert all((other == 7.0).all() for other in others)
    del base, optimizer
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("wrap", [lambda o: o, fo.LossScaleOptimizer], ids=["plain", "loss_scale"])
def test_live_views_keep_the_state_alive(wrap: Callable[[Any], Any]) -> None:
    optimizer = wrap(fo.Adam(use_ema=True))
    optimizer.build([np.ones(100_000), np.ones(3)])
    optimizer.apply([np.full(100_000, 1e6), np.full(3, 1e6)])
    views = optimizer.variables
    expected = [view.copy() for view in views]
    del optimizer
    gc.collect()
    others = [np.full(100_000, 5.0) for _ in range(16)]
    for view, copy in zip(views, expected, strict=True):
        assert same_bits(view, copy)
        view[...] = 1
        assert (view == 1).all()
    assert all((other == 5.0).all() for other in others)


def test_views_are_live_in_both_directions() -> None:
    w = np.zeros(2)
    optimizer = fo.SGD(learning_rate=1.0, momentum=0.5)
    optimizer.build([w])
    iteration, learning_rate, momentum = optimizer.variables
    optimizer.apply([np.array([1.0, 2.0])])
    assert int(iteration) == 1
    assert momentum.tolist() == [-1.0, -2.0]
    momentum[...] = [10.0, 20.0]
    learning_rate[...] = 2.0
    iteration[...] = 41
    assert optimizer.learning_rate == 2.0
    optimizer.apply([np.array([1.0, 2.0])])
    assert w.tolist() == [2.0, 4.0]
    assert optimizer.iterations == 42


@pytest.mark.parametrize(
    "make",
    [
        lambda function: fo.SGD(learning_rate=function),
        lambda function: fo.Adam(beta_1=function),
        lambda function: fo.LossScaleOptimizer(fo.SGD(learning_rate=function)),
    ],
    ids=["learning_rate", "beta_1", "loss_scale"],
)
def test_optimizer_that_its_own_function_reads_is_collected(make: Callable[[Any], Any]) -> None:
    def use() -> weakref.ref[Array]:
        w = np.ones(3)
        optimizer: Any = make(lambda: 0.5 / (1 + optimizer.iterations))
        optimizer.build([w])
        optimizer.apply([np.ones(3)])
        assert (w < 1.0).all()
        return weakref.ref(w)

    alive = use()
    gc.collect()
    assert alive() is None
