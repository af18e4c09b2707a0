"""Copies made while another thread steps, in other processes, and by joblib."""

from __future__ import annotations

import multiprocessing
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from copies import Model, assert_same_future, both, gradients, multi, state, variables


@contextmanager
def stepping(optimizer: Any, gradient: Any) -> Iterator[None]:
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            optimizer.apply([gradient])

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@both
def test_a_copy_is_of_one_moment(way: Any) -> None:
    w = np.zeros(200_000, np.float32)
    inner = fo.SGD(1.0, use_ema=True, ema_momentum=0.0)
    optimizer = fo.LossScaleOptimizer(inner, 1.0, 2**40)
    optimizer.build([w])
    with stepping(optimizer, -np.ones_like(w)):
        for order in range(10):
            pair = [w, optimizer] if order % 2 else [optimizer, w]
            copied = way(pair)
            array, mine = copied if order % 2 else copied[::-1]
            assert mine.step_counter == mine.iterations
            assert (array == mine.iterations).all()
            assert (mine.averages["0"] == mine.iterations).all()


def stepped(model: Any) -> Any:
    model.step(50)
    return model


def in_process(method: str, model: Any) -> Any:
    context = multiprocessing.get_context(method)
    with warnings.catch_warnings(), context.Pool(1) as pool:
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads
        return pool.apply(stepped, (model,))


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_other_processes(method: str) -> None:
    model = Model(fo.LossScaleOptimizer(multi(), 8.0, 3))
    other = in_process(method, model)
    model.step(50)
    assert_same_future(model, other)


def test_joblib(tmp_path: Any) -> None:
    joblib = pytest.importorskip("joblib")
    optimizer = fo.LossScaleOptimizer(multi(), 8.0, 3)
    optimizer.build(variables())
    optimizer.apply(gradients(0))
    joblib.dump(optimizer, tmp_path / "optimizer")
    other = joblib.load(tmp_path / "optimizer")
    assert state(other) == state(optimizer)
    other.apply(gradients(1))
    optimizer.apply(gradients(1))
    assert state(other) == state(optimizer)


@pytest.mark.parametrize("mmap_mode", ["r", "r+", "c"])
def test_joblib_maps_variables(mmap_mode: Any, tmp_path: Any) -> None:
    """joblib hands large arrays to its workers as maps, most often read-only ones."""
    joblib = pytest.importorskip("joblib")
    optimizer = fo.LossScaleOptimizer(multi(), 8.0, 3)
    optimizer.build(variables())
    optimizer.apply(gradients(0))
    joblib.dump(optimizer, tmp_path / "optimizer")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        other = joblib.load(tmp_path / "optimizer", mmap_mode=mmap_mode)
    found = [str(one.message) for one in caught if "arrived read-only" in str(one.message)]
    assert len(found) == (mmap_mode == "r")
    assert state(other) == state(optimizer)
    for step in range(1, 20):
        optimizer.apply(gradients(step))
        other.apply(gradients(step))
    assert state(other) == state(optimizer)
    ours, theirs = optimizer._core.arrays, other._core.arrays
    assert [w.tobytes() for w in theirs] == [w.tobytes() for w in ours]
