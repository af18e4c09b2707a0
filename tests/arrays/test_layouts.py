"""Gradients of any memory layout and number of dimensions: the layout changes no bit."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from cases import VARIANTS, Case
from reference import Array
from sample_arrays import (
    BFLOAT16,
    DTYPES,
    OPTIMIZERS,
    after_steps,
    each_dtype,
    inside,
    misaligned,
    numbers,
    read_only,
    same_bits,
)

MOST_DIMENSIONS = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else 32


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


@each_dtype
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


@each_dtype
@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 2), (0, 1, 2)], ids=str)
def test_broadcast_gradient(axes: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    shape = (7, 13, 31)
    kept = tuple(1 if axis in axes else n for axis, n in enumerate(shape))
    gradient = np.broadcast_to(numbers(kept, dtype), shape)
    assert 0 in gradient.strides
    for optimizer in OPTIMIZERS:
        expected = after_steps(gradient.copy(), shape, optimizer(), np.float32)
        assert after_steps(gradient, shape, optimizer(), np.float32) == expected


@each_dtype
@pytest.mark.parametrize("case", VARIANTS, ids=str)
def test_layout_in_every_rule(case: Case, dtype: np.dtype[Any]) -> None:
    gradient = numbers((37, 61), dtype)
    for variable in DTYPES:
        one, other = (getattr(fo, case.rule)(**case.arguments) for _ in range(2))
        expected = after_steps(gradient, (37, 61), one, variable)
        assert after_steps(np.asfortranarray(gradient), (37, 61), other, variable) == expected


@each_dtype
@pytest.mark.parametrize("rank", [0, 1, 2, 6, 7, 12, 31, 32, MOST_DIMENSIONS])
def test_number_of_dimensions(rank: int, dtype: np.dtype[Any]) -> None:
    shape = tuple(3 if axis in (0, rank // 2, rank - 1) else 1 for axis in range(rank))
    gradient = numbers(shape, dtype)
    flat = gradient.reshape(-1)
    expected = after_steps(flat, flat.shape, fo.Adam(), np.float32)
    for layout in (gradient, np.array(gradient, order="F"), misaligned(gradient)):
        assert layout.shape == shape
        assert after_steps(layout, shape, fo.Adam(), np.float32) == expected


@each_dtype
def test_many_small_dimensions(dtype: np.dtype[Any]) -> None:
    shape = (2,) * 12
    gradient = numbers(shape, dtype)
    axes = np.random.default_rng(2).permutation(12)
    shuffled = np.ascontiguousarray(gradient.transpose(axes)).transpose(np.argsort(axes))
    assert same_bits(np.ascontiguousarray(shuffled), gradient)
    expected = after_steps(gradient, shape, fo.Adam(), np.float32)
    assert after_steps(shuffled, shape, fo.Adam(), np.float32) == expected


@each_dtype
@pytest.mark.parametrize("dtype_of_variable", DTYPES, ids=str)
def test_single_number(dtype_of_variable: np.dtype[Any], dtype: np.dtype[Any]) -> None:
    w = np.array(2.0, dtype_of_variable)
    optimizer = fo.SGD(learning_rate=0.5)
    optimizer.build([w])
    optimizer.apply([np.array(3.0, dtype)])
    optimizer.apply([dtype.type(1.0)])
    assert w.shape == ()
    assert float(w) == 0.0


@each_dtype
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
