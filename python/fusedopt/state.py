"""Values on their way into an optimizer's state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fusedopt.runtime import _core

Array = npt.NDArray[Any]


def checked_values(
    source: str, state: Sequence[tuple[str, Array]], values: Sequence[Array]
) -> list[Array]:
    """Bring as many values as there is state to its dtypes; ValueError for another shape or kind."""
    checked = []
    for position, ((name, target), value) in enumerate(zip(state, values, strict=True)):
        who = f"{source}: array {position} ({name})"
        is_integer = target.dtype.kind == "i"
        if (value.dtype.kind in "iu") != is_integer or not (
            is_integer or value.dtype.kind == "f" or value.dtype.name == "bfloat16"
        ):
            kind = "an integer" if is_integer else "a floating"
            raise ValueError(
                f"{who}: expected {kind} dtype, found {value.dtype}; "
                f"convert it with .astype('{target.dtype}')"
            )
        if value.shape != target.shape:
            raise ValueError(f"{who}: expected shape {target.shape}, found {value.shape}")
        if value.dtype.kind == "u" and np.any(value > np.iinfo(np.int64).max):
            raise ValueError(
                f"{source}: {name}: expected a number that int64 can hold, found {value}"
            )
        try:
            with np.errstate(over="raise"):
                checked.append(_core.in_default_state(lambda: _cast(value, target.dtype)))  # noqa: B023
        except FloatingPointError:
            raise ValueError(
                f"{who}: expected values that {target.dtype} can hold, found larger ones"
            ) from None
    return checked


def _cast(value: Array, dtype: np.dtype[Any]) -> Array:
    return np.array(value, dtype=dtype, order="C")
