"""A model of several variables, the ways to copy it, and the check that a copy goes on as its original does."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import fusedopt as fo
import ml_dtypes
import numpy as np
import pytest

NAMES = ["dense/kernel", "dense/bias", "norm/scale", "head/kernel", "head/bias"]
DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.float32]
SHAPES = [(3, 4), (5,), (2, 3), (4, 2), ()]


def variables() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {
        name: np.array(rng.normal(size=shape)).astype(dtype)
        for name, dtype, shape in zip(NAMES, DTYPES, SHAPES, strict=True)
    }


def gradients(step: int) -> dict[str, Any]:
    rng = np.random.default_rng([2, step])
    return {
        name: np.array(rng.normal(size=shape)).astype(np.float32)
        for name, shape in zip(NAMES, SHAPES, strict=True)
    }


def bits(arrays: dict[str, Any]) -> dict[str, bytes]:
    return {name: np.asarray(array).tobytes() for name, array in arrays.items()}


def state(optimizer: Any) -> dict[str, bytes]:
    return bits(dict(optimizer._core.state()))


class Model:
    """What a program holds: weights, and the optimizer that updates them."""

    def __init__(self, optimizer: Any, built: bool = True, steps: int = 3) -> None:
        self.weights = variables()
        self.optimizer = optimizer
        if built:
            optimizer.build(self.weights)
        for step in range(steps if built else 0):
            self.step(step)

    def step(self, number: int) -> None:
        self.optimizer.apply(gradients(number))


def assert_same_future(first: Model, second: Model) -> None:
    """Both take 20 steps, one after the other; neither touches what the other has."""
    assert state(first.optimizer) == state(second.optimizer)
    assert vars_of(first.optimizer) == vars_of(second.optimizer)
    for a, b in zip(first.weights.values(), second.weights.values(), strict=True):
        assert not np.shares_memory(a, b)
    for step in range(20):
        first.step(100 + step)
    for step in range(20):
        second.step(100 + step)
    assert bits(first.weights) == bits(second.weights)
    assert state(first.optimizer) == state(second.optimizer)
    assert vars_of(first.optimizer) == vars_of(second.optimizer)


def vars_of(optimizer: Any) -> Any:
    return (
        type(optimizer),
        optimizer.name,
        optimizer.iterations,
        {name: v for name, v in vars(optimizer).items() if isinstance(v, float | str | None)},
        optimizer.global_norm,
    )


def pickled(protocol: int) -> Callable[[Any], Any]:
    return lambda thing: pickle.loads(pickle.dumps(thing, protocol))


def cloudpickled(thing: Any) -> Any:
    return pickle.loads(pytest.importorskip("cloudpickle").dumps(thing))


def by_python_pickler(thing: Any) -> Any:
    file = io.BytesIO()
    pickle._Pickler(file).dump(thing)  # type: ignore[attr-defined]
    return pickle._Unpickler(io.BytesIO(file.getvalue())).load()  # type: ignore[attr-defined]


WAYS = {
    "deepcopy": copy.deepcopy,
    **{f"pickle-{protocol}": pickled(protocol) for protocol in range(2, 6)},
    "python-pickle": by_python_pickler,
    "cloudpickle": cloudpickled,
}
way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
both = pytest.mark.parametrize("way", [copy.deepcopy, pickled(5)], ids=["deepcopy", "pickle"])


def rule(name: str, **arguments: Any) -> Any:
    return getattr(fo, name)(**arguments)


def multi(**arguments: Any) -> Any:
    embedding = fo.Nadam(use_ema=True, weight_decay=0.1, skip_nonfinite=True)
    embedding.exclude_from_weight_decay(var_names=["scale"])
    default = fo.Adam(gradient_accumulation_steps=2, weight_decay=0.1)
    default.exclude_from_weight_decay(var_names=["head"])
    members = fo.OptimizerMap(default, {"(dense|norm)/.*": embedding, "head/bias": fo.SGD(0.5)})
    return fo.MultiOptimizer(members, **arguments)


WRAPPED: dict[str, Callable[[], Any]] = {
    "loss scale": lambda: fo.LossScaleOptimizer(fo.Nadam(use_ema=True), 4.0, 2),
    "multi": lambda: multi(global_clipnorm=1.0, skip_nonfinite=True),
    "multi in loss scale": lambda: fo.LossScaleOptimizer(multi(), 8.0, 3),
}
