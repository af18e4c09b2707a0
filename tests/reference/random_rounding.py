"""Random bits, and numbers of 16 bits: those of variables without a master copy, and of slots.

Everything is done with the bits of float32 as integers. Rounding at random adds random bits below the last one that
stays and cuts the rest off, so that the mean over many seeds is the number itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from reference.rule import Array
from reference.sums import TILE

GOLDEN = 0x9E3779B97F4A7C15
INFINITY = np.uint32(0x7F800000)
MAGNITUDE = np.uint32(0x7FFFFFFF)
SIGN = np.uint32(0x80000000)


def mixed(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea and Flood 2014)."""
    x = x + np.uint64(GOLDEN)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def seed_of_call(seed: int, calls: int) -> int:
    """Return what a call draws from, after so many calls before it."""
    return (int(mixed(np.array([seed], np.uint64))[0]) + calls) % 2**64


def random_bits(seed: int, stream: int, first_tiles: npt.ArrayLike, size: int) -> Array:
    """Random 32 bits for each element of arrays of one size, whose first tiles have these numbers.

    Stream 0 is that of a variable, 1 that of its first slot.
    """
    first = np.atleast_1d(np.asarray(first_tiles, np.uint64))
    tiles = first[:, None] + np.arange(-(-size // TILE), dtype=np.uint64)
    key = mixed(mixed(np.array([seed], np.uint64)) + tiles)
    key = mixed(key + np.uint64(stream * GOLDEN % 2**64))[..., None]
    start = key.astype(np.uint32)
    stride = (key >> np.uint64(32)).astype(np.uint32) | np.uint32(1)
    bits = start + np.arange(TILE, dtype=np.uint32) * stride
    return bits.reshape(len(first), tiles.shape[1] * TILE)[:, :size]


def first_tiles(first_tile: int, size: int, rows: Array | None) -> Array:
    """Return the number of the first tile of a variable, or of each of these rows, which are of this size."""
    row_tiles = -(-size // TILE)
    return np.array([first_tile + row_tiles * row for row in ([0] if rows is None else rows)])


def bits_of(x: Array) -> npt.NDArray[np.uint32]:
    return np.ascontiguousarray(x, np.float32).view(np.uint32)


def flushed(bits: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Return magnitudes as arithmetic of the kernels sees them: subnormal numbers are zero."""
    return np.where(bits < np.uint32(1 << 23), np.uint32(0), bits)


# 16 bits. At random, nothing is added beyond the largest finite number of bfloat16. Of float16 the nearest is taken.


def bfloat16_nearest(x: Array) -> npt.NDArray[np.uint16]:
    bits = bits_of(x)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16
    is_nan = (bits & MAGNITUDE) > INFINITY
    return np.where(is_nan, (bits >> 16) | np.uint32(0x40), rounded).astype(np.uint16)


def bfloat16_at_random(x: Array, random: Array) -> npt.NDArray[np.uint16]:
    bits = bits_of(x)
    is_huge = (bits & MAGNITUDE) > np.uint32(0x7F7F0000)
    added = np.where(is_huge, np.uint32(0), random & np.uint32(0xFFFF))
    return ((bits + added) >> 16).astype(np.uint16)


def float16_at_random(x: Array, random: Array) -> npt.NDArray[np.uint16]:
    bits = bits_of(x)
    magnitude = bits & MAGNITUDE
    normal = (magnitude + (random & np.uint32(0x1FFF)) - np.uint32(112 << 23)) >> 13
    # In multiples of 2^-45. Float16's subnormal numbers are those of 2^-24.
    is_small = magnitude < np.uint32(113 << 23)
    small = np.where(is_small, flushed(magnitude), np.uint32(0)).view(np.float32)
    multiple = (small * np.float32(2.0**45)).astype(np.uint32)
    subnormal = (multiple + (random & np.uint32(0x1FFFFF))) >> 21
    rounded = np.where(is_small, subnormal, normal) | ((bits >> 16) & np.uint32(0x8000))
    with np.errstate(over="ignore"):
        nearest = np.asarray(x, np.float32).astype(np.float16).view(np.uint16)
    return np.where(magnitude <= np.uint32(0x477FE000), rounded.astype(np.uint16), nearest)


def narrowed_at_random(w: Array, dtype: np.dtype[Any], random: Array) -> Array:
    """Return a variable in 16 bits."""
    round_at_random = float16_at_random if dtype == np.float16 else bfloat16_at_random
    return round_at_random(w, random.reshape(w.shape)).view(dtype)


def widened(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Return numbers of bfloat16."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
