"""Which arrays are updated, and what is kept for them."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Key: TypeAlias = tuple[int, str]


def who(key: Key) -> str:
    """Name a parameter, for messages."""
    return f"fusedopt.thinc, parameter {key!r}"


def check(key: Key, weights: Array, gradient: Array) -> None:
    """Refuse arrays that cannot be updated, or that belong to something else."""
    for name, array in (("weights", weights), ("gradient", gradient)):
        if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
            found = f"{type(array).__module__}.{type(array).__qualname__}"
            raise TypeError(
                f"{who(key)}: expected {name} to be a NumPy array, found {found}; "
                "use thinc's own optimizer for other arrays"
            )
        if not array.flags.writeable:
            raise ValueError(
                f"{who(key)}: expected {name} that can be written to, found a read-only array; copy it"
            )
    if weights.dtype not in (np.float32, np.float64):
        raise ValueError(
            f"{who(key)}: expected weights of float32 or float64, found {weights.dtype}"
        )
    if gradient.shape != weights.shape:
        raise ValueError(
            f"{who(key)}: expected a gradient of shape {weights.shape}, as the weights have, found {gradient.shape}"
        )


def state_of(
    name: str, key: Key, store: dict[Key, Array], weights: Array, shape: tuple[int, ...]
) -> Array:
    """Find an array of a parameter's state, or make it."""
    array = store.get(key)
    if array is None:
        return np.zeros(shape, weights.dtype)
    fits = isinstance(array, np.ndarray) and array.dtype == weights.dtype and array.shape == shape
    if not fits or not array.flags.carray:
        found = (
            f"{array.dtype}{array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        )
        raise ValueError(
            f"{who(key)}: expected its {name} to be a writable, C-contiguous {weights.dtype}{shape}, found {found}; "
            "a parameter that changes its shape or its type needs another key, or a new optimizer"
        )
    return array
