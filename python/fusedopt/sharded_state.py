"""The state of ranks, put together on one of them and taken apart again."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fusedopt import communicators
from fusedopt.arrays import Array
from fusedopt.communicators import Communicator

Borders = Mapping[str, Sequence[int]]
"""By the name of an array of the state, where the elements of each rank begin, and where those of the last one end."""


def borders(communicator: Communicator, own: Sequence[tuple[str, Array]]) -> Borders:
    """Ask all ranks how much they have of each array. What a rank has lies behind what the ranks before it have."""
    sizes = np.array([piece.size for _, piece in own], np.int64)
    found = np.empty((communicator.size, sizes.size), np.int64)
    counts = [sizes.nbytes] * communicator.size
    communicators.wait_for(
        communicator.allgatherv(sizes.view(np.uint8), found.reshape(-1).view(np.uint8), counts)
    )
    ends = np.cumsum(found, axis=0).T.tolist()
    return {name: [0, *of_ranks] for (name, _), of_ranks in zip(own, ends, strict=True)}


def gather(
    communicator: Communicator,
    own: Iterable[tuple[str, Array]],
    borders: Borders,
    whole: Mapping[str, Array],
) -> None:
    """Fill arrays on rank 0 with the pieces of all ranks. Other ranks give an empty mapping."""
    for name, piece in own:
        target = whole.get(name)
        if piece.ndim == 0:  # a number of the whole optimizer, the same on all ranks
            if target is not None:
                target[...] = piece
            continue
        counts = (np.diff(borders[name]) * piece.itemsize).tolist()
        found = communicators.to_first(communicator, piece.reshape(-1).view(np.uint8), counts)
        if target is not None:
            target[...] = found.view(piece.dtype).reshape(target.shape)


def pieces(
    rank: int, own: Iterable[tuple[str, Array]], borders: Borders, whole: Sequence[Array]
) -> list[Array]:
    """Return what a rank keeps of the arrays of the whole state."""
    kept = []
    for (name, piece), array in zip(own, whole, strict=True):
        if piece.ndim == 0:
            kept.append(array)
            continue
        begin, end = borders[name][rank : rank + 2]
        kept.append(array.reshape(-1)[begin:end].reshape(piece.shape))
    return kept


def checksum(arrays: Iterable[Array]) -> int:
    """Return a number that differs if a bit of the arrays does."""
    found = 0
    for array in arrays:
        found = zlib.crc32(array.reshape(-1).view(np.uint8).data, found)
    return found
