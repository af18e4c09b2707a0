"""Checks of argument types that only schedules need."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt

from fusedopt import arguments

Steps = TypeVar("Steps", float, npt.NDArray[Any])


@overload
def steps(value: float) -> float: ...
@overload
def steps(value: npt.NDArray[Any]) -> npt.NDArray[Any]: ...
def steps(value: Any) -> Any:
    """Check a step or several: a float for a number of Python's, float64 for a list, an array or a tensor."""
    if isinstance(value, numbers.Real) and not isinstance(value, np.generic):
        return arguments.real("step", value)
    if not hasattr(value, "dtype") and (isinstance(value, str) or not isinstance(value, Sequence)):
        raise TypeError(f"step: expected a real number or an array of them, found {value!r}")
    array = np.asarray(value)
    if array.dtype.kind not in "iuf" and array.dtype.name != "bfloat16":
        raise TypeError(f"step: expected real numbers, found {array.dtype}")
    return array.astype(np.float64)


def number(name: str, value: Any) -> float:
    """Any real number as a Python one; a whole one stays an int, for the configuration's sake."""
    if value is None:  # there is no default to take instead, which the other check would speak of
        raise TypeError(f"{name}: expected a real number, found None")
    checked = arguments.real(name, value)
    return int(value) if isinstance(value, numbers.Integral) else checked


def optional_number(name: str, value: Any) -> float | None:
    """Like `number`, but None is allowed."""
    return None if value is None else number(name, value)


def numbers_list(name: str, values: Any) -> list[float]:
    """A list of real numbers from any iterable of them."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise TypeError(f"{name}: expected a list of real numbers, found {values!r}")
    return [number(f"{name}[{i}]", value) for i, value in enumerate(values)]


def optional_text(name: str, value: Any) -> str | None:
    """A string or None."""
    return None if value is None else arguments.text(name, value)
