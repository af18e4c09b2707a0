"""The state of ranks: what of it is whose, and how it is put together on one of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from math import prod

import numpy as np

from fusedopt import communicators
from fusedopt.arrays import Array
from fusedopt.communicators import Communicator
from fusedopt.files.names import Name
from fusedopt.state.pieces import Piece

Borders = Mapping[str, Sequence[int]]
"""By the name of an array of the state, where the elements of each rank begin, and where those of the last one end."""


def borders(communicator: Communicator, own: Sequence[tuple[str, Array]]) -> Borders:
    """Ask all ranks how much they have of each array. What a rank has lies behind what the ranks before it have."""
    sizes = np.array([piece.size for _, piece in own], np.int64)
    found = np.empty((communicator.size, sizes.size), np.int64)
    counts = [sizes.nbytes] * communicator.size
    communicator.allgatherv(sizes.view(np.uint8), found.reshape(-1).view(np.uint8), counts)
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
    communicator: Communicator,
    own: Sequence[tuple[str, Array]],
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, Piece]:
    """Tell where the own pieces of the state lie in the whole. `shapes` are those of the variables, by name.

    Pieces of one dimension are taken for the elements of a variable, if all of them together have as many. Otherwise
    the whole is as long as they are, one after the other. Of an array without elements, or with a length of 1, this may
    be another shape of the same elements.
    """
    ends = borders(communicator, own)
    inner: dict[str, list[int]] = {}
    text = json.dumps({name: p.shape[1:] for name, p in own if p.size > 0 and p.ndim > 1})
    for found in communicators.texts(communicator, text):
        inner |= json.loads(found)
    result = {}
    for name, piece in own:
        if piece.ndim == 0:  # a number of the whole optimizer
            continue
        shape, count = shapes[Name.of(name).variable], ends[name][-1]
        if name in inner or count != prod(shape):
            rest = inner.get(name, [])
            shape = (count // prod(rest), *rest)
        result[name] = Piece(shape, ends[name][communicator.rank])
    return result


def share(
    communicator: Communicator, variables: Sequence[tuple[str, Array]]
) -> list[tuple[str, Array, int]]:
    """Return what this rank writes of variables that all ranks have, and with which element each piece begins."""
    rank, size = communicator.rank, communicator.size
    total, position = sum(array.size for _, array in variables), 0
    own = []
    for name, array in variables:
        begin = max(total * rank // size - position, 0)
        end = min(total * (rank + 1) // size - position, array.size)
        position += array.size
        if begin < end:
            own.append((name, array.reshape(-1)[begin:end], begin))
    return own
