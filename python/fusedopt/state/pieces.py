"""Arrays of which an optimizer keeps a piece."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fusedopt.arrays import Array


class Piece(NamedTuple):
    """Where a piece lies in the whole array."""

    shape: tuple[int, ...]  # of the whole array
    begin: int  # the element of it, in C order, with which the piece begins
    own_shape: tuple[int, ...]  # of the piece, if it is numbers and not codes

    def whole(self, piece: Array) -> Array:
        """Return an array of the whole one's type and shape that takes no memory."""
        return np.broadcast_to(np.empty((), piece.dtype), self.shape)
