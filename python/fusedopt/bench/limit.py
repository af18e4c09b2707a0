"""The limit: the plainest loop that moves the bytes a step must move, on the same threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

import fusedopt as fo
from fusedopt.bench.workload import (
    FLOAT_BYTES,
    STAGGER,
    Array,
    Step,
    Workload,
    fill,
    kept_by,
    noise_of,
    squarest,
    touch,
)
from fusedopt.runtime import _core

VARIABLE = "variable"
# So many elements of a variable are moved before as many of its codes: few, because a step takes them together.
PIECE = 2**14
# With slots of fewer bits, variables of fewer elements keep float32.
FEWEST_CODED = 2**12

Sweep = tuple[list[int], list[int]]
"""The positions of the arrays that are updated and of those that are only read."""


@dataclass(frozen=True)
class Layout:
    """The arrays of a step that have something for each element of its variables, by position."""

    state: list[str]
    """The names of the variable and then of all that is kept for it; a name's place is the position. The codes and the
    scales of a slot have its name."""
    is_matrix: bool
    is_coded: bool = False

    @property
    def gradient(self) -> int:
        """Its position: after all state."""
        return len(self.state)

    def named(self, *names: str) -> list[int]:
        """The positions of some state."""
        return [position for position, name in enumerate(self.state) if name in names]

    def others(self, *names: str) -> list[int]:
        """The positions of all other state."""
        return [position for position, name in enumerate(self.state) if name not in names]


# How the sweeps of a step go that is not one sweep over everything. None: time is spent on arithmetic, and
# there is no limit to compare with.


def _one_sweep(arrays: Layout) -> list[Sweep]:
    return [(arrays.others(), [arrays.gradient])]


def _trust_ratio(arrays: Layout) -> list[Sweep]:
    """First the two moments move and the norms are taken, then the rest moves."""
    if arrays.is_coded:
        return _codes_last(arrays)
    moments = arrays.named("momentum", "velocity")
    rest = arrays.others("momentum", "velocity")
    return [(moments, [*arrays.named(VARIABLE), arrays.gradient]), (rest, moments)]


def _codes_last(arrays: Layout) -> list[Sweep]:
    """First everything is read for the norms, then everything moves."""
    measured = arrays.named(VARIABLE, "momentum", "velocity")
    return [([], [*measured, arrays.gradient]), (arrays.others(), [arrays.gradient])]


def _factored(arrays: Layout) -> list[Sweep]:
    """Means of rows and columns and the variable's norm; the update's norm; the update.

    Means are nothing next to a matrix, and its velocity, which they replace, is not touched. A vector
    has a velocity and no means.
    """
    gradient, variable = [arrays.gradient], arrays.named(VARIABLE)
    velocity, rest = arrays.named("velocity"), arrays.others("velocity")
    if arrays.is_matrix:
        return [([], variable + gradient), ([], gradient), (rest, gradient)]
    if arrays.is_coded:
        return _codes_last(arrays)
    return [(velocity, variable + gradient), (rest, velocity + gradient)]


def _matrix_products(arrays: Layout) -> list[Sweep] | None:
    return None if arrays.is_matrix else _one_sweep(arrays)


SWEEPS: dict[str, Callable[[Layout], list[Sweep] | None]] = {
    "Lamb": _trust_ratio,
    "Adafactor": _factored,
    "Muon": _matrix_products,
}


@dataclass(frozen=True)
class Traffic:
    """What a step moves."""

    widths: list[float]
    """Bytes per element: of the variable, of each array that is kept for it, and of the gradient."""
    sweeps: list[Sweep] | None

    @property
    def kept(self) -> float:
        """Bytes per element of all that is kept for a variable."""
        return sum(self.widths[1:-1])

    @property
    def bytes(self) -> float | None:
        """Per element; None if the bytes are no limit."""
        if self.sweeps is None:
            return None
        moved = [
            position for updated, read in self.sweeps for position in (*updated, *updated, *read)
        ]
        return sum(self.widths[position] for position in moved)


def traffic_of(workload: Workload) -> Traffic:
    """Count the arrays that an optimizer keeps for a variable and the sweeps over them."""
    layout, widths = layout_of(workload)
    sweeps = SWEEPS.get(workload.rule, _one_sweep)(layout)
    if sweeps is not None and workload.reads_gradients_first:
        sweeps = [([], [layout.gradient]), *sweeps]
    return Traffic([*widths, workload.gradient_bytes], sweeps)


def layout_of(workload: Workload) -> tuple[Layout, list[float]]:
    """Name the arrays that an optimizer keeps for each element, and count the bytes of each per element."""
    is_matrix = any(len(shape) > 1 for shape in workload.shapes)
    optimizer, variable = _built(workload, is_matrix)
    kept = [(name, array) for name, array in kept_by(optimizer) if has_elements(array, variable)]
    names = [name.partition("/")[0].removesuffix("_scale") for name, _ in kept]
    widths = [array.nbytes / variable.size for array in (variable, *(array for _, array in kept))]
    is_coded = any(array.dtype.kind == "u" for _, array in kept)
    return Layout([VARIABLE, *names], is_matrix, is_coded), widths


def has_elements(kept: Array, variable: Array) -> bool:
    """Whether something is kept for each element. Codes and their scales are unsigned numbers."""
    return kept.shape == variable.shape or kept.dtype.kind == "u"


def slots_of(workload: Workload) -> list[str]:
    """Name the state that a rule keeps for a matrix."""
    optimizer, _ = _built(workload, is_matrix=True)
    named = optimizer.named_variables().items()
    return [name.partition("/")[0] for name, array in named if array.ndim]


def _built(workload: Workload, is_matrix: bool) -> tuple[fo.Optimizer, Array]:
    optimizer = workload.rule_optimizer()
    variable = np.ones(squarest(FEWEST_CODED) if is_matrix else FEWEST_CODED, workload.dtype)
    optimizer.build({VARIABLE: variable})
    return optimizer, variable


def limit_step(traffic: Traffic, tensors: Sequence[Sequence[Array]]) -> Step | None:
    """Make the loop over the state and gradient of each tensor, whose values stay; None if there is no limit."""
    if traffic.sweeps is None:
        return None
    calls = [
        _core.PlainLoop(
            [
                part
                for arrays in tensors
                for part in _parts([arrays[i] for i in updated], [arrays[i] for i in read])
            ]
        )
        if updated
        else reading_loop(arrays[i] for arrays in tensors for i in read)
        for updated, read in traffic.sweeps
    ]
    if len(calls) == 1:
        return calls[0]

    def step() -> None:
        for call in calls:
            call()

    return step


def _parts(updated: list[Array], read: list[Array]) -> Iterator[tuple[list[Array], list[Array]]]:
    """Yield what a loop moves, in its order.

    Codes have fewer bytes than their variable, so no loop over elements moves both. They are moved as words, a piece
    after each piece of the variable.
    """
    arrays = [*updated, *read]
    if all(array.dtype.kind == "f" for array in arrays):
        yield updated, read
        return
    count = -(-max(array.size for array in arrays) // PIECE)
    cut = [[np.array_split(_as(np.uint32, a), count) for a in some] for some in (updated, read)]
    for number in range(count):
        pieces = [[array[number] for array in some] for some in cut]
        for size in dict.fromkeys(piece.size for some in pieces for piece in some):
            written, seen = ([piece for piece in some if piece.size == size] for some in pieces)
            yield written, seen


def reading_loop(arrays: Iterable[Array]) -> Step:
    """Make the plainest loop that reads the memory of arrays, as float32 whatever it holds."""
    return _core.PlainLoop([([], [_as(np.float32, array)]) for array in arrays])


def _as(dtype: type[np.float32 | np.uint32], array: Array) -> Array:
    """See memory as numbers of 32 bits; a last element of fewer bits may be left out."""
    flat = array.reshape(-1)
    return flat[: flat.nbytes // FLOAT_BYTES * FLOAT_BYTES // flat.itemsize].view(dtype)


def staggered(count: int, elements: int) -> list[npt.NDArray[np.float32]]:
    """Cut arrays out of one block, so that no two of them begin at the same place of a page.

    They hold ordinary numbers: large arrays of zeros are moved somewhat faster.
    """
    distance = elements + STAGGER // FLOAT_BYTES
    block = np.empty(count * distance, np.float32)
    arrays = [block[i * distance : i * distance + elements] for i in range(count)]
    noise = noise_of(seed=3)
    for array in arrays:
        touch(array)
        fill(array, noise)
    return arrays
