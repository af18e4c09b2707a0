"""How others keep optimizer state in fewer bits, for comparison: a slot goes in, and what its codes hold comes out.

All of these round to the nearest. Written from the formats' published descriptions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from fusedopt.bench.workload import Array

Slot = npt.NDArray[np.float32]
Stored = Callable[[Slot], Slot]

BLOCK = 256
# Smaller variables keep float32, with all three libraries.
SMALLEST = 4096
LARGEST_E4M3 = 448.0


class Code(NamedTuple):
    """A way to keep both slots of Adam."""

    momentum: Stored
    velocity: Stored
    smallest: int = 0
    """Variables of fewer elements keep float32."""


def bfloat16(x: Slot) -> Slot:
    """The nearest number of bfloat16, of two the even one. NaN is not expected."""
    bits = x.view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = (bits + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)


def dynamic_map(is_signed: bool) -> Slot:
    """256 numbers up to 1 (Dettmers 2016): seven decades, each with twice as many numbers as the one below."""
    numbers = [0.0, 1.0]
    for decade in range(7):
        borders = np.linspace(0.1, 1.0, 2 ** (decade if is_signed else decade + 1) + 1)
        middles = (borders[1:] + borders[:-1]) / 2 * 10.0 ** (decade - 6)
        numbers += [*middles, *-middles] if is_signed else [*middles]
    return np.sort(np.array(numbers, np.float32))


def in_blocks(x: Slot) -> tuple[Slot, Slot]:
    """Blocks as rows, and the largest magnitude of each."""
    blocks = np.zeros((-(-x.size // BLOCK), BLOCK), np.float32)
    blocks.reshape(-1)[: x.size] = x.reshape(-1)
    return blocks, np.abs(blocks).max(axis=1, keepdims=True)


def flat(blocks: Array, like: Slot) -> Slot:
    return blocks.reshape(-1)[: like.size].reshape(like.shape)


def mapped(is_signed: bool) -> Stored:
    """The nearest number of the map, times the largest of the block."""
    numbers = dynamic_map(is_signed)
    borders = (numbers[1:] + numbers[:-1]) / 2

    def stored(x: Slot) -> Slot:
        blocks, largest = in_blocks(x)
        shares = blocks / np.where(largest == 0, np.float32(1), largest)
        return flat(numbers[np.searchsorted(borders, shares)] * largest, x)

    return stored


def mapped_by_table(is_signed: bool) -> Stored:
    """As above, but found in a table of 65,536 equal steps from -1 to 1, none of which is zero."""
    numbers = dynamic_map(is_signed)
    borders = (numbers[1:] + numbers[:-1]) / 2
    steps = (np.arange(2**16) / 32767.5 - 1).astype(np.float32)
    table = numbers[np.searchsorted(borders, steps)]

    def stored(x: Slot) -> Slot:
        blocks, largest = in_blocks(x)
        shares = blocks / np.where(largest == 0, np.float32(1), largest)
        place = np.floor((shares + np.float32(1)) * np.float32(32767.5) + np.float32(0.5))
        return flat(table[place.astype(np.int32)] * largest, x)

    return stored


def e4m3(x: Slot) -> Slot:
    """The nearest number of three bits after the point, down to 2^-6, and in steps of 2^-9 below."""
    blocks, largest = in_blocks(x)
    scale = np.maximum(largest, np.float32(1e-12)) / np.float32(LARGEST_E4M3)
    shares = blocks / scale
    _, exponents = np.frexp(shares)
    step = np.ldexp(np.float32(1), np.maximum(exponents - 1, -6) - 3)
    rounded = np.clip(np.round(shares / step) * step, -LARGEST_E4M3, LARGEST_E4M3)
    return flat(rounded * scale, x)


CODES = {
    "bfloat16, nearest": Code(bfloat16, bfloat16),
    "8-bit map": Code(mapped(True), mapped(False), SMALLEST),
    "8-bit map, CPU table": Code(mapped_by_table(True), mapped_by_table(False), SMALLEST),
    "FP8": Code(e4m3, e4m3, SMALLEST),
}
"""The second is that of torchao's AdamW8bit and of bitsandbytes on a GPU, the third that of bitsandbytes on a CPU, and
the last that of torchao's AdamWFp8."""
