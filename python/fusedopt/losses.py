"""Losses, scaled for the sake of small gradients."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np

from fusedopt.runtime import _core


def scaled(loss: Any, factor: float) -> Any:
    """Multiply a loss by a factor, in float32 at least: in float16 the product would overflow."""
    loss = _widened(loss)
    if isinstance(loss, (np.ndarray, np.generic)):
        as_number = loss.dtype.type if loss.dtype.kind == "f" else float
        return _core.in_default_state(lambda: np.multiply(loss, as_number(factor)))
    if isinstance(loss, numbers.Real):
        return _core.in_default_state(lambda: loss * factor)
    return loss * factor


def _widened(loss: Any) -> Any:
    """Bring a float16 or bfloat16 array, scalar or tensor to float32 by its own means."""
    dtype = getattr(loss, "dtype", None)
    if getattr(dtype, "name", str(dtype).removeprefix("torch.")) not in ("float16", "bfloat16"):
        return loss
    if hasattr(loss, "astype"):  # NumPy, JAX, ml_dtypes
        return loss.astype("float32")
    if callable(getattr(loss, "float", None)):  # PyTorch, whose gradient goes through it
        return loss.float()
    raise TypeError(
        f"loss: expected float32 or wider, or a {dtype} with a method astype or float, "
        f"found {type(loss).__name__}; widen it before"
    )
