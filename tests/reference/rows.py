"""Gradients of some rows of a variable: each row's values summed, rows ascending."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from reference import sums
from reference.rule import Array


class RowGradient(Protocol):
    """Values of rows, and which rows these are."""

    values: Any
    indices: Any


class SummedRows(NamedTuple):
    """What a step sees of a `RowGradient`: each row once."""

    rows: Array
    values: Array


Gradient: TypeAlias = Array | RowGradient | SummedRows
"""Of one variable: dense, or of some rows."""
Summed: TypeAlias = Array | SummedRows


def summed(gradient: Gradient, w: Array) -> Summed:
    """Sum what a row has several times; what it has once stays as it is, a zero's sign included."""
    if isinstance(gradient, np.ndarray | SummedRows):
        return gradient
    values = gradient.values
    wide = np.float64 in (values.dtype, w.dtype)
    rows, place, counts = np.unique(gradient.indices, return_inverse=True, return_counts=True)
    total = np.zeros((len(rows), *w.shape[1:]), np.float64 if wide else np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        np.add.at(total, place, values.astype(total.dtype))
    once = counts[place] == 1
    total[place[once]] = values[once]
    return SummedRows(rows, total)


def each_summed(
    gradients: Iterable[Gradient | None], weights: Iterable[Array]
) -> list[Summed | None]:
    pairs = zip(gradients, weights, strict=True)
    return [None if g is None else summed(g, w) for g, w in pairs]


def numbers_of(gradient: Summed) -> Array:
    return gradient.values if isinstance(gradient, SummedRows) else gradient


def sum_of_squares(gradient: Summed) -> float:
    """The tiles of each row by themselves, added up one after the other."""
    if isinstance(gradient, SummedRows):
        values = gradient.values
        row_size = math.prod(values.shape[1:])
        return sums.added_up(sums.partial_sums(values.reshape(len(values), row_size)))
    return sums.sum_of_squares(gradient)
