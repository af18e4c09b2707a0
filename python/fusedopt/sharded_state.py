"""The state of ranks: what of it is whose, and how it is put together on one of them."""

from __future__ import annotations

import json
from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from fusedopt import communicators
from fusedopt.arrays import Array
from fusedopt.communicators import Communicator
from fusedopt.files.names import Name, scales_of
from fusedopt.state.pieces import Piece

Borders = Mapping[str, Sequence[int]]
"""By the name of an array of the state, where the elements of each rank begin, and where those of the last one end."""


class Shapes(NamedTuple):
    """Those of a variable, and of the piece of it that a rank has."""

    whole: tuple[int, ...]
    own: tuple[int, ...]


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
    communicator: Communicator,
    own: Sequence[tuple[str, Array]],
    shapes: Mapping[str, Shapes],
) -> dict[str, Piece]:
    """Tell where the own pieces of the state lie in the whole. `shapes` are by the names of variables.

    If a variable is cut, its arrays have its shape, or are codes and their scales. If it is not, they have their shapes
    where it is. If an array has no elements, it has its shape on rank 0.
    """
    arrays = [(name, piece, shapes[Name.of(name).variable]) for name, piece in own if piece.ndim]
    texts = communicators.texts(communicator, json.dumps(_shapes_here(arrays)))
    uncut, rests, empty = (
        dict(ChainMap(*found)) for found in zip(*map(json.loads, texts), strict=True)
    )
    ends = borders(communicator, own)
    result = {}
    for name, piece, of_variable in arrays:
        count, shape = ends[name][-1], of_variable.whole
        if count == 0:
            shape = empty[name]
        elif name in uncut:
            shape = uncut[name]
        elif name in rests:
            shape = (count // prod(rests[name]), *rests[name])
        begin = ends[name][communicator.rank]
        own_shape = of_variable.own if piece.dtype == np.uint8 else piece.shape
        result[name] = Piece(tuple(shape), begin, own_shape)
    return result


def _shapes_here(arrays: Sequence[tuple[str, Array, Shapes]]) -> list[dict[str, tuple[int, ...]]]:
    """Return what a rank knows: shapes of what is not cut, of codes but for their length, and of what is empty."""
    codes = {name for name, piece, _ in arrays if piece.dtype == np.uint8}
    codes |= {scales_of(name) for name in codes}
    uncut, rests, empty = {}, {}, {}
    for name, piece, of_variable in arrays:
        if piece.size == 0:
            empty[name] = piece.shape
        elif of_variable.own == of_variable.whole:
            uncut[name] = piece.shape
        elif name in codes:
            rests[name] = piece.shape[1:]
    return [uncut, rests, empty]


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
