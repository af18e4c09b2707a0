"""Numbers in fewer bits: 16-bit variables without a master copy, and slots in 16 or 8 bits.

Everything is done with the bits of float32 as integers. Rounding at random adds random bits below the last one that
stays and cuts the rest off, so that the mean over many seeds is the number itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reference.rule import Array
from reference.sums import TILE

BLOCK = 64
"""Elements that share a scale."""

SMALLEST_FLOAT8 = 4096
"""Smaller variables keep their slots, unless they are named."""

GOLDEN = 0x9E3779B97F4A7C15
NAN = np.uint32(0x7FC00000)
INFINITY = np.uint32(0x7F800000)
HUGE = np.uint32(0x7F600000)
MAGNITUDE = np.uint32(0x7FFFFFFF)
SIGN = np.uint32(0x80000000)
HIGHEST_BASE = 240
FINE, SPECIAL = 0x4000, 0x8000


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


# 16 bits. Beyond the largest finite number, and for a NaN, the nearest one is taken even at random.


def bfloat16_nearest(x: Array) -> npt.NDArray[np.uint16]:
    bits = bits_of(x)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16
    is_nan = (bits & MAGNITUDE) > INFINITY
    return np.where(is_nan, (bits >> 16) | np.uint32(0x40), rounded).astype(np.uint16)


def bfloat16_at_random(x: Array, random: Array) -> npt.NDArray[np.uint16]:
    bits = bits_of(x)
    rounded = ((bits + (random & np.uint32(0xFFFF))) >> 16).astype(np.uint16)
    return np.where((bits & MAGNITUDE) <= np.uint32(0x7F7F0000), rounded, bfloat16_nearest(x))


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


# 8 bits: the upper bits of a float, from an exponent of the block's own on. A code counts cells, of which a binade has
# 8, or 16 in a fine block. Here a row of an array is a block.


class Guard(NamedTuple):
    """Slot `large` is coded as floor |x|^power at least, x being slot `small`."""

    small: str
    large: str
    power: int
    floor: float


class Scales(NamedTuple):
    """What the codes of each block count from, in which steps, and whether some of them are special."""

    bases: npt.NDArray[np.int32]
    is_fine: npt.NDArray[np.bool_]
    is_special: npt.NDArray[np.bool_]

    @property
    def shifts(self) -> npt.NDArray[np.uint32]:
        """Return how many bits of a float a code cuts off."""
        return np.where(self.is_fine, np.uint32(19), np.uint32(20))[:, None]

    @property
    def base_bits(self) -> npt.NDArray[np.uint32]:
        return self.bases.astype(np.uint32)[:, None] << np.uint32(23)

    def last_codes(self, limit: Array) -> Array:
        """Return the last code of a finite number in each block, but at most this one."""
        cells = np.where(self.is_fine, 16, 8)
        return np.minimum(limit, cells * (255 - self.bases) - 1)[:, None]


class Blocks(NamedTuple):
    """One slot: a code for each element in order, and the blocks' scales."""

    codes: npt.NDArray[np.uint8]
    scales: Scales


class Range(NamedTuple):
    """What the numbers of each block are like."""

    top: npt.NDArray[np.uint32]
    bottom: npt.NDArray[np.uint32]
    is_huge: npt.NDArray[np.bool_]
    is_special: npt.NDArray[np.bool_]

    def exponents(self, is_fine: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
        """Return the largest exponent of each block, if its largest number is rounded up."""
        margin = np.where(is_fine, np.uint32(3 << 19), np.uint32(3 << 20))
        return ((self.top + margin) >> 23).astype(np.int32)

    def spans(self, binades: int) -> npt.NDArray[np.bool_]:
        """Return whether nothing but zeros is further below the largest number than that."""
        exponents = self.exponents(np.ones(self.top.shape, bool))
        return (self.top > 0) & ((self.bottom >> 23).astype(np.int32) >= exponents - binades)


def range_of(x: npt.NDArray[np.uint32]) -> Range:
    magnitude = x & MAGNITUDE
    is_special = magnitude >= INFINITY
    top = np.where(is_special, np.uint32(0), magnitude).max(axis=1)
    bottom = np.where(magnitude == 0, MAGNITUDE, magnitude).min(axis=1)
    return Range(top, bottom, magnitude.max(axis=1) >= HUGE, is_special.any(axis=1))


def scales_of(x: Range, is_fine: npt.NDArray[np.bool_], is_signed: bool) -> Scales:
    """Signed codes reach half as far, and their smallest base leaves room for a subtraction."""
    t = x.exponents(is_fine)
    if is_signed:
        bases = np.where(is_fine, np.maximum(t - 7, 5), np.maximum(t - 15, 4))
    else:
        bases = np.where(is_fine, np.maximum(t - 15, 1), np.maximum(t - 31, 1))
    return Scales(bases.astype(np.int32), is_fine, x.is_special)


def encoded(
    x: npt.NDArray[np.uint32], scales: Scales, is_signed: bool, random: Array | None
) -> Blocks:
    """Return codes of numbers, given as bits, with random bits for each, or the nearest ones."""
    magnitude = x & MAGNITUDE
    shifts, base = scales.shifts, scales.base_bits
    unit = np.uint32(1) << shifts
    low = unit >> np.uint32(1) if random is None else random & (unit - np.uint32(1))
    if is_signed:
        offset = (flushed(magnitude).view(np.float32) + base.view(np.float32)).view(np.uint32)
        codes = (offset + low - base) >> shifts
    else:
        y = np.maximum((x + low - base).view(np.int32), unit.view(np.int32)).view(np.uint32)
        codes = np.minimum(y >> shifts, x)
    is_huge = magnitude.max(axis=1) >= HUGE
    if is_huge.any():
        most = scales.last_codes(np.array(125 if is_signed else 253))
        clamped = np.minimum(codes, most.astype(np.uint32))
        clamped = np.where(magnitude == INFINITY, 127 if is_signed else 255, clamped)
        clamped = np.where(magnitude > INFINITY, 126 if is_signed else 254, clamped)
        codes = np.where(is_huge[:, None], clamped, codes)
    if is_signed:
        codes = codes | ((x & SIGN) >> 24)
    return Blocks(codes.astype(np.uint8), scales)


def decoded(blocks: Blocks, is_signed: bool) -> npt.NDArray[np.float32]:
    codes, scales = blocks.codes.astype(np.uint32), blocks.scales
    shifts, base = scales.shifts, scales.base_bits
    if is_signed:
        sign = (codes & np.uint32(0x80)) << 24
        codes = codes & np.uint32(0x7F)
        # A zero is +0, whatever its sign.
        moved = ((codes << shifts) + base) | sign
        values = moved.view(np.float32) - (base | sign).view(np.float32)
    else:
        sign = np.zeros((), np.uint32)
        values = np.where(codes, (codes << shifts) + base, np.uint32(0)).view(np.float32)
    if scales.is_special.any():
        flag = scales.is_special[:, None]
        is_infinite = flag & (codes == (127 if is_signed else 255))
        is_nan = flag & (codes == (126 if is_signed else 254))
        values = np.where(is_infinite, (sign | INFINITY).view(np.float32), values)
        values = np.where(is_nan, NAN.view(np.float32), values)
    return values


def bound_of(guard: Guard) -> int:
    """Return the bits of the guard's floor with what the logarithm loses, or 0 if it guards nothing."""
    with np.errstate(over="ignore", under="ignore"):
        bound = np.float32(guard.floor * (1.125 if guard.power == 1 else 1.266))
    return int(bound.view(np.uint32)) if bound >= np.finfo(np.float32).smallest_normal else 0


def distances(guard: Guard, bound: int, small: Scales, large: Scales) -> Array:
    """Return how many cells a code of `large` may be below `power` codes of `small`."""
    cells = np.where(small.is_fine, 16, 8)
    constants = np.where(small.is_fine, -(-bound // (1 << 19)), -(-bound // (1 << 20)))
    p = guard.power
    return cells * (large.bases + 127 * p - p * small.bases) - constants


def encode_all(
    values: Mapping[str, npt.NDArray[np.uint32]],
    signs: Mapping[str, bool],
    random: Mapping[str, Array] | None,
    guard: Guard | None = None,
) -> dict[str, Blocks]:
    """Return the codes of all slots of a variable, the guard included."""
    ranges = {name: range_of(x) for name, x in values.items()}
    bound = 0 if guard is None else bound_of(guard)
    if not bound:
        guard = None
    scales = {}
    for name, its in ranges.items():
        is_fine = ~its.is_huge & (not signs[name])
        if is_fine.any():
            by_one = guard is not None and name == guard.large and guard.power == 1
            is_fine = is_fine & its.spans(7 if by_one else 14)
        scales[name] = scales_of(its, is_fine, signs[name])
    if guard is not None:
        is_fine = scales[guard.large].is_fine & ~ranges[guard.small].is_huge
        for name in (guard.small, guard.large):
            scales[name] = scales_of(ranges[name], is_fine, signs[name])
        below = -distances(guard, bound, scales[guard.small], scales[guard.large])
        raised = np.maximum(-(-below // np.where(is_fine, 16, 8)), 0)
        bases = np.minimum(scales[guard.large].bases + raised, HIGHEST_BASE).astype(np.int32)
        scales[guard.large] = scales[guard.large]._replace(bases=bases)
    all_blocks = {
        name: encoded(x, scales[name], signs[name], None if random is None else random[name])
        for name, x in values.items()
    }
    if guard is not None:
        small, large = all_blocks[guard.small], all_blocks[guard.large]
        d = distances(guard, bound, small.scales, large.scales)[:, None]
        cells = (small.codes & 0x7F if signs[guard.small] else small.codes).astype(np.int32)
        is_special = values[guard.small] & MAGNITUDE >= INFINITY
        floors = np.where((cells != 0) & ~is_special, np.maximum(guard.power * cells - d, 0), 0)
        # What is special stays.
        most = large.scales.last_codes(np.where(large.scales.is_special, 253, 255))
        codes = np.maximum(large.codes, np.minimum(floors, most).astype(np.uint8))
        all_blocks[guard.large] = large._replace(codes=codes)
    return all_blocks


def in_blocks(x: Array) -> Array:
    """Return an array of 32 bits in blocks, the last one filled with zeros."""
    blocks = np.zeros((-(-x.size // BLOCK), BLOCK), x.dtype)
    blocks.reshape(-1)[: x.size] = x.reshape(-1)
    return blocks


class CodedSlots:
    """The slots of one variable in fewer bits: float32 goes in, and what the codes hold comes out."""

    def __init__(
        self,
        code: str,
        shape: Sequence[int],
        signs: Mapping[str, bool],
        streams: Mapping[str, int] | None = None,
    ) -> None:
        """Begin with zeros. Random bits are those of the slots in order, unless `streams` says which."""
        self.code, self.shape, self.signs = code, tuple(shape), dict(signs)
        self.streams = streams or {name: 1 + k for k, name in enumerate(signs)}
        self.size = math.prod(self.shape)
        self.row_size = math.prod(self.shape[1:])
        count = -(-self.size // BLOCK)
        self.halves = {name: np.zeros(self.size, np.uint16) for name in signs}
        self.blocks = {
            name: Blocks(
                np.zeros((count, BLOCK), np.uint8),
                Scales(np.zeros(count, np.int32), np.zeros(count, bool), np.zeros(count, bool)),
            )
            for name in signs
        }

    def numbers(self, name: str) -> Array:
        """Return what the codes of a slot hold."""
        if self.code == "bfloat16":
            return widened(self.halves[name]).reshape(self.shape)
        flat = decoded(self.blocks[name], self.signs[name]).reshape(-1)[: self.size]
        return flat.reshape(self.shape)

    def load(self, values: Mapping[str, Array], guard: Guard | None = None) -> None:
        """Take numbers, each rounded to the nearest."""
        if self.code == "bfloat16":
            for name, x in values.items():
                self.halves[name] = bfloat16_nearest(x).reshape(-1)
            return
        bits = {name: in_blocks(bits_of(x)) for name, x in values.items()}
        self.blocks.update(encode_all(bits, self.signs, None, guard))

    def store(
        self,
        values: Mapping[str, Array],
        seed: int,
        first_tile: int = 0,
        guard: Guard | None = None,
        rows: Array | None = None,
    ) -> None:
        """Take all slots, or these rows of them, rounded at random. Each row has tiles of its own."""
        size = self.size if rows is None else self.row_size
        first = first_tiles(first_tile, size, rows)
        random = {
            name: random_bits(seed, self.streams[name], first, size).reshape(-1)
            for name in self.signs
        }
        if self.code == "bfloat16":
            for name, x in values.items():
                new = bfloat16_at_random(x.reshape(-1), random[name])
                if rows is None:
                    self.halves[name] = new
                else:
                    self.halves[name].reshape(-1, size)[rows] = new.reshape(-1, size)
            return
        if rows is not None and size % BLOCK:
            raise ValueError(f"expected rows of whole blocks, found {size} elements")
        encoded_blocks = encode_all(
            {name: in_blocks(bits_of(x)) for name, x in values.items()},
            self.signs,
            {name: in_blocks(x) for name, x in random.items()},
            guard,
        )
        if rows is None:
            self.blocks.update(encoded_blocks)
            return
        places = (np.asarray(rows)[:, None] * (size // BLOCK) + np.arange(size // BLOCK)).ravel()
        for name, blocks in encoded_blocks.items():
            self.blocks[name].codes[places] = blocks.codes
            for mine, new in zip(self.blocks[name].scales, blocks.scales, strict=True):
                mine[places] = new

    def state(self, name: str) -> list[Array]:
        """Return a slot as it lies in memory: its numbers of 16 bits, or codes and scales."""
        if self.code == "bfloat16":
            return [self.halves[name].reshape(self.shape)]
        codes, (bases, is_fine, is_special) = self.blocks[name]
        # As sixteen words of four bytes: byte j of word l is element 16 j + l.
        words = codes.reshape(-1, 4, 16).transpose(0, 2, 1).reshape(-1, BLOCK)
        flags = np.where(is_fine, FINE, 0) | np.where(is_special, SPECIAL, 0)
        scales = (bases | flags).astype(np.uint16)
        return [np.ascontiguousarray(words), scales]
