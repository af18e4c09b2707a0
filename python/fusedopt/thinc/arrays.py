"""Which arrays are updated, and what is kept for them."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Key: TypeAlias = tuple[int, str]

_FLOAT32 = np.dtype(np.float32)


def who(key: Key) -> str:
    """Name a parameter, for messages."""
    return f"fusedopt.thinc, parameter {key!r}"


def check(key: Key, weights: Array, gradient: Array) -> None:
    """Refuse arrays that cannot be updated, or that do not belong together."""
    if not (_is_plain(weights) and _is_plain(gradient)):
        _check_one("weights", key, weights, (np.float32, np.float64))
        _check_one("gradient", key, gradient, (np.float16, np.float32, np.float64))
        if not (weights.flags.c_contiguous and gradient.flags.c_contiguous):
            check_apart(key, weights, gradient)
    if gradient.shape != weights.shape:
        raise ValueError(
            f"{who(key)}: expected a gradient of the weights' shape {weights.shape}, found {gradient.shape}"
        )


def _is_plain(array: Any) -> bool:
    """Whether there is nothing more to check."""
    return type(array) is np.ndarray and array.dtype is _FLOAT32 and bool(array.flags.carray)


def _check_one(name: str, key: Key, array: Any, dtypes: tuple[type, ...]) -> None:
    if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
        found = f"{type(array).__module__}.{type(array).__qualname__}"
        raise TypeError(
            f"{who(key)}: expected {name} in a NumPy array, found {found}; use thinc's own optimizer for other arrays"
        )
    if array.dtype not in dtypes:
        expected = " or ".join(each.__name__ for each in dtypes)
        raise TypeError(
            f"{who(key)}: expected {name} of {expected} in native byte order, found {array.dtype}; convert it"
        )
    if not array.flags.writeable:
        raise ValueError(
            f"{who(key)}: expected {name} that can be written to, found a read-only array; copy it"
        )


def check_apart(key: Key, weights: Array, gradient: Array) -> None:
    """Refuse elements that share memory, as the core does if it sees the arrays themselves and not copies."""
    extent = sum((n - 1) * abs(s) for n, s in zip(weights.shape, weights.strides, strict=True))
    for is_shared, found in (
        (weights.nbytes > extent + weights.itemsize, "each other"),
        (np.shares_memory(weights, gradient), "the gradient"),
    ):
        if is_shared:
            raise ValueError(
                f"{who(key)}: expected weights with memory of their own, found them overlapping {found}; copy them"
            )


def empty(gradient: Array) -> None:
    """Fill it with zeros, if possible byte by byte, which NumPy does faster."""
    (gradient.view(np.uint8) if gradient.flags.c_contiguous else gradient).fill(0)


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
