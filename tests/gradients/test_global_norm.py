"""The attribute `global_norm` is the norm that `global_clipnorm` has measured, or None."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import fusedopt as fo
import numpy as np
import pytest
from training import gradients, new_variables, wrapped_or_not


@pytest.mark.parametrize("limit", [0.5, 100.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@wrapped_or_not
def test_global_norm(wrap: Callable[[Any], Any], dtype: str, limit: float) -> None:
    variables = new_variables(dtype)
    optimizer = wrap(fo.SGD(learning_rate=1.0, global_clipnorm=limit))
    optimizer.build(variables)
    assert optimizer.global_norm is None
    some = gradients(0, 1.0, dtype)
    norm = math.sqrt(sum(float(np.sum(np.square(g, dtype=np.float64))) for g in some))
    expected = [w - g * min(1.0, limit / norm) for w, g in zip(variables, some, strict=True)]
    optimizer.apply(gradients(0, optimizer.scale_loss(1.0), dtype))
    assert optimizer.global_norm == pytest.approx(norm, rel=1e-14)
    for w, wanted in zip(variables, expected, strict=True):
        np.testing.assert_allclose(w, wanted, rtol=1e-6)
    optimizer.apply([some[1] * optimizer.scale_loss(1.0)], [variables[1]])
    assert optimizer.global_norm == pytest.approx(float(np.linalg.norm(some[1])), rel=1e-6)


def test_global_norm_of_accumulated_gradients() -> None:
    w = np.zeros(2)
    optimizer = fo.SGD(global_clipnorm=1.0, gradient_accumulation_steps=2)
    optimizer.build([w])
    optimizer.apply([np.array([6.0, 0.0])])
    assert optimizer.global_norm is None
    optimizer.apply([np.array([0.0, 8.0])])
    assert optimizer.global_norm == 5.0
    optimizer.apply([np.array([600.0, 0.0])])
    assert optimizer.global_norm == 5.0


def test_global_norm_of_a_skipped_step_is_not_kept() -> None:
    optimizer = fo.LossScaleOptimizer(fo.SGD(global_clipnorm=1.0), initial_scale=1.0)
    optimizer.build([np.zeros(2)])
    optimizer.apply([np.array([3.0, 4.0])])
    optimizer.apply([np.array([math.inf, 4.0])])
    assert optimizer.global_norm == 5.0


@pytest.mark.parametrize("option", ["clipnorm", "clipvalue"])
def test_no_global_norm_without_its_option(option: str) -> None:
    limit: dict[str, Any] = {option: 1.0}
    optimizer = fo.SGD(**limit)
    optimizer.build([np.zeros(2)])
    optimizer.apply([np.array([3.0, 4.0])])
    assert optimizer.global_norm is None
