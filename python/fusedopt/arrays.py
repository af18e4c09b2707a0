"""Arrays among the arguments: variables by name, where they lie, and values on their way into state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
import numpy.typing as npt

from fusedopt import arguments
from fusedopt.runtime import _core

Array = npt.NDArray[Any]


def checked_values(
    source: str, state: Sequence[tuple[str, Array]], values: Sequence[Array]
) -> list[Array]:
    """Bring as many values as there is state to its dtypes; ValueError for another shape or kind."""
    checked = []
    for position, ((name, target), given) in enumerate(zip(state, values, strict=True)):
        value = widened(given)
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


def is_bfloat16(array: Array) -> bool:
    """Return whether the elements are bits of bfloat16, as the core gives them of other libraries' memory."""
    metadata = array.dtype.metadata
    return metadata is not None and metadata.get("fusedopt") == "bfloat16"


def widened(array: Array) -> Array:
    """Return bits of bfloat16 as float32, and anything else as it is."""
    return of_bfloat16(array) if is_bfloat16(array) else array


def of_bfloat16(bits: Array) -> Array:
    """Return the float32 whose upper halves these are."""
    return np.asarray(np.left_shift(bits, 16, dtype=np.uint32)).view(np.float32)


def _cast(value: Array, dtype: np.dtype[Any]) -> Array:
    return np.array(value, dtype=dtype, order="C")


def named(variables: Any) -> tuple[list[str], list[Any]]:
    """Take variables apart into names, none for a sequence, and arrays."""
    if isinstance(variables, Mapping):
        return [arguments.text("variable name", name) for name in variables], list(
            variables.values()
        )
    require_iterable("variables", variables, "a sequence or dict of arrays")
    return [], list(variables)


def described(index: int, names: Sequence[str]) -> str:
    """Say which variable is meant, by its name if there is one."""
    return f"variable {index}" + (f" ({names[index]!r})" if index < len(names) else "")


def require_iterable(name: str, value: Any, expected: str = "a sequence of arrays") -> None:
    """Refuse what has no arrays for items; an array itself would fall into its rows."""
    is_array = not isinstance(value, (str, bytes)) and (
        _core.offers_memory(value) or hasattr(value, "indices")  # which sparse gradients have
    )
    if (
        is_array
        or not isinstance(value, Iterable)
        or isinstance(value, (str, bytes, Mapping, AbstractSet))
    ):
        advice = "; put it into a list" if is_array else "; give a list"
        raise TypeError(f"{name}: expected {expected}, found {type(value).__name__}{advice}")


def as_array(variable: Any, who: str) -> Array:
    """Return an array over an object's values."""
    return _core.value_array(variable, who)


def address(array: Array) -> tuple[int, int]:
    """Return where an array lies, and its size in bytes."""
    return array.__array_interface__["data"][0], array.nbytes
