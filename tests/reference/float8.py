"""Numbers of 8 bits: the upper bits of a float, from an exponent of the block's own on.

A code counts cells, of which a binade has 8, or 16 in a fine block. Here a row of an array is a block.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from reference.random_rounding import INFINITY, MAGNITUDE, SIGN, flushed
from reference.rule import Array

NAN = np.uint32(0x7FC00000)
HUGE = np.uint32(0x7F600000)
HIGHEST_BASE = 240


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
