"""What fusedopt.thinc cannot update, it refuses before anything changes, in a message that names the parameter."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("thinc.api")
ft = pytest.importorskip("fusedopt.thinc")

KEY = (7, "W")


def ones(*shape: int, dtype: Any = np.float32) -> Any:
    return np.ones(shape, dtype)


def read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


class OnAGpu:
    """Like a CuPy array, which has all that NumPy's have, but for memory on the CPU."""

    __module__ = "cupy"
    shape, size, dtype = (4, 3), 12, np.dtype(np.float32)

    def __len__(self) -> int:
        return 4


def overlapping() -> tuple[Any, Any]:
    base = ones(5, 3)
    return base[:4], base[1:]


def overlapping_and_strided() -> tuple[Any, Any]:
    base = ones(4, 8)
    return base[:, ::2][:, :3], base[:, ::2][:, 1:4]


def overlapping_itself() -> tuple[Any, Any]:
    return np.lib.stride_tricks.as_strided(ones(6), (4, 3), (4, 4)), ones(4, 3)


ARRAYS: dict[str, tuple[Callable[[], tuple[Any, Any]], type[Exception], str]] = {
    "weights on a GPU": (lambda: (OnAGpu(), ones(4, 3)), TypeError, "found cupy.OnAGpu"),
    "a gradient on a GPU": (lambda: (ones(4, 3), OnAGpu()), TypeError, "found cupy.OnAGpu"),
    "lists": (lambda: ([1.0] * 4, [0.1] * 4), TypeError, "found builtins.list"),
    "a mask": (lambda: (ones(4, 3), np.ma.ones((4, 3), np.float32)), TypeError, "MaskedArray"),
    "half weights": (lambda: (ones(4, 3, dtype=np.float16), ones(4, 3)), TypeError, "float16"),
    "whole weights": (lambda: (ones(4, 3, dtype=int), ones(4, 3)), TypeError, "int64"),
    "complex": (lambda: (ones(4, 3), ones(4, 3, dtype=np.complex64)), TypeError, "complex64"),
    "another byte order": (lambda: (ones(4, 3, dtype=">f4"), ones(4, 3)), TypeError, ">f4"),
    "read-only weights": (lambda: (read_only(ones(4, 3)), ones(4, 3)), ValueError, "read-only"),
    "a read-only gradient": (lambda: (ones(4, 3), read_only(ones(4, 3))), ValueError, "read-only"),
    "another shape": (lambda: (ones(4, 3), ones(4, 1)), ValueError, r"found \(4, 1\)"),
    "a transposed gradient": (lambda: (ones(4, 3), ones(3, 4)), ValueError, r"found \(3, 4\)"),
    "misaligned": (
        lambda: (ones(49, dtype=np.uint8)[1:].view(np.float32).reshape(4, 3), ones(4, 3)),
        ValueError,
        "misaligned",
    ),
    "overlapping": (overlapping, ValueError, "overlapping"),
    "overlapping and strided": (overlapping_and_strided, ValueError, "overlapping"),
    "overlapping itself": (overlapping_itself, ValueError, "overlapping"),
}
RULES = ["Adam", "RAdam", "SGD"]


def all_of(optimizer: Any) -> Any:
    stores = (optimizer.mom1, optimizer.mom2, optimizer.averages)
    arrays = [{key: np.array(array) for key, array in store.items()} for store in stores]
    return arrays, dict(optimizer.nr_update)


def assert_refused(
    optimizer: Any, weights: Any, gradient: Any, error: type[Exception], message: str
) -> None:
    before = all_of(optimizer), copy.deepcopy(weights), copy.deepcopy(gradient)
    with pytest.raises(error, match=message) as caught:
        optimizer(KEY, weights, gradient)
    assert "fusedopt.thinc, parameter (7, 'W')" in str(caught.value)
    assert "group" not in str(caught.value)
    np.testing.assert_equal(all_of(optimizer), before[0])
    for array, old in ((weights, before[1]), (gradient, before[2])):
        if not isinstance(array, OnAGpu):
            np.testing.assert_array_equal(array, old)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("case", ARRAYS)
@pytest.mark.parametrize("options", [{}, {"L2": 0.1, "L2_is_weight_decay": False}], ids=str)
def test_arrays(rule: str, case: str, options: dict[str, Any]) -> None:
    make, error, message = ARRAYS[case]
    fresh = getattr(ft, rule)(0.1, **options)
    assert_refused(fresh, *make(), error, message)
    assert not fresh.nr_update
    used = getattr(ft, rule)(0.1, **options)
    for _ in range(3):
        used(KEY, ones(4, 3), ones(4, 3))
    assert_refused(used, *make(), error, message)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "changed",
    [ones(6, 3), ones(2, 3), ones(3, 4), ones(4, 3, dtype=np.float64)],
    ids=["larger", "smaller", "transposed", "wider"],
)
def test_a_key_that_becomes_another_parameter(rule: str, changed: Any) -> None:
    """As if a layer is resized: its moments and its average are of another parameter."""
    optimizer = getattr(ft, rule)(0.1)
    optimizer(KEY, ones(4, 3), ones(4, 3))
    assert_refused(optimizer, changed, np.ones_like(changed), ValueError, "needs another key")
    optimizer((8, "W"), changed, np.ones_like(changed))


@pytest.mark.parametrize("store", ["mom1", "mom2", "averages"])
@pytest.mark.parametrize(
    "spoiled",
    [
        lambda array: array.tolist(),
        lambda array: array.astype(np.float64),
        lambda array: array[:-1],
        lambda array: np.repeat(array, 2, axis=-1)[..., ::2],
        lambda array: read_only(array.copy()),
    ],
    ids=["list", "float64", "short", "strided", "read-only"],
)
def test_state_that_does_not_fit(store: str, spoiled: Callable[[Any], Any]) -> None:
    optimizer = ft.Adam(0.1)
    optimizer(KEY, ones(4, 3), ones(4, 3))
    state = getattr(optimizer, store)
    state[KEY] = spoiled(state[KEY])
    assert_refused(optimizer, ones(4, 3), ones(4, 3), ValueError, store)


def test_state_that_overlaps_the_weights() -> None:
    optimizer = ft.Adam(0.1)
    w = ones(4, 3)
    optimizer(KEY, w, ones(4, 3))
    optimizer.mom1[KEY] = w.reshape(-1)
    message = "mom1: expected memory of its own, found it overlapping the weights"
    assert_refused(optimizer, w, ones(4, 3), ValueError, message)


def test_a_gradient_without_elements_is_no_update() -> None:
    """As in thinc, whatever else is given."""
    optimizer = ft.Adam()
    w, g = ones(3), np.zeros(0)
    returned = optimizer(KEY, w, g)
    assert returned[0] is w
    assert returned[1] is g
    assert not optimizer.nr_update


def test_weights_without_elements_are_counted() -> None:
    optimizer = ft.Adam()
    optimizer(KEY, ones(3, 0), ones(3, 0))
    assert optimizer.nr_update == {KEY: 1}
    assert optimizer.averages[KEY].shape == (3, 0)


@pytest.mark.parametrize("make", ["Adam", "RAdam", "SGD", "Optimizer"])
def test_slots_of_fewer_bits(make: str) -> None:
    with pytest.raises(TypeError, match="slot_dtype"):
        getattr(ft, make)(0.1, slot_dtype="float8")
