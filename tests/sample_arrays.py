"""Arrays of each dtype, of random numbers or in odd memory, what steps make of them, and when two are the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fusedopt as fo
import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from reference import Array

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(np.float16), BFLOAT16, np.dtype(np.float32), np.dtype(np.float64)]
NAMED_DTYPES = {str(dtype): dtype for dtype in DTYPES}
DTYPES_BY_VARIABLE = {
    "kernel": np.float32,
    "bias": np.float64,
    "half": np.float16,
    "brain": ml_dtypes.bfloat16,
}
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def numbers(shape: tuple[int, ...], dtype: npt.DTypeLike = np.float64, seed: int = 0) -> Array:
    values = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    return np.asarray(values, dtype)


def same_bits(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def misaligned(values: Array) -> Array:
    raw = np.zeros(values.nbytes + 1, np.uint8)
    view = raw[1:].view(values.dtype).reshape(values.shape)
    view[...] = values
    return view


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
