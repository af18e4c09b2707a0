"""Sums of squares in the kernels' order of additions."""

from __future__ import annotations

import numpy as np

from reference.rule import Array

TILE = 1024
LANES = 32


def sum_of_squares(g: Array) -> float:
    """Sum in double: 32 lanes a tile, added pairwise at its end; tiles one after the other."""
    squares = np.square(g.ravel(), dtype=np.float64)
    total = 0.0
    for start in range(0, squares.size, TILE):
        total += sum_in_lanes(squares[start : start + TILE])
    return total


def sums_of_rows(x: Array) -> Array:
    """Each row's sum of squares, as that of an array."""
    squares = np.square(x, dtype=np.float64)
    total = np.zeros(len(x))
    for start in range(0, x.shape[1], TILE):
        part = squares[:, start : start + TILE]
        lanes = np.zeros((len(x), LANES))
        for column in range(0, part.shape[1], LANES):
            group = part[:, column : column + LANES]
            lanes[:, : group.shape[1]] += group
        while lanes.shape[1] > 1:
            half = lanes.shape[1] // 2
            lanes = lanes[:, :half] + lanes[:, half:]
        total += lanes[:, 0]
    return total


def in_rows(x: Array) -> Array:
    """Rows of 32, the last one filled with zeros."""
    rows = np.zeros((-(-x.size // LANES), LANES))
    rows.ravel()[: x.size] = x.ravel()
    return rows


def sum_in_lanes(x: Array) -> float:
    lanes = np.zeros(LANES)
    for row in in_rows(x):
        lanes = lanes + row
    while lanes.size > 1:
        half = lanes.size // 2
        lanes = lanes[:half] + lanes[half:]
    return float(lanes[0])
