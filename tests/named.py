"""Variables with names, and optimizers that keep averages of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fusedopt as fo
import ml_dtypes
import numpy as np
import pytest

DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
NAMES = ["a/kernel", "a/bias", "b/kernel", "b/average/bias"]


def weights() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    shapes: list[tuple[int, ...]] = [(3, 5), (), (1030,), (0, 2)]
    return {
        name: np.array(rng.normal(size=shape)).astype(dtype)
        for name, shape, dtype in zip(NAMES, shapes, DTYPES, strict=True)
    }


def step(optimizer: Any, variables: dict[str, Any], number: int) -> None:
    rng = np.random.default_rng([4, number])
    optimizer.apply({name: np.array(rng.normal(size=w.shape)) for name, w in variables.items()})


def trained(optimizer: Any, steps: int = 5) -> tuple[Any, dict[str, Any]]:
    variables = weights()
    optimizer.build(variables)
    for number in range(steps):
        step(optimizer, variables, number)
    return optimizer, variables


def bits(optimizer: Any, variables: dict[str, Any]) -> list[bytes]:
    state = [array for _, array in optimizer._core.state()]
    return [array.tobytes() for array in [*state, *variables.values()]]


def multi() -> fo.MultiOptimizer:
    free = fo.ScheduleFreeAdamW(0.1)
    members = {"a/bias": free, "b/kernel": fo.SGD(0.1)}
    return fo.MultiOptimizer(fo.OptimizerMap(fo.Adam(use_ema=True, ema_momentum=0.5), members))


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "average": lambda: fo.Adam(0.1, use_ema=True, ema_momentum=0.5),
    "matrices": lambda: fo.Muon(0.1, use_ema=True, gradient_accumulation_steps=2),
    "schedule-free": lambda: fo.ScheduleFreeAdamW(0.1, beta_1=0.8),
    "loss scale": lambda: fo.LossScaleOptimizer(fo.ScheduleFreeAdamW(0.1), 1.0),
    "multi": multi,
    "multi in loss scale": lambda: fo.LossScaleOptimizer(multi(), 1.0),
}
each = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
