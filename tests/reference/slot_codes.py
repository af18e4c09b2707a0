"""The slots of a variable in fewer bits, as they lie in memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from reference.float8 import Blocks, Guard, Scales, decoded, encode_all
from reference.random_rounding import (
    bfloat16_at_random,
    bfloat16_nearest,
    bits_of,
    first_tiles,
    random_bits,
    widened,
)
from reference.rule import Array

BLOCK = 64
"""Elements that share a scale."""

SMALLEST_FLOAT8 = 4096
"""Smaller variables keep their slots, unless they are named."""

FINE, SPECIAL = 0x4000, 0x8000


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
