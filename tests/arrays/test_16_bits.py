"""Variables and gradients of 16 bits: master copies, special values, every bit pattern."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import fusedopt as fo
import ml_dtypes
import numpy as np
import pytest
from sample_arrays import BFLOAT16, same_bits

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
