"""The floating-point state: a step flushes subnormals, and leaves the caller's arithmetic as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from machine import LARGE, TWO, in_threads
from reference import Array


@pytest.mark.parametrize("threads", [1, TWO])
@pytest.mark.parametrize("size", [5, LARGE])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_subnormals_are_flushed_in_a_step_and_nowhere_else(
    dtype: str, size: int, threads: int
) -> None:
    fo.set_num_threads(threads)
    tiny = np.finfo(dtype).tiny
    w, x = np.zeros(size, dtype), np.zeros(size, dtype)
    flushing, keeping = fo.SGD(learning_rate=0.25), fo.SGD(learning_rate=0.25)
    flushing.build([w])
    keeping.build([x])
    for _ in range(2):
        flushing.apply([np.full(size, 2 * tiny, dtype)])  # 0.5 tiny, a subnormal
        keeping.apply([np.full(size, 4 * tiny, dtype)])
        half = np.full(size, tiny, dtype) * np.array(0.5, dtype)
        assert (half > 0).all(), "the caller's own arithmetic keeps subnormals"
        assert (half + half == tiny).all()
    assert not w.any()
    assert (x == -2 * tiny).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda o, g: o.apply([g]),
        lambda o, g: o.apply([g * np.inf]),
        lambda o, g: o.apply([g[:3]]),
        lambda o, g: o.apply([None]),
        lambda o, g: o.finalize_variable_values([g]),
        lambda o, g: o.set_weights(o.variables),
        lambda o, g: o.stateless_apply(o.variables, [g], [g]),
    ],
    ids=["step", "skipped", "refused", "none", "wrong", "weights", "stateless"],
)
def test_state_is_restored_after_every_call(call: Callable[[Any, Array], Any]) -> None:
    optimizer = fo.LossScaleOptimizer(fo.Adam(use_ema=True, clipnorm=1.0))
    optimizer.build([np.ones(LARGE)])
    raised: list[str] = []
    with np.errstate(all="ignore"):
        try:
            call(optimizer, np.ones(LARGE))
        except ValueError as error:
            raised.append(str(error))
    smallest = np.array([5e-324])
    assert (smallest * 1.0)[0] > 0.0
    assert (np.array([1e-45], np.float32) * np.float32(1.0))[0] > 0.0
    assert all("expected" in message or "gradients" in message for message in raised)


def test_state_of_other_threads() -> None:
    results: list[bool] = []

    def body(_: int) -> None:
        optimizer = fo.Adam()
        optimizer.build([np.ones(LARGE)])
        optimizer.apply([np.ones(LARGE)])
        results.append(bool((np.array([5e-324]) * 1.0)[0] > 0.0))

    in_threads(3, body)
    assert results == [True] * 3
