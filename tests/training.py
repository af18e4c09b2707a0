"""Optimizers, variables and gradients of no particular kind, for tests that train a little."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import fusedopt as fo
import numpy as np
import numpy.typing as npt
import pytest
from cases import CASES, Case
from reference import Array

every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
SHAPES = [(3, 4), (5,), ()]
NAMES = ["kernel", "bias", "gain"]
WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda optimizer: optimizer,
    "loss_scale": lambda optimizer: fo.LossScaleOptimizer(
        optimizer, initial_scale=8.0, dynamic_growth_steps=2
    ),
}
wrapped_or_not = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


def make(case: Case, **arguments: Any) -> Any:
    return getattr(fo, case.rule)(**{"learning_rate": 0.05, **case.arguments, **arguments})


def new_variables(dtype: npt.DTypeLike = np.float64, seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(shape), dtype) for shape in SHAPES]


def gradients(step: int, scale: float = 1.0, dtype: npt.DTypeLike = np.float64) -> list[Any]:
    return [array * dtype_of(dtype).type(scale) for array in new_variables(dtype, 100 + step)]


def dtype_of(dtype: npt.DTypeLike) -> np.dtype[Any]:
    return np.dtype(dtype)


def bits(arrays: Iterable[Any]) -> list[bytes]:
    return [array.tobytes() for array in arrays]


def everything(optimizer: Any, variables: list[Array]) -> list[Any]:
    names = ("dynamic_scale", "step_counter", "consecutive_skipped_steps")
    numbers = [getattr(optimizer, name, None) for name in names]
    return [*bits(variables), *bits(optimizer.variables), optimizer.iterations, *numbers]


def take_steps(optimizer: Any, steps: range, dtype: npt.DTypeLike = np.float64) -> None:
    for step in steps:
        optimizer.apply(gradients(step, optimizer.scale_loss(1.0), dtype))


class Halving(fo.schedules.LearningRateSchedule):
    """Notes the steps that it is asked for."""

    def __init__(self, start: float = 1.0) -> None:
        self.start = start
        self.seen: list[int] = []

    def __call__(self, step: int) -> float:
        self.seen.append(step)
        return self.start * 0.5**step

    def get_config(self) -> dict[str, Any]:
        return {"start": self.start}


def classes() -> list[Any]:
    """Every class of optimizers but `MultiOptimizer` and `Sharded`, which have tests of their own."""
    found = [getattr(fo, name) for name in fo.__all__]
    return [
        cls
        for cls in found
        if isinstance(cls, type)
        and issubclass(cls, fo.Optimizer)
        and cls not in (fo.Optimizer, fo.MultiOptimizer, fo.Sharded)
    ]


def arguments_of(cls: Any) -> list[str]:
    parameters = inspect.signature(cls).parameters.values()
    return [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]


class Schedule(fo.schedules.LearningRateSchedule):
    """A schedule that is good until it is told otherwise, and has no configuration."""

    def __init__(self) -> None:
        self.answer: Any = None

    def __call__(self, step: int) -> Any:
        return 0.1 if self.answer is None else self.answer()
