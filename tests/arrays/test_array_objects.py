"""Objects that share their memory but are no `numpy.ndarray`, and subclasses of it."""

from __future__ import annotations

import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from reference import Array
from sample_arrays import OPTIMIZERS, after_steps, inside, misaligned, numbers, read_only, same_bits


class Interface:
    """Offers its memory by NumPy's array interface."""

    def __init__(self, values: Array) -> None:
        self.values = values

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self.values.__array_interface__


class Sharing:
    """Offers its memory by __array__, as tensors of other libraries do."""

    def __init__(self, values: Array) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self.values


class Copying(Sharing):
    """Makes a new array of its values each time."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self.values.copy()


def memory_of(values: Any) -> memoryview:
    return memoryview(values)


def ctypes_array(values: Array) -> Any:
    return np.ctypeslib.as_ctypes(values.copy())


OBJECTS: dict[str, Callable[[Array], Any]] = {
    "array.array": lambda a: array.array(a.dtype.char, a.tolist()),
    "memoryview": lambda a: memory_of(a.copy()),
    "memoryview_of_bytearray": lambda a: memory_of(bytearray(a)).cast(
        "f" if a.itemsize == 4 else "d"
    ),
    "ctypes": ctypes_array,
    "interface": lambda a: Interface(a.copy()),
    "__array__": lambda a: Sharing(a.copy()),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("make", [*OBJECTS.values(), Copying], ids=[*OBJECTS, "copying"])
def test_gradient_that_is_no_ndarray(make: Callable[[Array], Any], dtype: str) -> None:
    values = numbers((7,), dtype)
    for optimizer in OPTIMIZERS:
        expected = after_steps(values, (7,), optimizer(), np.float32)
        assert after_steps(make(values), (7,), optimizer(), np.float32) == expected


@pytest.mark.parametrize(
    "make",
    [
        lambda g: memory_of(np.asfortranarray(g)),
        lambda g: memory_of(inside(g, slice(1, None, 2))),
        lambda g: memory_of(g[::-1].copy())[::-1],
        lambda g: memory_of(read_only(g)),
        lambda g: Interface(np.asfortranarray(g)),
        lambda g: Interface(read_only(g)),
        lambda g: Sharing(misaligned(g)),
        lambda g: Sharing(np.asfortranarray(g)),
        lambda g: Copying(np.asfortranarray(g)),
    ],
)
def test_layout_of_a_gradient_that_is_no_ndarray(make: Callable[[Array], Any]) -> None:
    values = numbers((9, 5), np.float32)
    expected = after_steps(values, (9, 5), fo.Adam(), np.float32)
    assert after_steps(make(values), (9, 5), fo.Adam(), np.float32) == expected


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("make", OBJECTS.values(), ids=OBJECTS)
def test_variable_that_is_no_ndarray(make: Callable[[Array], Any], dtype: str) -> None:
    plain = numbers((7,), dtype)
    variable = make(plain)
    gradients = [numbers((7,), dtype, seed=seed) for seed in (2, 3, 4)]
    for optimizer, w in ((fo.Adam(), plain), (fo.Adam(), variable)):
        optimizer.build([w])
        optimizer.apply([gradients[0]])
        optimizer.apply([gradients[1]], [w])
        optimizer.apply_gradients([(gradients[2], w)])
        assert optimizer.iterations == 3
    assert same_bits(np.asarray(variable), plain)
    assert not same_bits(plain, numbers((7,), dtype))


@pytest.mark.parametrize("make", OBJECTS.values(), ids=OBJECTS)
def test_variable_that_is_no_ndarray_elsewhere(make: Callable[[Array], Any]) -> None:
    one, two = make(np.ones(3)), make(np.ones(3))
    optimizer = fo.AdamW(learning_rate=0.5, weight_decay=0.5, use_ema=True)
    optimizer.exclude_from_weight_decay([two])
    optimizer.build([one, two])
    optimizer.apply([np.zeros(3)] * 2)
    assert np.asarray(one).tolist() == [0.75] * 3
    assert np.asarray(two).tolist() == [1.0] * 3
    np.asarray(one)[...] = 5.0
    optimizer.finalize_variable_values([one, two])
    assert np.asarray(one).tolist() == [0.75] * 3


def test_variable_that_is_a_copy_is_refused() -> None:
    optimizer = fo.SGD()
    with pytest.raises(TypeError, match=r"variable 0 \('w'\): .* Copying gives a new copy"):
        optimizer.build({"w": Copying(np.ones(3))})
    assert not optimizer.built


def test_object_of_read_only_memory_is_refused_as_a_variable() -> None:
    for variable in (memory_of(read_only(np.ones(3))), Interface(read_only(np.ones(3)))):
        with pytest.raises(ValueError, match="variable 0: expected writable memory"):
            fo.SGD().build([variable])


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_native_byte_order_spelled_out(dtype: str) -> None:
    foreign = np.dtype(dtype).newbyteorder()
    native = foreign.newbyteorder()  # an explicit order, where others say "native"
    w = np.ones(3, foreign).byteswap().view(native)
    assert w.tolist() == [1.0] * 3
    optimizer = fo.SGD(learning_rate=0.5)
    optimizer.build([w])
    optimizer.apply([np.ones(3, foreign).byteswap().view(native)])
    assert w.tolist() == [0.5] * 3


class Tagged(np.ndarray[Any, Any]):
    """A subclass that changes what an array does, but not its memory."""

    def __getitem__(self, key: Any) -> Any:
        raise AssertionError("the memory itself is what counts")


@pytest.mark.parametrize("as_gradient", [False, True])
@pytest.mark.parametrize("as_variable", [False, True])
def test_subclass_of_ndarray(as_variable: bool, as_gradient: bool) -> None:
    w, g = numbers((3, 4)), numbers((3, 4), seed=1)
    expected = w - 0.5 * g
    variable = w.view(Tagged) if as_variable else w
    optimizer = fo.SGD(learning_rate=0.5)
    optimizer.build([variable])
    optimizer.apply([g.view(Tagged) if as_gradient else g])
    assert np.array_equal(w, expected)
    optimizer.apply([g], [w.view(Tagged)])
    assert optimizer.iterations == 2


def test_memory_mapped_file(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    w = np.memmap(path, np.float32, "w+", shape=(100,))
    optimizer = fo.SGD(learning_rate=1.0)
    optimizer.build([w])
    optimizer.apply([np.arange(100, dtype=np.float32)])
    w.flush()
    assert np.array_equal(np.fromfile(path, np.float32), -np.arange(100, dtype=np.float32))


@pytest.mark.parametrize(
    "view",
    [
        lambda w: w[:],
        lambda w: w.view(),
        lambda w: w[0:3, 0:2],
        lambda w: w.reshape(6).reshape(3, 2),
        lambda w: w.T.T,
        lambda w: w[::-1][::-1],
        lambda w: np.asarray(memory_of(w)),
        lambda w: np.frombuffer(w).reshape(3, 2),
        memory_of,
        Interface,
        Sharing,
        lambda w: w.view(Tagged),
    ],
)
def test_fresh_view_of_a_variable_is_known(view: Callable[[Array], Any]) -> None:
    w, x = np.zeros((3, 2)), np.zeros((3, 2))
    optimizer = fo.SGD(learning_rate=1.0, use_ema=True)
    optimizer.build([w, x])
    gradient = np.arange(6.0).reshape(3, 2)
    optimizer.apply([gradient], [view(x)])
    optimizer.apply_gradients([(gradient, view(w)), (gradient, view(x))])
    assert np.array_equal(w, -gradient)
    assert np.array_equal(x, -2 * gradient)
    optimizer.build([view(w), view(x)])
    w[...] = 7.0
    optimizer.finalize_variable_values([view(w), view(x)])
    assert (w != 7.0).all()
