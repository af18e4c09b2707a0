"""Adafactor and Muon, and variables of the shapes that they tell apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fusedopt as fo
import numpy as np
from reference import Array


def random(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    return np.array(np.random.default_rng(seed).standard_normal(shape), dtype)


def bits(optimizer: Any, weights: dict[str, Array]) -> list[bytes]:
    return [w.tobytes() for w in weights.values()] + [v.tobytes() for v in optimizer.variables]


MAKERS: dict[str, Callable[[], fo.Optimizer]] = {
    "Adafactor": lambda: fo.Adafactor(learning_rate=0.1, use_ema=True),
    "Muon": lambda: fo.Muon(learning_rate=0.1, global_clipnorm=5.0),
}


def make_weights(dtype: Any = np.float32) -> dict[str, Array]:
    shapes = {"wide": (4, 30), "tall": (30, 4), "bias": (30,), "gain": (), "empty": (0, 3)}
    return {name: random(*shape, dtype=dtype) for name, shape in shapes.items()}


def make_gradients(seed: int, dtype: Any = np.float32) -> dict[str, Array]:
    return {name: random(*w.shape, seed=seed, dtype=dtype) for name, w in make_weights().items()}
