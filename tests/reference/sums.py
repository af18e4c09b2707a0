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


def partial_sums(x: Array) -> Array:
    """The sum of squares of each tile of each row, all rows at once."""
    squares = np.square(x, dtype=np.float64)
    partials = np.zeros((len(x), -(-x.shape[1] // TILE)))
    for tile in range(partials.shape[1]):
        numbers = squares[:, tile * TILE : (tile + 1) * TILE]
        lanes = np.zeros((len(x), LANES))
        for start in range(0, numbers.shape[1], LANES):
            group = numbers[:, start : start + LANES]
            lanes[:, : group.shape[1]] += group
        while lanes.shape[1] > 1:
            half = lanes.shape[1] // 2
            lanes = lanes[:, :half] + lanes[:, half:]
        partials[:, tile] = lanes[:, 0]
    return partials


def added_up(x: Array) -> float:
    """The sum of numbers, one after the other."""
    return float(np.cumsum(x)[-1]) if x.size else 0.0


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
