"""Keras, on PyTorch unless KERAS_BACKEND says otherwise, and small models and loops to train in it.

A process has one backend. Tests of both run here, and again on NumPy in a process of their own.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import fusedopt as fo
import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")
with warnings.catch_warnings():  # of what Keras and its backend say when they are imported
    warnings.simplefilter("ignore")
    if os.environ["KERAS_BACKEND"] == "torch":
        pytest.importorskip("torch")
    keras: Any = pytest.importorskip("keras", minversion="3")

from fusedopt import keras as adapter

ON_TORCH = keras.backend.backend() == "torch"
needs_multi = pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="this Keras has no MultiOptimizer"
)
needs_fit = pytest.mark.skipif(not ON_TORCH, reason="Keras's NumPy backend has no fit")
# Keras's own variables lack an argument that NumPy 2 wants.
ignore_keras = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")

Array = np.ndarray[Any, Any]


def fused(rule: str, /, *args: Any, **arguments: Any) -> Any:
    """Make the optimizer of this rule with fusedopt, for Keras."""
    return adapter.Optimizer(getattr(fo, rule)(*args, **arguments))


def theirs(rule: str, /, *args: Any, **arguments: Any) -> Any:
    """Make Keras's own optimizer of this name."""
    return getattr(keras.optimizers, rule)(*args, **arguments)


def variables(*arrays: Any, **how: Any) -> list[Any]:
    return [keras.Variable(np.array(array), name=f"v{i}", **how) for i, array in enumerate(arrays)]


def value(variable: Any) -> Array:
    """Return a copy of what is in a variable, a tensor or an array."""
    found = variable.value if isinstance(variable, keras.Variable) else variable
    return np.array(keras.ops.convert_to_numpy(found))


def values(optimizer: Any) -> list[Array]:
    return [value(variable) for variable in optimizer.variables]


def same_bits(some: Any, others: Any) -> bool:
    return all(np.array_equal(value(a), value(b)) for a, b in zip(some, others, strict=True))


X = np.random.default_rng(1).normal(size=(48, 3)).astype("float32")
Y = np.random.default_rng(2).normal(size=(48, 2)).astype("float32")


def model(optimizer: Any = None, **layer: Any) -> Any:
    """Make a model of two layers, always with the same weights."""
    keras.utils.set_random_seed(7)
    made = keras.Sequential(
        [
            keras.Input((3,), name="x"),
            keras.layers.Dense(5, activation="tanh", name="hidden", **layer),
            keras.layers.Dense(2, name="out", **layer),
        ],
        name="net",
    )
    if optimizer is not None:
        made.compile(optimizer, loss=keras.losses.MeanSquaredError())
    return made


def fitted(made: Any, epochs: int = 2, **how: Any) -> Any:
    made.fit(X, Y, batch_size=16, shuffle=False, epochs=epochs, verbose=0, **how)
    return made


def distance(one: Any, other: Any) -> float:
    """Return the largest difference between the weights of two models."""
    pairs = zip(one.weights, other.weights, strict=True)
    return max(
        float(np.max(np.abs(value(a).astype("float64") - value(b).astype("float64"))))
        for a, b in pairs
    )
