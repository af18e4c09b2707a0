"""Arrays of every kind: a gradient's memory layout changes no bit, and a variable's memory is its own."""

from __future__ import annotations

import array
import gc
import math
import re
import subprocess
import sys
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fusedopt as fo
import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from cases import VARIANTS, Case

Array = npt.NDArray[Any]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(np.float16), BFLOAT16, np.dtype(np.float32), np.dtype(np.float64)]
MOST_DIMENSIONS = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32

dtype_of_gradient = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def numbers(shape: tuple[int, ...], dtype: npt.DTypeLike = np.float64, seed: int = 0) -> Array:
    values = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    return np.asarray(values, dtype)


def same_bits(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def after_steps(gradient: Any, shape: tuple[int, ...], optimizer: Any, dtype: Any) -> list[bytes]:
    """Three steps of one optimizer on one variable, and all that came of them."""
    w = numbers(shape, dtype, seed=1)
    optimizer.build([w])
    for _ in range(3):
        optimizer.apply([gradient])
    return [a.tobytes() for a in (w, *optimizer.variables)] + [repr(optimizer.global_norm).encode()]


OPTIMIZERS: list[Callable[[], Any]] = [
    lambda: fo.Adam(global_clipnorm=0.5),
    lambda: fo.SGD(momentum=0.9, gradient_accumulation_steps=2, clipnorm=0.5, use_ema=True),
    lambda: fo.LossScaleOptimizer(fo.RMSprop(clipvalue=0.1)),
]


def misaligned(values: Array) -> Array:
    raw = np.zeros(values.nbytes + 1, np.uint8)
    view = raw[1:].view(values.dtype).reshape(values.shape)
    view[...] = values
    return view


def read_only(values: Array) -> Array:
    values = values.copy()
    values.flags.writeable = False
    return values


def inside(values: Array, *slices: slice) -> Array:
    """The same values in memory that these slices of a larger array leave."""
    larger = np.zeros([3 * n + 2 for n in values.shape], values.dtype)
    view = larger[tuple(slices)]
    view = view[tuple(slice(n) for n in values.shape)]
    view[...] = values
    return view


def field(values: Array) -> Array:
    records = np.zeros(values.shape, [("before", "u1"), ("values", values.dtype), ("after", "u2")])
    records["values"] = values
    return records["values"]


# Each gives the same values in another layout.
LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "fortran": np.asfortranarray,
    "transposed": lambda g: np.ascontiguousarray(g.T).T,
    "swapped": lambda g: np.ascontiguousarray(g.swapaxes(0, 1)).swapaxes(0, 1),
    "rolled": lambda g: np.ascontiguousarray(np.moveaxis(g, -1, 0)).swapaxes(0, 1).swapaxes(1, 2),
    "every_second": lambda g: inside(g, slice(None, None, 2), slice(1, None, 3)),
    "last_strided": lambda g: inside(g, slice(None), slice(None), slice(1, None, 2)),
    "first_strided": lambda g: inside(g, slice(2, None, 2)),
    "reversed": lambda g: g[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
    "rows_reversed": lambda g: g[::-1].copy()[::-1],
    "last_reversed": lambda g: g[..., ::-1].copy()[..., ::-1],
    "negative_strides": lambda g: inside(g[::-1], slice(None, None, 2))[::-1],
    "misaligned": misaligned,
    "misaligned_fortran": lambda g: misaligned(np.ascontiguousarray(g.T)).T,
    "read_only": read_only,
    "read_only_fortran": lambda g: read_only(np.ascontiguousarray(g.T)).T,
    "field": field,
    "offset": lambda g: np.concatenate([g, g])[len(g) :],
}


@dtype_of_gradient
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["adam", "accumulation", "loss_scale"])
def test_layout_of_a_gradient(optimizer: Any, layout: str, dtype: np.dtype[Any]) -> None:
    shape = (5, 11, 41)  # more than two tiles, and no dimension divides one
    plain = numbers(shape, dtype)
    other = LAYOUTS[layout](plain)
    assert same_bits(np.ascontiguousarray(other), plain)
    before = other.tobytes()
    for variable in (np.float32, np.float64, np.float16):
        expected = after_steps(plain, shape, optimizer(), variable)
        assert after_steps(other, shape, optimizer(), variable) == expected
    assert other.tobytes() == before


def test_a_gradient_is_checked_in_every_call() -> None:
    w, g = np.zeros((4, 6), np.float32), np.ones((4, 6), np.float32)
    optimizer = fo.SGD()
    optimizer.build([w])
    optimizer.apply([g])
    before = w.copy()
    with pytest.raises(ValueError, match=r"expected shape \(4, 6\), found \(6, 4\)"):
        optimizer.apply([g.reshape(6, 4)])
    with pytest.raises(ValueError, match=r"expected shape \(4, 6\), found \(24,\)"):
        optimizer.apply([g.reshape(24)])
    with pytest.raises(TypeError, match="found dtype int32"):
        optimizer.apply([g.view(np.int32)])
    assert same_bits(w, before)
    optimizer.apply([g])
    assert not same_bits(w, before)


def test_calls_know_nothing_of_earlier_ones() -> None:
    """The views of one call are renewed by the next, of this optimizer or another one."""
    shapes = [(5, 11, 41), (41, 11, 5)]
    optimizers = {
        layout: [fo.Adam(global_clipnorm=0.5) for _ in shapes] for layout in ("any", "plain")
    }
    variables = {}
    for layout, pair in optimizers.items():
        for k, (optimizer, shape) in enumerate(zip(pair, shapes, strict=True)):
            variables[layout, k] = [numbers(shape, np.float32, seed=i) for i in range(2)]
            optimizer.build(variables[layout, k])
    for step, layout in enumerate([*LAYOUTS, None, *LAYOUTS, None, "offset"]):
        for k, shape in enumerate(shapes):
            for dtype in DTYPES[step % 2 :: 2]:
                plain = [numbers(shape, dtype, seed=step), numbers(shape, dtype, seed=step + 1)]
                other: list[Any] = [LAYOUTS[layout](plain[0]) if layout else None, plain[1]]
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of gradients that are None
                    optimizers["any"][k].apply(other)
                    optimizers["plain"][k].apply([plain[0] if layout else None, plain[1].copy()])
                for mine, expected in zip(variables["any", k], variables["plain", k], strict=True):
                    assert same_bits(mine, expected)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["adam", "accumulation", "loss_scale"])
def test_the_same_memory_seen_anew(optimizer: Any) -> None:
    """The address of a gradient does not tell what it is, nor does what the last call made of it."""
    square = numbers((37, 37), np.float16)
    views = [
        square,
        square.T,
        square,
        square.view(BFLOAT16),
        square.view(BFLOAT16).T,
        square,
        None,
        square,
        square[::-1, ::-1][::-1, ::-1],
        square.T.T,
    ]
    once, copied = optimizer(), optimizer()
    variables = [[numbers((37, 37), np.float32, seed=i) for i in range(2)] for _ in range(2)]
    once.build(variables[0])
    copied.build(variables[1])
    other = numbers((37, 37), np.float32)
    for view in [*views, *views[::-1], *views]:
        square += np.float16(0.25)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of gradients that are None
            once.apply([view, other])
            copied.apply([None if view is None else view.copy(), other.copy()])
        assert same_bits(variables[0][0], variables[1][0])


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "offset"])
def test_layouts_are_what_they_claim(layout: str) -> None:
    other = LAYOUTS[layout](numbers((5, 11, 41)))
    plain = other.flags.c_contiguous and other.flags.aligned and other.flags.writeable
    assert not plain


@dtype_of_gradient
@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 2), (0, 1, 2)], ids=str)
def test_broadcast_gradient(axes: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    shape = (7, 13, 31)
    kept = tuple(1 if axis in axes else n for axis, n in enumerate(shape))
    gradient = np.broadcast_to(numbers(kept, dtype), shape)
    assert 0 in gradient.strides
    for optimizer in OPTIMIZERS:
        expected = after_steps(gradient.copy(), shape, optimizer(), np.float32)
        assert after_steps(gradient, shape, optimizer(), np.float32) == expected


@dtype_of_gradient
@pytest.mark.parametrize("case", VARIANTS, ids=str)
def test_layout_in_every_rule(case: Case, dtype: np.dtype[Any]) -> None:
    gradient = numbers((37, 61), dtype)
    for variable in DTYPES:
        one, other = (getattr(fo, case.rule)(**case.arguments) for _ in range(2))
        expected = after_steps(gradient, (37, 61), one, variable)
        assert after_steps(np.asfortranarray(gradient), (37, 61), other, variable) == expected


@dtype_of_gradient
@pytest.mark.parametrize("rank", [0, 1, 2, 6, 7, 12, 31, 32, MOST_DIMENSIONS])
def test_number_of_dimensions(rank: int, dtype: np.dtype[Any]) -> None:
    shape = tuple(3 if axis in (0, rank // 2, rank - 1) else 1 for axis in range(rank))
    gradient = numbers(shape, dtype)
    flat = gradient.reshape(-1)
    expected = after_steps(flat, flat.shape, fo.Adam(), np.float32)
    for layout in (gradient, np.array(gradient, order="F"), misaligned(gradient)):
        assert layout.shape == shape
        assert after_steps(layout, shape, fo.Adam(), np.float32) == expected


@dtype_of_gradient
def test_many_small_dimensions(dtype: np.dtype[Any]) -> None:
    shape = (2,) * 12
    gradient = numbers(shape, dtype)
    axes = np.random.default_rng(2).permutation(12)
    shuffled = np.ascontiguousarray(gradient.transpose(axes)).transpose(np.argsort(axes))
    assert same_bits(np.ascontiguousarray(shuffled), gradient)
    expected = after_steps(gradient, shape, fo.Adam(), np.float32)
    assert after_steps(shuffled, shape, fo.Adam(), np.float32) == expected


@dtype_of_gradient
@pytest.mark.parametrize("dtype_of_variable", DTYPES, ids=str)
def test_single_number(dtype_of_variable: np.dtype[Any], dtype: np.dtype[Any]) -> None:
    w = np.array(2.0, dtype_of_variable)
    optimizer = fo.SGD(learning_rate=0.5)
    optimizer.build([w])
    optimizer.apply([np.array(3.0, dtype)])
    optimizer.apply([dtype.type(1.0)])
    assert w.shape == ()
    assert float(w) == 0.0


@dtype_of_gradient
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 5)], ids=str)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["adam", "accumulation", "loss_scale"])
def test_empty_arrays(optimizer: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    w, other, alone = np.zeros(shape, np.float32), np.ones(3), np.ones(3)
    together, single = optimizer(), optimizer()
    together.build([w, other])
    single.build([alone])
    for empty in (
        np.zeros(shape, dtype),
        np.zeros(shape[::-1], dtype).T,
        np.zeros((5, *shape), dtype)[::-1][2],
    ):
        together.apply([empty, np.full(3, 0.5)])
        single.apply([np.full(3, 0.5)])
        assert same_bits(other, alone)
    before = other.copy()
    together.apply([np.zeros(shape, dtype)], [w])
    assert together.iterations > 0
    assert w.shape == shape
    assert same_bits(other, before)


def test_nothing_but_empty_arrays() -> None:
    w = np.zeros((0, 2))
    optimizer = fo.Adam(global_clipnorm=1.0)
    optimizer.build([w])
    optimizer.apply([np.zeros((0, 2))])
    assert optimizer.iterations == 1
    assert optimizer.global_norm == 0.0


def test_no_variables_at_all() -> None:
    optimizer = fo.Adam()
    optimizer.build([])
    assert optimizer.built
    optimizer.apply([])
    assert [a.shape for a in optimizer.variables] == [(), ()]
    assert optimizer.iterations == 0


# Objects that are no numpy.ndarray


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


# Which memory is which variable


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


# The order of the state

ORDER: list[tuple[str, dict[str, Any], list[str]]] = [
    ("SGD", {}, []),
    ("SGD", {"momentum": 0.9}, ["momentum/a", "momentum/b"]),
    ("RMSprop", {}, ["velocity/a", "velocity/b"]),
    ("RMSprop", {"momentum": 0.9}, ["velocity/a", "velocity/b", "momentum/a", "momentum/b"]),
    (
        "RMSprop",
        {"centered": True},
        ["velocity/a", "velocity/b", "average_gradient/a", "average_gradient/b"],
    ),
    (
        "RMSprop",
        {"momentum": 0.9, "centered": True},
        [f"{slot}/{w}" for slot in ("velocity", "momentum", "average_gradient") for w in "ab"],
    ),
    ("Adam", {}, ["momentum/a", "velocity/a", "momentum/b", "velocity/b"]),
    (
        "AdamW",
        {"amsgrad": True},
        [
            *("momentum/a", "velocity/a", "momentum/b", "velocity/b"),
            *("velocity_hat/a", "velocity_hat/b"),
        ],
    ),
]
COMMON: list[tuple[dict[str, Any], list[str]]] = [
    ({}, []),
    ({"use_ema": True}, ["average/a", "average/b"]),
    (
        {"gradient_accumulation_steps": 2},
        ["gradient_accumulator/a", "gradient_accumulator/b"],
    ),
    (
        {"use_ema": True, "gradient_accumulation_steps": 2},
        ["average/a", "average/b", "gradient_accumulator/a", "gradient_accumulator/b"],
    ),
]
OWN = [f"loss_scale/{name}" for name in ("iteration", "learning_rate")]
OWN += [f"loss_scale/{name}" for name in ("step_counter", "dynamic_scale")]


def names_of(optimizer: Any) -> list[str]:
    """The names of all variables, as the messages of `set_weights` give them."""
    names = []
    for position in range(len(optimizer.variables)):
        weights = [np.array(variable) for variable in optimizer.variables]
        weights[position] = weights[position][None]
        with pytest.raises(ValueError, match=f"array {position} ") as caught:
            optimizer.set_weights(weights)
        found = re.search(r"\((\S+)\)", str(caught.value))
        assert found is not None
        names.append(found[1])
    return names


@pytest.mark.parametrize("rate", [0.1, lambda: 0.1], ids=["number", "callable"])
@pytest.mark.parametrize("loss_scale", [False, True])
@pytest.mark.parametrize(("options", "common"), COMMON, ids=str)
@pytest.mark.parametrize(("rule", "arguments", "slots"), ORDER, ids=str)
def test_order_of_variables(
    rule: str,
    arguments: dict[str, Any],
    slots: list[str],
    options: dict[str, Any],
    common: list[str],
    loss_scale: bool,
    rate: Any,
) -> None:
    optimizer: Any = getattr(fo, rule)(learning_rate=rate, **arguments, **options)
    if loss_scale:
        optimizer = fo.LossScaleOptimizer(optimizer)
    a, b = np.zeros((2, 3), np.float32), np.zeros(4)
    optimizer.build({"a": a, "b": b})
    first = ["iteration"] if callable(rate) else ["iteration", "learning_rate"]
    expected = [*(OWN if loss_scale else []), *first, *common, *slots]
    assert names_of(optimizer) == expected
    for name, variable in zip(expected, optimizer.variables, strict=True):
        if name.endswith(("/a", "/b")):
            like = a if name.endswith("/a") else b
            assert (variable.shape, variable.dtype) == (like.shape, like.dtype)
        else:
            assert variable.shape == ()


@dtype_of_gradient
def test_dtype_of_the_state(dtype: np.dtype[Any]) -> None:
    optimizer = fo.Adam(amsgrad=True, use_ema=True, gradient_accumulation_steps=2)
    optimizer.build([np.zeros(3, dtype)])
    state = np.float64 if dtype == np.float64 else np.float32
    assert {v.dtype for v in optimizer.variables[2:]} == {np.dtype(state)}
    assert [v.dtype for v in optimizer.variables[:2]] == [np.dtype(np.int64), np.dtype(np.float64)]
    assert not any(variable.any() for variable in optimizer.variables[2:])


# Variables of 16 bits

HALF = pytest.mark.parametrize("dtype", [np.dtype(np.float16), BFLOAT16], ids=str)


@HALF
@pytest.mark.parametrize("loss_scale", [False, True])
def test_master_copy_keeps_small_updates(dtype: np.dtype[Any], loss_scale: bool) -> None:
    w, exact = np.ones(3000, dtype), np.ones(3000, np.float32)
    alone = np.ones((), dtype)
    gradient = np.full(3000, 1.0)
    rate = 1e-4  # a small part of the gap below 1 in both types
    for variable in (w, exact):
        optimizer: Any = fo.SGD(learning_rate=rate)
        if loss_scale:
            optimizer = fo.LossScaleOptimizer(optimizer)
        optimizer.build([variable])
        for _ in range(200):
            optimizer.apply([gradient * optimizer.scale_loss(1.0)])
    assert alone - dtype.type(rate) == alone, "lost without a master copy"
    assert same_bits(w, exact.astype(dtype))
    assert float(w[0]) == pytest.approx(0.98, abs=0.004)


@HALF
@pytest.mark.parametrize("size", [1, 7, 1024, 3000])
def test_what_the_user_writes_into_a_variable_wins(dtype: np.dtype[Any], size: int) -> None:
    w, exact = np.ones(size, dtype), np.ones(size, np.float32)
    rate = 1e-4
    optimizer, reference = fo.SGD(learning_rate=rate), fo.SGD(learning_rate=rate)
    optimizer.build([w])
    reference.build([exact])
    for step in range(60):
        if step == 20:  # one element, by the user
            w[-1] = exact[-1] = 0.5
        if step == 40:  # all of them, to special values too
            w[...] = 2.0
            w[0] = -0.0
            exact[...] = w
        optimizer.apply([np.ones(size)])
        reference.apply([np.ones(size)])
        assert same_bits(w, exact.astype(dtype)), f"step {step}"


@HALF
def test_what_the_user_writes_under_an_average(dtype: np.dtype[Any]) -> None:
    w, x = np.zeros(2, dtype), np.zeros(2, dtype)
    optimizer = fo.SGD(learning_rate=1.0, use_ema=True, ema_momentum=0.5)
    optimizer.build([w, x])
    optimizer.apply([np.zeros(2)] * 2)
    w[...] = x[...] = 8.0
    optimizer.apply([np.zeros(2)], [w])
    optimizer.finalize_variable_values([w, x])
    assert w.tolist() == x.tolist() == [4.0, 4.0]


@HALF
def test_special_values_of_half_precision(dtype: np.dtype[Any]) -> None:
    info: Any = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    special = [0.0, -0.0, math.inf, -math.inf, math.nan, float(info.max), -float(info.max)]
    special += [float(info.tiny), -float(info.tiny), 1.0 + float(info.eps)]
    if dtype == np.float16:
        special += [2.0**-24, -(2.0**-24), 2.0**-14 - 2.0**-24]
    w = np.array(special, dtype)
    before = w.copy()
    optimizer = fo.SGD(learning_rate=1.0)
    optimizer.build([w])
    optimizer.apply([np.zeros(len(special), np.float32)])
    nan = np.isnan(before)
    assert w[~nan].tobytes() == before[~nan].tobytes()
    assert np.isnan(w[nan]).all()


@HALF
def test_gradient_of_every_bit_pattern(dtype: np.dtype[Any]) -> None:
    gradient = np.arange(2**16, dtype=np.uint16).view(dtype)
    w, x = np.zeros(2**16, np.float64), np.zeros(2**16, np.float64)
    optimizer = fo.SGD(learning_rate=1.0)
    optimizer.build([w, x])
    with np.errstate(invalid="ignore"):  # signalling NaN
        wide = gradient.astype(np.float64)
    if dtype == BFLOAT16:  # its subnormals are float32's, which are flushed
        wide[np.abs(wide) < 2.0**-126] = 0.0
    optimizer.apply([gradient, wide])
    assert np.array_equal(w, x, equal_nan=True)
    assert np.array_equal(w, -wide, equal_nan=True)


def test_ml_dtypes_is_imported_by_nobody_but_the_user() -> None:
    program = """
import sys
import warnings
import numpy as np
import fusedopt as fo
for dtype in (np.float16, np.float32, np.float64):
    w = np.ones(2000, dtype)
    optimizer = fo.LossScaleOptimizer(fo.Adam(use_ema=True))
    optimizer.build([w])
    optimizer.apply([np.ones(2000, dtype)])
    optimizer.set_weights(optimizer.variables)
    optimizer.stateless_apply(optimizer.variables, [np.ones(2000, dtype)], [w])
try:
    fo.SGD().build([np.ones(2, ">f2")])
except TypeError:
    pass
assert "ml_dtypes" not in sys.modules
import ml_dtypes
w = np.ones(2, ml_dtypes.bfloat16)
optimizer = fo.SGD(learning_rate=0.5)
optimizer.build([w])
optimizer.apply([np.ones(2, ml_dtypes.bfloat16)])
print([float(x) for x in w])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    assert done.stdout.strip() == "[0.5, 0.5]"
