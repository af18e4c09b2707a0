"""Variables that are no longer what they were at build are refused before anything is written."""

from __future__ import annotations

import array
import ctypes
import warnings
from collections.abc import Callable
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from reference import Array

OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": lambda: fo.SGD(use_ema=True),
    "loss_scale": lambda: fo.LossScaleOptimizer(fo.AdamW(use_ema=True)),
    "multi": lambda: fo.MultiOptimizer(fo.OptimizerMap(fo.SGD(), {"b": fo.Adam(use_ema=True)})),
    "loss_scale_of_multi": lambda: fo.LossScaleOptimizer(
        fo.MultiOptimizer(fo.OptimizerMap(fo.SGD(), {"b": fo.Adam(use_ema=True)}))
    ),
}

every_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def refuses(optimizer: Any, a: Array, b: Any, memory: list[Array], message: str) -> None:
    """Each call that would write into variables is refused and changes nothing."""
    before = [x.tobytes() for x in (a, *memory, *optimizer.variables)]
    gradients = [np.ones(2), np.ones((3, 3), np.float32)]
    for call in (
        lambda: optimizer.apply(gradients),
        lambda: optimizer.apply({"a": gradients[0], "b": gradients[1]}),
        lambda: optimizer.apply({"a": gradients[0]}),
        lambda: optimizer.apply(gradients[:1], [a]),
        lambda: optimizer.apply_gradients([(gradients[0], a)]),
        lambda: optimizer.finalize_variable_values([a, b]),
    ):
        with pytest.raises(ValueError, match=r"^variable 1 \('b'\): " + message):
            call()
    assert [x.tobytes() for x in (a, *memory, *optimizer.variables)] == before


def assign(w: Array, name: str, value: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy 2.4 calls this deprecated
        setattr(w, name, value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("dtype", np.int32, "expected dtype float32 as at build, found int32; assign its dtype"),
        ("dtype", ">f4", "expected dtype float32 as at build, found >f4; assign its dtype"),
        ("dtype", np.float16, "expected dtype float32 as at build, found float16; assign"),
        ("shape", (9,), r"expected shape \(3, 3\) as at build, found \(9,\); assign its shape"),
        ("shape", (1, 9), r"expected shape \(3, 3\) as at build, found \(1, 9\); assign its shape"),
        ("shape", (3, 3, 1), r"expected shape \(3, 3\) as at build, found \(3, 3, 1\)"),
        ("strides", (4, 12), "expected C-contiguous memory as at build, found it strided"),
    ],
)
@every_optimizer
def test_what_was_assigned(make: Callable[[], Any], name: str, value: Any, message: str) -> None:
    a, b = np.ones(2), np.ones((3, 3), np.float32)
    optimizer = make()
    optimizer.build({"a": a, "b": b})
    optimizer.apply([np.ones(2), np.ones((3, 3))])
    old = getattr(b, name)
    memory = np.frombuffer(b.data, np.uint8).reshape(-1) if name != "strides" else a
    assign(b, name, value)
    refuses(optimizer, a, b, [memory], message)
    assign(b, name, old)
    optimizer.apply([np.ones(2), np.ones((3, 3))])
    assert (b < 1).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_what_means_the_same_may_be_assigned(dtype: Any) -> None:
    w = np.ones((2, 3), dtype)
    optimizer = fo.SGD(learning_rate=0.5)
    optimizer.build([w])
    for name, value in (
        ("dtype", w.dtype.newbyteorder().newbyteorder()),
        ("shape", (2, 3)),
        ("strides", w.strides),
    ):
        assign(w, name, value)
        before = w.copy()
        optimizer.apply([np.ones((2, 3))])
        assert np.array_equal(w, before - dtype(0.5))


# Objects that are no arrays; their library moves their memory.


class Movable:
    """Gives its memory by __array__."""

    def __init__(self, values: Array) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        return self.values


class MovableInterface(Movable):
    """Gives its memory by the array interface."""

    __array__ = None  # type: ignore[assignment]

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self.values.__array_interface__


class Tensor(Movable):
    """Can say where its memory is without making an array, as PyTorch's can."""

    conversions = 0

    def data_ptr(self) -> int:
        return int(self.values.ctypes.data)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def is_contiguous(self) -> bool:
        return self.values.flags.c_contiguous

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        self.conversions += 1
        return self.values


KINDS = [Movable, MovableInterface, Tensor]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: w.astype(np.float64),
            r"expected float32 of shape \(3, 3\), .* moved and now float64 of shape \(3, 3\); make a",
        ),
        (
            lambda w: w[1:],
            r"expected float32 of shape \(3, 3\), .* now float32 of shape \(2, 3\)",
        ),
        (lambda w: w.copy().T, "expected C-contiguous memory, found a strided array"),
        (lambda w: w[:2], r"expected shape \(3, 3\) as at build, found \(2, 3\)"),
        (lambda w: w.reshape(9), r"expected shape \(3, 3\) as at build, found \(9,\)"),
        (lambda w: w.T, "expected C-contiguous memory as at build, found it strided"),
    ],
    ids=["widened", "behind", "elsewhere_transposed", "smaller", "reshaped", "transposed"],
)
@pytest.mark.parametrize("kind", KINDS)
@every_optimizer
def test_memory_moved(
    make: Callable[[], Any], kind: Any, change: Callable[[Array], Array], message: str
) -> None:
    a, w = np.ones(2), np.ones((3, 3), np.float32)
    b = kind(w)
    optimizer = make()
    optimizer.build({"a": a, "b": b})
    optimizer.apply([np.ones(2), np.ones((3, 3))])
    b.values = change(w)
    refuses(optimizer, a, b, [w, b.values], message)
    b.values = w
    optimizer.apply([np.ones(2), np.ones((3, 3))])


@pytest.mark.parametrize("kind", [Movable, MovableInterface])
def test_what_tells_no_more_by_its_address(kind: Any) -> None:
    w = np.ones((3, 3), np.float32)
    b = kind(w)
    optimizer = fo.SGD()
    optimizer.build([b])
    for change, message in (
        (w.view(np.int32), "expected dtype float32 as at build, found int32"),
        (np.broadcast_to(w, w.shape), "expected writable memory, found it made read-only"),
    ):
        b.values = change
        with pytest.raises(ValueError, match=rf"^variable 0: {message}"):
            optimizer.apply([np.ones((3, 3))])
    assert (w == 1).all()


@every_optimizer
def test_object_that_gives_no_array_any_more(make: Callable[[], Any]) -> None:
    class Freed(Movable):
        def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
            if self.values.size == 0:
                raise RuntimeError("its memory is gone.")
            return self.values

    a, w = np.ones(2), np.ones((3, 3), np.float32)
    b = Freed(w)
    optimizer = make()
    optimizer.build({"a": a, "b": b})
    b.values = np.zeros(0)
    with pytest.raises(TypeError, match=r"^variable 1 \('b'\): .*RuntimeError: its memory is gone"):
        optimizer.apply([np.ones(2), np.ones((3, 3))])
    assert a.tolist() == [1.0, 1.0]


def test_a_tensor_is_not_converted_in_each_step() -> None:
    b = Tensor(np.ones((3, 3), np.float32))
    optimizer = fo.SGD()
    optimizer.build([b])
    at_build = b.conversions
    for _ in range(3):
        optimizer.apply([np.ones((3, 3))])
    assert b.conversions == at_build
    assert (b.values < 1).all()


def test_part_of_a_group_knows_its_objects() -> None:
    a, b = Movable(np.ones(2)), Tensor(np.ones(3))
    optimizer = fo.MultiOptimizer(fo.OptimizerMap(fo.SGD(), {"b": fo.Adam()}))
    optimizer.build({"a": a, "b": b})
    a.values = np.zeros(3)
    b.values = np.zeros(2)
    for part, name, size in zip(optimizer.optimizers, "ba", (3, 2), strict=True):
        with pytest.raises(
            ValueError, match=rf"variable 0 \('{name}'\): .* found its memory moved"
        ):
            part.apply([np.ones(size)])


def test_buffers_hold_their_memory() -> None:
    w = array.array("f", [1.0, 1.0])
    c = (ctypes.c_float * 2)(1.0, 1.0)
    optimizer = fo.SGD(learning_rate=1.0)
    optimizer.build([w, c])
    with pytest.raises(BufferError):
        w.append(1.0)
    optimizer.apply([np.ones(2), np.ones(2)])
    assert w.tolist() == list(c) == [0.0, 0.0]
